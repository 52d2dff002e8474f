"""The tools beneath, run as processes of their own."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskflow_audit.verdict import AuditBroke


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tool ended and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def last_word(self) -> str:
        """The last line of its errors, which is what a traceback ends with."""
        return (self.errors.strip().splitlines() or [f"exit code {self.code}"])[-1]


def run_module(module: str, arguments: Sequence[str], folder: Path) -> Ended:
    """Run `python -m module` to its end."""
    return _run([sys.executable, "-m", module, *arguments], folder)


def export_lock(checkout: Path, arguments: Sequence[str]) -> str:
    """What uv.lock holds, as requirements with hashes.

    Raises:
        AuditBroke: there is no uv, or it refuses.
    """
    # Where there is one of ours, the machine's is too old.
    uv = shutil.which(checkout / ".taskflow" / "uv" / "bin" / "uv") or shutil.which("uv")
    if uv is None:
        raise AuditBroke("there is no uv here; `make install` gets one")
    fixed = ["export", "--quiet", "--frozen", "--no-emit-workspace", "--no-header", "--no-annotate"]
    ended = _run([uv, *fixed, *arguments], checkout)
    if ended.code:
        raise AuditBroke(f"uv export: {ended.last_word}")
    return ended.output


def _run(command: Sequence[str], folder: Path) -> Ended:
    done = subprocess.run(  # noqa: S603  (argument lists of ours, and no shell)
        command, cwd=folder, check=False, capture_output=True, text=True
    )
    return Ended(done.returncode, done.stdout, done.stderr)
