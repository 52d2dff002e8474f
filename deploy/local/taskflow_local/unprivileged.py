"""How root starts a program that refuses to run as root."""

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from taskflow_local.errors import StackError

# Every Debian and Ubuntu has this account, so nothing need be added to the machine.
_ACCOUNT = "nobody"


@dataclass(frozen=True)
class Identity:
    """Who runs a program, and the words before its command line (none for an ordinary user)."""

    uid: int
    gid: int
    prefix: tuple[str, ...]

    def own(self, path: Path) -> None:
        """Give a file or directory (not what is below it) to this identity."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


def identity_for(paths: Iterable[Path]) -> Identity:
    """An identity that is not root and reaches every one of `paths`.

    Raises:
        StackError: we are root, and setpriv is missing.
    """
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), ())
    account = pwd.getpwnam(_ACCOUNT)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "setpriv is missing (package util-linux): PostgreSQL refuses to run as root"
        )
    prefix = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    if not all(_is_reachable_by_others(path) for path in paths):
        # A checkout below /root (mode 700) is out of reach for any other account, and neither
        # moving the data away nor opening /root is ours to decide. This one capability lets the
        # process through closed directories; PostgreSQL minds the user id alone. Without the
        # secure bit access(2), by which initdb looks for its binaries, would leave it out.
        prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        prefix += ["--securebits=+no_setuid_fixup"]
    return Identity(account.pw_uid, account.pw_gid, tuple(prefix))


def _is_reachable_by_others(path: Path) -> bool:
    folders = [folder for folder in path.resolve().parents if folder.exists()]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)
