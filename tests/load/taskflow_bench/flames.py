"""`python -m taskflow_bench.flames` in a checkout: what `make flames` calls.

py-spy looks at the stacks of the API while it accepts, and of the worker while it drains, and draws
what it saw as flame graphs (https://github.com/benfred/py-spy).
"""

import asyncio
import contextlib
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

from taskflow_bench.arena import open_arena
from taskflow_bench.cast import on_stage
from taskflow_bench.errors import BenchBroke
from taskflow_bench.measuring import Effort, Measuring
from taskflow_bench.more.crew import PATIENT, Crew
from taskflow_bench.more.experiment import OURS
from taskflow_bench.running import cancel_on_signals, carry_out, run_folder, say

FOLDER = Path("docs") / "flames"
_EFFORT = Effort(jobs=60_000, seconds=20.0)
_API_SECONDS, _WORKER_SECONDS = 10, 6
_LOOKS_PER_SECOND = 200


def main() -> int:
    """Draw both; 0 unless something fails."""
    return carry_out(lambda: _draw(Path.cwd().resolve()))


async def _draw(checkout: Path) -> None:
    cancel_on_signals()
    async with (
        run_folder(checkout, "flames") as folder,
        open_arena(folder, checkout) as arena,
        on_stage(arena, OURS, "flames", PATIENT) as cast,
    ):
        measuring, crew = Measuring(arena, cast, _EFFORT), Crew(cast)
        await measuring.warm_up()
        await crew.stop()
        async with _watched(cast.pids["api"], _API_SECONDS, checkout, "api"):
            sent, _ = await measuring.accept()
        async with crew.held_back():
            await crew.start()
        async with _watched(cast.pids["worker"], _WORKER_SECONDS, checkout, "worker"):
            await measuring.until_done(sent.began, sent.accepted)


@contextlib.asynccontextmanager
async def _watched(pid: int, seconds: int, checkout: Path, name: str) -> AsyncIterator[None]:
    """Draw what a process does in the first seconds of the block."""
    target = checkout / FOLDER / f"{name}.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("py-spy"),
        *("record", "--pid", str(pid), "--duration", str(seconds), "--format", "flamegraph"),
        *("--rate", str(_LOOKS_PER_SECOND), "--output", target),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        hint = "It has to be allowed to look at other processes: root is, and who may ptrace."
        raise BenchBroke(f"py-spy: {said.decode(errors='replace').strip()}\n{hint}")
    target.write_text(without_places(target.read_text(), checkout))
    say(f"wrote {target.relative_to(checkout)}")


def without_places(drawing: str, checkout: Path) -> str:
    """The drawing without where this machine has its files."""
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    for place in (*sorted(libraries, key=len, reverse=True), str(checkout)):
        drawing = drawing.replace(f"{place}/", "")
    return drawing


if __name__ == "__main__":
    sys.exit(main())
