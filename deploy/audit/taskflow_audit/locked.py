"""What uv.lock says that runs: the packages beneath the services, as their images install them."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement

ROOTS = ("taskflow-api", "taskflow-consumer", "taskflow-scheduler", "taskflow-migrations")
"""The members of the workspace that an image is made of."""

_IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.13.0",
    "python_version": "3.13",
    "sys_platform": "linux",
}


def runtime_packages(lock: Path) -> list[str]:
    """The names of all packages from elsewhere that the images hold, in their order."""
    packages = {each["name"]: each for each in tomllib.loads(lock.read_text())["package"]}
    environment = {name: str(value) for name, value in default_environment().items()} | _IMAGE
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in ROOTS]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        waiting += _needed(packages[name], extras, environment)
    return sorted({name for name, _ in seen if "registry" in packages[name]["source"]})


def _needed(
    package: dict[str, Any], extras: tuple[str, ...], environment: dict[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    optional = package.get("optional-dependencies", {})
    lists = [package.get("dependencies", []), *(optional.get(extra, []) for extra in extras)]
    for dependency in (each for found in lists for each in found):
        marker = dependency.get("marker")
        if marker is None or Marker(marker).evaluate(environment):
            yield dependency["name"], tuple(dependency.get("extra", ()))


def exported_requirements(exported: str) -> list[Requirement]:
    """The packages of `uv export` that this Python on this machine would install."""
    found = [
        Requirement(line.rstrip(" \\"))
        for line in exported.splitlines()
        if line and not line.startswith((" ", "#"))
    ]
    return [each for each in found if each.marker is None or each.marker.evaluate()]
