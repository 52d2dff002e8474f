"""An executor's harness, which leaves nothing behind."""

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from taskflow.sdk.registry import Registry

from .harness import Declare, Harness, as_async, as_def


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    harness.recorder.gate.set()
    for executor in harness.executors:
        await executor.drain(0, 2)


@pytest.fixture
def isolated_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Jobs of a module that another process can import by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "importable")
    yield Registry.from_modules(["isolated_sample_jobs"])
    importlib.invalidate_caches()
    sys.modules.pop("isolated_sample_jobs", None)


@pytest.fixture(params=[as_async, as_def], ids=["async def", "def"])
def declare(request: pytest.FixtureRequest) -> Declare:
    """Make a job of a function, in either flavour."""
    declared: Declare = request.param
    return declared
