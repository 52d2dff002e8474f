"""The file .env: made from .env.example, completed, read; never overwritten."""

import io
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from taskflow import api_key
from taskflow_local.errors import StackError
from taskflow_local.private_file import write_private


def _random_text(length: int) -> str:
    return secrets.token_hex(length // 2)


_GENERATORS: Mapping[str, Callable[[], str]] = {
    "TASKFLOW_API_KEY": lambda: api_key.generate().text,
    "TASKFLOW_JWT_SECRET": lambda: _random_text(64),
    "TASKFLOW_POSTGRES_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_POSTGRES_API_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_POSTGRES_CONSUMER_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_POSTGRES_SCHEDULER_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_RABBITMQ_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_RABBITMQ_API_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_RABBITMQ_CONSUMER_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_RABBITMQ_SCHEDULER_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_REDIS_PASSWORD": lambda: _random_text(32),
    "TASKFLOW_S3_ACCESS_KEY": lambda: _random_text(20),
    "TASKFLOW_S3_SECRET_KEY": lambda: _random_text(40),
}


def prepare(path: Path, template: Path, environment: Mapping[str, str]) -> list[str]:
    """Make the file, or complete it, and write ports that the environment names into it.

    Returns:
        A line for the user about each thing done; none when the file was left as it was.

    Raises:
        StackError: a line of the file can't be read.
    """
    notes = []
    before = _text(path) if path.exists() else None
    text, added = _complete(before or "", _text(template))
    if before is None:
        notes.append(f"{path.name}: written, with new secrets")
    elif added:
        notes.append(f"{path.name}: added {', '.join(added)}")
    for name, value in _moved_ports(text, environment).items():
        text = _replace(text, name, value)
        notes.append(f"{path.name}: {name}={value}, as the environment says")
    if text != before:
        write_private(path, text)
    return notes


def read(path: Path) -> dict[str, str]:
    """Every setting, with `${...}` resolved.

    Raises:
        StackError: there is no file, or a line of it can't be read.
    """
    if not path.exists():
        raise StackError(f"there is no {path.name} here; `make up` writes one")
    values = dotenv_values(stream=io.StringIO(_text(path)), interpolate=True)
    return {name: value or "" for name, value in values.items()}


def moved_ports(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Ports that the environment names and the file has otherwise: name to number."""
    return _moved_ports(_text(path), environment) if path.exists() else {}


def _text(path: Path) -> str:
    """The file, every line of which is a comment, empty, or NAME=value."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StackError(f"{path.name} is not UTF-8 text") from None
    # dotenv itself passes over what it can't read.
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            original = binding.original
            line = original.line + len(original.string) - len(original.string.lstrip("\n"))
            raise StackError(f"{path.name}, line {line}: not of the form NAME=value")
    return text


def _raw_values(text: str) -> dict[str, str]:
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value or "" for name, value in values.items()}


def _moved_ports(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environment[name]
        for name, value in _raw_values(text).items()
        if name.endswith("_PORT") and environment.get(name, "") not in {"", value}
    }


def _complete(text: str, template: str) -> tuple[str, list[str]]:
    """Add the template's entries that are missing, and generate secrets that are empty."""
    if not text:
        text = template
    present = _raw_values(text)
    wanted = _raw_values(template)
    added = [name for name in wanted if name not in present]
    for name in added:
        comment, line = _entry(template, name)
        text += "" if text.endswith("\n") else "\n"
        text += line if comment in text else comment + line
    for name in [name for name in wanted if name in _GENERATORS and not present.get(name)]:
        text = _replace(text, name, _GENERATORS[name]())
        added.append(name)
    return text, list(dict.fromkeys(added))


def _entry(template: str, name: str) -> tuple[str, str]:
    """The comment right above an entry, and its line."""
    entry = re.search(rf"^((?:#.*\n)*)({name}=.*\n)", template, re.MULTILINE)
    if entry is None:
        raise StackError(f"the template has no line that begins with {name}=")
    return entry[1], entry[2]


def _replace(text: str, name: str, value: str) -> str:
    line = re.compile(rf"^(\s*(?:export\s+)?{name}\s*=).*$", re.MULTILINE)
    return line.sub(lambda match: match[1] + value, text)
