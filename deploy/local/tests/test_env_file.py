"""The file .env: made, completed, never overwritten."""

from pathlib import Path

import pytest

from taskflow.api_key import parse
from taskflow_local import env_file
from taskflow_local.errors import StackError

TEMPLATE = """\
# Settings.

# The key.
TASKFLOW_API_KEY=
TASKFLOW_REDIS_PASSWORD=

# Where Redis listens.
TASKFLOW_REDIS_PORT=6379
TASKFLOW_REDIS_URL=redis://:${TASKFLOW_REDIS_PASSWORD}@127.0.0.1:${TASKFLOW_REDIS_PORT}/0
# TASKFLOW_CONCURRENCY=10
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / ".env.example"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_the_first_run_writes_a_private_file_with_secrets(path: Path, template: Path) -> None:
    notes = env_file.prepare(path, template, {})
    assert notes == [".env: written, with new secrets"]
    assert path.stat().st_mode & 0o777 == 0o600
    values = env_file.read(path)
    parse(values["TASKFLOW_API_KEY"])
    password = values["TASKFLOW_REDIS_PASSWORD"]
    assert len(password) == 32
    assert values["TASKFLOW_REDIS_URL"] == f"redis://:{password}@127.0.0.1:6379/0"
    assert "TASKFLOW_CONCURRENCY" not in values
    assert "# Where Redis listens.\n" in path.read_text()


def test_two_files_have_different_secrets(tmp_path: Path, template: Path) -> None:
    for name in ("one", "two"):
        env_file.prepare(tmp_path / name, template, {})
    one, two = (env_file.read(tmp_path / name) for name in ("one", "two"))
    assert one["TASKFLOW_REDIS_PASSWORD"] != two["TASKFLOW_REDIS_PASSWORD"]
    assert one["TASKFLOW_API_KEY"] != two["TASKFLOW_API_KEY"]


def test_the_second_run_changes_nothing(path: Path, template: Path) -> None:
    env_file.prepare(path, template, {})
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert env_file.prepare(path, template, {}) == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_what_is_missing_is_added_and_the_rest_kept(path: Path, template: Path) -> None:
    path.write_text("export TASKFLOW_REDIS_PASSWORD='own words'  # mine\nOTHER=1")
    notes = env_file.prepare(path, template, {})
    assert notes == [
        ".env: added TASKFLOW_API_KEY, TASKFLOW_REDIS_PORT, TASKFLOW_REDIS_URL",
    ]
    text = path.read_text()
    assert text.startswith("export TASKFLOW_REDIS_PASSWORD='own words'  # mine\nOTHER=1\n")
    assert "# Where Redis listens.\nTASKFLOW_REDIS_PORT=6379\n" in text
    assert env_file.read(path)["TASKFLOW_REDIS_PASSWORD"] == "own words"


def test_a_copy_of_the_example_gets_its_secrets(path: Path, template: Path) -> None:
    path.write_text(TEMPLATE)
    env_file.prepare(path, template, {})
    assert all(env_file.read(path).values())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().count("# The key.") == 1


def test_a_port_of_the_environment_wins_and_is_written(path: Path, template: Path) -> None:
    env_file.prepare(path, template, {})
    environment = {"TASKFLOW_REDIS_PORT": "7000", "TASKFLOW_REDIS_PASSWORD": "ignored"}
    assert env_file.moved_ports(path, environment) == {"TASKFLOW_REDIS_PORT": "7000"}
    notes = env_file.prepare(path, template, environment)
    assert notes == [".env: TASKFLOW_REDIS_PORT=7000, as the environment says"]
    values = env_file.read(path)
    assert values["TASKFLOW_REDIS_URL"].endswith("@127.0.0.1:7000/0")
    assert values["TASKFLOW_REDIS_PASSWORD"] != "ignored"
    assert env_file.moved_ports(path, environment) == {}


def test_without_a_file_no_port_has_moved(path: Path) -> None:
    assert env_file.moved_ports(path, {"TASKFLOW_REDIS_PORT": "7000"}) == {}


@pytest.mark.parametrize(
    ("line", "number"), [("oops", 3), ("\n\noops", 5), ("A B=1", 3), ("'A=1", 3)]
)
def test_a_line_that_cannot_be_read_is_named(path: Path, line: str, number: int) -> None:
    path.write_text(f"A=1\n# fine\n{line}\n")
    with pytest.raises(StackError, match=rf"^\.env, line {number}: not of the form NAME=value$"):
        env_file.read(path)


def test_text_in_another_encoding_is_refused(path: Path, template: Path) -> None:
    path.write_bytes(b"A=\xff\n")
    with pytest.raises(StackError, match="not UTF-8"):
        env_file.prepare(path, template, {})


def test_a_missing_file_is_named_with_what_writes_it(path: Path) -> None:
    with pytest.raises(StackError, match="make up"):
        env_file.read(path)
