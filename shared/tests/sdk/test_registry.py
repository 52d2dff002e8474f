"""Collecting job types from modules, and what stops a consumer at its start."""

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskflow import Registry, job
from taskflow.errors import ConfigurationError
from taskflow.sdk.registry import find_job_type

WriteModule = Callable[[str, str], str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write a module and give its name; it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name: str, text: str) -> str:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        written.append(name)
        importlib.invalidate_caches()
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
        sys.modules.pop(name.split(".")[0], None)


def test_jobs_are_collected_from_every_module(write_module: WriteModule) -> None:
    first = write_module(
        "sample_first",
        """
        from taskflow import job

        @job("b.one", queue="media")
        def one(): ...

        @job("a.two")
        async def two(): ...

        not_a_job = 5
        """,
    )
    second = write_module(
        "sample_second",
        """
        from __future__ import annotations
        from pydantic import BaseModel
        from taskflow import job, JobContext

        class Payload(BaseModel):
            x: int

        @job("c.three")
        def three(payload: Payload, ctx: JobContext) -> None: ...
        """,
    )
    registry = Registry.from_modules([first, second])
    assert registry.names == ("a.two", "b.one", "c.three")
    assert len(registry) == 3
    assert registry["b.one"].queue == "media"
    assert "c.three" in registry
    assert "c.four" not in registry
    assert {job_type.name for job_type in registry} == set(registry.names)
    assert registry.module_of("c.three") == "sample_second"
    assert registry["c.three"].payload_schema["required"] == ["x"]
    with pytest.raises(KeyError):
        registry["c.four"]


def test_a_package_may_gather_the_jobs_of_its_modules(write_module: WriteModule) -> None:
    write_module(
        "sample_inner",
        """
        from taskflow import job

        @job("inner", isolation="process")
        def inner(): ...
        """,
    )
    outer = write_module("sample_outer", "from sample_inner import inner, inner as alias")
    registry = Registry.from_modules([outer, "sample_inner", outer])
    assert registry.names == ("inner",)
    for module in ("sample_outer", "sample_inner", registry.module_of("inner")):
        assert find_job_type(module, "inner") is registry["inner"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "'sample_bad' can't be imported: ModuleNotFoundError: No module named 'sample_bad'"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def broken(:", "'sample_bad' can't be imported: SyntaxError: "),
        ("1 / 0", "'sample_bad' can't be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "'sample_bad' can't be imported: SystemExit: 3"),
        ("raise OSError('two\\nlines')", "can't be imported: OSError: two lines"),
        ("x = 1", "'sample_bad' defines no job: decorate a function of it"),
        (
            "from taskflow import job\n@job('x')\ndef work(a, b, c): ...",
            "'sample_bad': sample_bad.work: a handler takes (), (payload)",
        ),
        (
            "from taskflow import job\n@job('x y')\ndef work(): ...",
            "'sample_bad': sample_bad.work: 'x y' is not a job type's name",
        ),
        (
            "from taskflow import job\n@job('x')\ndef one(): ...\n@job('x')\ndef two(): ...",
            "The job type 'x' is defined twice: by sample_bad.one and by sample_bad.two.",
        ),
    ],
)
def test_what_is_wrong_with_a_module_is_one_clear_line(
    write_module: WriteModule, text: str | None, said: str
) -> None:
    if text is not None:
        write_module("sample_bad", text)
    with pytest.raises(ConfigurationError) as refused:
        Registry.from_modules(["sample_bad"])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", ".relative", "no.such.module"])
def test_an_odd_name_of_a_module_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be imported"):
        Registry.from_modules([name])


def test_two_modules_may_not_claim_one_name(write_module: WriteModule) -> None:
    text = "from taskflow import job\n@job('same')\ndef work(): ..."
    modules = [write_module("sample_left", text), write_module("sample_right", text)]
    with pytest.raises(ConfigurationError) as refused:
        Registry.from_modules(modules)
    assert "by sample_left.work and by sample_right.work" in str(refused.value)


def test_job_types_can_be_registered_without_a_module() -> None:
    @job("local")
    def local() -> None: ...

    registry = Registry([local.job_type, local.job_type])
    assert registry.names == ("local",)


def test_an_isolated_job_must_be_importable_by_name() -> None:
    @job("hidden", isolation="process")
    def hidden() -> None: ...

    with pytest.raises(ConfigurationError) as refused:
        Registry([hidden.job_type])
    assert "hidden: with isolation='process' the function must be at the top level" in str(
        refused.value
    )


def test_importing_the_sdk_brings_in_no_client_of_any_server() -> None:
    listing = subprocess.run(
        [sys.executable, "-c", "import taskflow, sys; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    roots = {name.partition(".")[0] for name in listing.stdout.split()}
    heavy = {"asyncpg", "aio_pika", "aiormq", "minio", "urllib3", "sqlalchemy", "fastapi", "redis"}
    assert "pydantic" in roots
    assert roots & (heavy | {"structlog", "taskflow_consumer"}) == set()
