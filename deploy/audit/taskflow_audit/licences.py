"""The licences of what runs: each has to be on the list, and docs/licences.md has them all."""

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping
from email.message import Message
from pathlib import Path

from taskflow_audit.locked import runtime_packages
from taskflow_audit.verdict import AuditBroke, Level, Verdict

SUBJECT = "licences"
PAGE = Path("docs") / "licences.md"

ALLOWED = frozenset(
    {
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Unlicense",
    }
)
"""Licences that ask for no more than notices, and MPL's for changes to its own files."""

# What packages write who don't use SPDX's words; a dual licence is in the classifiers alone.
_OTHER_WORDS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

# Releases whose metadata say nothing: what a person has read in their licence file.
_READ = {("aiocache", "0.12.3"): "BSD-3-Clause"}

_HEAD = """# Licences

What TaskFlow's images install from elsewhere, with the licence that each package states of
itself. Written by `make audit args=--write`, from `uv.lock` and what is installed.

| package | licence |
|---|---|
"""

_END = """
A package whose licence is none of these makes `make test` and `make audit` fail: {allowed}.
"""


def licence_of(package: str) -> str:
    """The SPDX expression that an installed package states, its own words, or what was read in it.

    Raises:
        AuditBroke: it is not installed, or says nothing.
    """
    try:
        metadata: Message = importlib.metadata.metadata(package)  # type: ignore[assignment]
    except importlib.metadata.PackageNotFoundError as error:
        raise AuditBroke(f"{package} is not installed; `make install` does it") from error
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [each for each in metadata.get_all("Classifier", []) if "License ::" in each]
    words = [each.rpartition(" :: ")[2] for each in classifiers]
    if not words and (stated := metadata.get("License")):
        words = [str(stated).strip().splitlines()[0]]
    if not words and (read := _READ.get((package, str(metadata["Version"])))):
        words = [read]
    if not words:
        raise AuditBroke(f"{package} states no licence")
    return " OR ".join(sorted(_OTHER_WORDS.get(word, word) for word in words))


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met by licences of the list."""
    flat = expression.replace("(", " ").replace(")", " ")
    if flat != expression and " OR " in flat and " AND " in flat:
        return False  # To be read by a person.
    return all(
        any(choice.strip() in ALLOWED for choice in part.split(" OR "))
        for part in flat.split(" AND ")
    )


def page_of(licences: Mapping[str, str]) -> str:
    """docs/licences.md."""
    rows = "".join(
        f"| [{name}](https://pypi.org/project/{name}/) | {licences[name]} |\n"
        for name in sorted(licences)
    )
    return _HEAD + rows + _END.format(allowed=", ".join(sorted(ALLOWED)))


def audit_licences(
    packages: Iterable[str], page: str, *, licence: Callable[[str], str] = licence_of
) -> Verdict:
    """Whether every licence is allowed and the page has what is so."""
    licences: dict[str, str] = {}
    problems: list[str] = []
    for name in packages:
        try:
            licences[name] = licence(name)
        except AuditBroke as error:
            problems.append(str(error))
    problems += [
        f"{name}: {stated} is not on the list"
        for name, stated in licences.items()
        if not is_allowed(stated)
    ]
    if not problems and page != page_of(licences):
        problems.append(f"{PAGE} is out of date; `make audit args=--write` writes it")
    if problems:
        return Verdict(SUBJECT, Level.FAIL, f"{len(problems)} problems", tuple(problems))
    kinds = {part for stated in licences.values() for part in re.split(r" (?:AND|OR) ", stated)}
    return Verdict(SUBJECT, Level.OK, f"{len(licences)} packages, {len(kinds)} licences, all known")


def read_licences(checkout: Path) -> dict[str, str]:
    """Package to licence, of all that runs.

    Raises:
        AuditBroke: one is not installed, or says nothing.
    """
    return {name: licence_of(name) for name in runtime_packages(checkout / "uv.lock")}
