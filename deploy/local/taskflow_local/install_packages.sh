#!/bin/sh
# Install Debian packages without letting their system services start, now or at boot.
# Run as root, with packages that are not installed: install_packages.sh PACKAGE...
#
# Their own copies under .taskflow are started by `make up`; a service started by the package
# would hold the very ports. Services that were on the machine before are never touched.
set -eu

policy=/usr/sbin/policy-rc.d
saved=$policy.before-taskflow
ours='# For the time of one installation by TaskFlow.'

restore() {
    rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then mv "$saved" "$policy"; fi
}

# An earlier run that was killed may have left its own.
if grep -qs "$ours" "$policy"; then restore; fi

if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$saved"; fi
trap restore EXIT
trap 'exit 130' HUP INT TERM
# 101: "action forbidden by policy", which packages take for an order not to start their service.
printf '#!/bin/sh\n%s\nexit 101\n' "$ours" > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
wait_for_others='-o DPkg::Lock::Timeout=300'
# shellcheck disable=SC2086
apt-get $wait_for_others -qq update
# shellcheck disable=SC2086
apt-get $wait_for_others -qq install --yes --no-install-recommends "$@"

for package in "$@"; do
    for unit in $(dpkg-query -L "$package" | sed -n 's,^.*/systemd/system/\([^/]*\.\(service\|socket\)\)$,\1,p'); do
        case $unit in *@.service) continue ;; esac
        if command -v systemctl > /dev/null; then systemctl disable --quiet "$unit" || true; fi
    done
    for script in $(dpkg-query -L "$package" | sed -n 's,^/etc/init\.d/\([^/]*\)$,\1,p'); do
        if command -v update-rc.d > /dev/null; then update-rc.d "$script" disable > /dev/null || true; fi
    done
done
