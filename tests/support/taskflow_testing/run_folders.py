"""The folder of a run that has servers of its own; what a killed run has left in its own goes."""

import os
import shutil
import subprocess
from pathlib import Path

from taskflow_local.leftovers import end_leftovers
from taskflow_local.processes import is_alive


def new_run_folder(runs: Path, name: str) -> Path:
    """An empty folder `<name>-<pid>` below `runs`; those whose processes ended are deleted."""
    for path in runs.glob(f"{name}-*"):
        owner = path.name.rpartition("-")[2]
        if owner.isdigit() and not is_alive(int(owner)):
            end_leftovers(path)
            unmount_below(path)
            shutil.rmtree(path, ignore_errors=True)
    folder = runs / f"{name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def unmount_below(folder: Path) -> None:
    """Unmount whatever is mounted at or below a folder; usually nothing."""
    real = folder.resolve()
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        mount_point = Path(line.split()[4])
        if mount_point.is_relative_to(real):
            # Lazily: a process that still has its working directory there must not hold it up.
            subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
