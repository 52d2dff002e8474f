#!/bin/sh
# Make .venv as uv.lock says: find Python, get uv, `uv sync`. What is given is passed on to it.
# Needs a POSIX shell, and Python 3.11 or later; as root or with sudo it installs python3-venv
# where a Debian or Ubuntu has left that out.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$root"
own_uv=.taskflow/uv
# Whose lock file this is; an older uv may take it for out of date.
oldest_uv=0.9

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Settings of the caller's that are meant for other environments would lead uv and pip astray;
# those that say where packages come from (indexes, proxies, certificates, caches) stay.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH UV_PYTHON UV_SYSTEM_PYTHON UV_FROZEN UV_LOCKED UV_NO_SYNC \
    UV_NO_DEV UV_NO_DEFAULT_GROUPS UV_NO_GROUP UV_PROJECT UV_WORKING_DIRECTORY UV_WORKING_DIR \
    UV_NO_EDITABLE UV_ISOLATED UV_TARGET UV_PREFIX UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE_NEWER \
    UV_RESOLUTION UV_PRERELEASE UV_UPGRADE UV_NO_BUILD_ISOLATION UV_MANAGED_PYTHON \
    UV_PYTHON_PREFERENCE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT \
    PIP_REQUIRE_HASHES PIP_NO_DEPS PIP_PYTHON PIP_DRY_RUN PIP_REPORT 2> /dev/null || true
# Compiled once, here: else each start of a service compiles a thousand modules where a machine has
# PYTHONDONTWRITEBYTECODE set, as container images do, and takes twice as long.
export UV_PROJECT_ENVIRONMENT="$root/.venv" UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1
# Where the machine has its own list of authorities, a company's may be among them.
if [ -s /etc/ssl/certs/ca-certificates.crt ] && [ -z "${UV_SYSTEM_CERTS:-}${UV_NATIVE_TLS:-}" ]; then
    export UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1
fi
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# Whether a Python really runs (a pyenv shim may not), is whole, and is at least 3.$2.
is_fit() {
    "$1" -c "import sys, ssl, zlib, ctypes, sqlite3; sys.exit(sys.version_info < (3, $2))" \
        > /dev/null 2>&1
}

# Print the Python to use: 3.13 or later where there is one, else 3.11 or later.
find_python() {
    for minor in 13 14 15 16 12 11; do
        for candidate in "$(command -v "python3.$minor" || true)" \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3."$minor" \
            /usr/local/bin/python3."$minor"; do
            if [ -x "$candidate" ] && is_fit "$candidate" "$minor"; then
                printf '%s\n' "$candidate"
                return
            fi
        done
    done
    candidate=$(command -v python3 || true)
    if [ -n "$candidate" ] && is_fit "$candidate" 11; then printf '%s\n' "$candidate"; fi
}

# Whether a uv runs and is new enough.
is_new_enough() {
    found=$("$1" --version 2> /dev/null | sed -n 's/^uv \([0-9.]*\).*/\1/p')
    [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$oldest_uv" "$found" | sort -V | head -n 1)" = "$oldest_uv" ]
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null && { [ -t 0 ] || sudo -n true 2> /dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

# Install uv below .taskflow with pip; Debian leaves pip and venv out of its python3.
install_own_uv() {
    echo "installing uv into $own_uv"
    mkdir -p .taskflow
    rm -rf "$own_uv"
    if ! "$python" -m venv "$own_uv" > /dev/null 2>&1; then
        rm -rf "$own_uv"
        package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
        echo "installing $package (apt-get)"
        { as_root apt-get -qq update && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install --yes --no-install-recommends "$package"; } > .taskflow/apt.log 2>&1 || {
            cat .taskflow/apt.log >&2
            fail "$python has no venv, and $package could not be installed; install it, or uv, and try again"
        }
        "$python" -m venv "$own_uv"
    fi
    "$own_uv/bin/python" -m pip install --quiet "uv>=$oldest_uv" ||
        fail "pip could not install uv; its own words are above"
}

# Whether the caller has told uv to take packages from elsewhere than the lock file says.
has_own_index() {
    [ -n "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}${UV_FIND_LINKS:-}" ] ||
        grep -qsE '^ *(\[*index|extra-index|find-links)' \
            "${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml" /etc/uv/uv.toml
}

# `uv sync --locked` takes a lock file written for another index for out of date. So the very
# files that it names, by their hashes, come from the caller's index; then uv only adds ours.
install_from_own_index() {
    [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
    mkdir -p .taskflow
    "$uv" export --quiet --frozen --no-emit-workspace --output-file .taskflow/requirements.txt "$@"
    "$uv" pip install --quiet --python .venv/bin/python --require-hashes \
        --requirements .taskflow/requirements.txt
    "$uv" sync --quiet --frozen --inexact --python .venv/bin/python "$@"
}

python=$(find_python)
[ -n "$python" ] || fail "Python 3.11 or later is needed, and none was found on the PATH, in ~/.pyenv/versions or in /usr/local"

uv=$(command -v uv || true)
if [ -z "$uv" ] || ! is_new_enough "$uv"; then
    uv=$own_uv/bin/uv
    is_new_enough "$uv" || install_own_uv
fi

# An environment that was copied or moved here still points to where it came from.
stamp=.venv/.taskflow-installed
if [ -e "$stamp" ] && [ "$(cat "$stamp")" != "$root" ]; then rm -rf .venv; fi
# One that works is kept, whatever other Python there is by now.
if [ -x .venv/bin/python ] && is_fit .venv/bin/python 11; then python=.venv/bin/python; fi

if has_own_index; then
    install_from_own_index "$@"
else
    "$uv" sync --quiet --locked --inexact --python "$python" "$@"
fi
printf '%s' "$root" > "$stamp"
