"""deploy/docker/Dockerfile and .dockerignore against the workspace."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
DOCKERFILE = (CHECKOUT / "deploy" / "docker" / "Dockerfile").read_text()
IGNORED = [
    line
    for line in (CHECKOUT / ".dockerignore").read_text().splitlines()
    if line and not line.startswith("#")
]


def members() -> list[str]:
    workspace = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]
    found = [path for glob in workspace["members"] for path in CHECKOUT.glob(glob)]
    return sorted(
        str(path.relative_to(CHECKOUT)) for path in found if (path / "pyproject.toml").exists()
    )


def is_in_context(path: str) -> bool:
    """As Docker reads it: the last line that matches the path, or a folder above it, counts."""
    parts = Path(path).parts
    names = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    included = True
    for line in IGNORED:
        pattern = line.removeprefix("!")
        everywhere = pattern.removeprefix("**/")
        if any(
            (fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/"))
            or (pattern != everywhere and fnmatch.fnmatch(name.split("/")[-1], everywhere))
            for name in names
        ):
            included = line.startswith("!")
    return included


@pytest.mark.parametrize("member", members())
def test_the_lock_can_be_checked_against_every_member(member: str) -> None:
    assert re.search(rf"^COPY {member}/pyproject\.toml {member}/$", DOCKERFILE, re.MULTILINE)
    assert is_in_context(f"{member}/pyproject.toml")


def test_everything_that_is_copied_is_in_the_context() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (CHECKOUT / path).exists()
        assert is_in_context(path), path


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".taskflow/up/postgres/data/PG_VERSION",
        ".git/config",
        ".venv/bin/python",
        "shared/tests/unit/test_states.py",
        "services/api/tests/test_app.py",
        "shared/taskflow/__pycache__/errors.cpython-313.pyc",
        "services/.env",
        "deploy/local/taskflow_local/compose.py",
        "docs/decisions/0001.md",
    ],
)
def test_secrets_data_and_tests_are_not_in_the_context(path: str) -> None:
    assert not is_in_context(path)


def test_services_run_as_a_numbered_user_and_the_build_is_locked() -> None:
    runtime = DOCKERFILE.split(" AS runtime\n")[1]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", runtime, re.MULTILINE)
    assert runtime.count("USER ") == 1
    syncs = re.findall(r"uv sync (.*)", DOCKERFILE)
    assert len(syncs) == 8
    assert all(sync.startswith("--locked --no-dev ") for sync in syncs)


def test_it_builds_on_engines_without_a_newer_syntax() -> None:
    assert not DOCKERFILE.startswith("# syntax=")
    assert "--link" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
