"""The file .env.example against the settings that the processes read."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from taskflow import settings
from taskflow_local.stack_settings import StackSettings

CHECKOUT = Path(__file__).parents[3]
EXAMPLE = CHECKOUT / ".env.example"
COMPOSE_FILE = CHECKOUT / "deploy" / "compose.yaml"

PROCESSES: list[type[settings.Settings]] = [
    settings.MigrationSettings,
    settings.ApiSettings,
    settings.ConsumerSettings,
    settings.SchedulerSettings,
]


def entries() -> dict[str, str]:
    """Every setting, those that are commented out included: name to text."""
    lines = re.findall(r"^(?:# )?(TASKFLOW_[A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    names = [name for name, _ in lines]
    assert sorted(names) == sorted(set(names))
    return dict(lines)


def fields() -> dict[str, object]:
    """Every field of every process: variable to default."""
    found: dict[str, object] = {}
    for process in PROCESSES:
        for name, field in process.model_fields.items():
            found[f"TASKFLOW_{name.upper()}"] = field.default
    return found


@pytest.mark.parametrize("name", sorted(fields()))
def test_every_setting_is_in_the_example_with_its_default(name: str) -> None:
    default = fields()[name]
    assert name in entries()
    if default is PydanticUndefined or not str(default):
        return
    text = entries()[name]
    if isinstance(default, tuple):
        assert text == ",".join(map(str, default))
    elif isinstance(default, bool):
        assert text == str(default).lower()
    elif isinstance(default, int | float):
        assert float(text) == default
    else:
        assert text == str(default)


def test_every_setting_of_the_stack_is_in_the_example() -> None:
    stack = {f"TASKFLOW_{name.upper()}" for name in StackSettings.model_fields}
    assert stack <= set(entries())


def test_nothing_else_is_in_the_example() -> None:
    stack = {f"TASKFLOW_{name.upper()}" for name in StackSettings.model_fields}
    compose = set(re.findall(r"\$\{(TASKFLOW_[A-Z0-9_]+)", COMPOSE_FILE.read_text()))
    assert set(entries()) <= stack | compose | set(fields()) | {"TASKFLOW_STACK"}


@pytest.mark.parametrize("name", sorted(entries()))
def test_every_setting_has_a_comment_above_it(name: str) -> None:
    text = EXAMPLE.read_text()
    block = next(
        block for block in text.split("\n\n") if re.search(rf"^(# )?{name}=", block, re.MULTILINE)
    )
    assert re.match(r"# [A-Z]", block)
