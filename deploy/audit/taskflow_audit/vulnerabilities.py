"""Known vulnerabilities of what uv.lock names, as pip-audit finds them in PyPI's feed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from taskflow_audit.locked import exported_requirements
from taskflow_audit.tools import Ended
from taskflow_audit.verdict import AuditBroke, Level, Verdict

SUBJECT = "vulnerabilities"

CANARY = "urllib3==1.24.1"
"""A release with known vulnerabilities: a feed that tells of none is no feed."""

_OPTIONS = ("--format", "json", "--progress-spinner", "off", "--disable-pip")

PipAudit = Callable[[Sequence[str]], Ended]


@dataclass(frozen=True, slots=True)
class Answer:
    """What pip-audit says: a line for each vulnerability, and for each package not looked up."""

    looked_up: frozenset[str]
    vulnerable: tuple[str, ...]
    unknown: tuple[str, ...]


def read_answer(output: str) -> Answer:
    """pip-audit's JSON.

    Raises:
        AuditBroke: that is not what it is.
    """
    try:
        dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
        skipped = [each for each in dependencies if "skip_reason" in each]
        seen = [each for each in dependencies if "skip_reason" not in each]
        return Answer(
            frozenset(canonicalize_name(each["name"]) for each in seen),
            tuple(_vulnerability(each, known) for each in seen for known in each["vulns"]),
            tuple(f"{each['name']}: {each['skip_reason']}" for each in skipped),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AuditBroke("pip-audit's answer is not what it used to be") from error


def _vulnerability(package: dict[str, Any], known: dict[str, Any]) -> str:
    names = ", ".join([known["id"], *sorted(known.get("aliases", []))])
    mended = ", ".join(known["fix_versions"]) or "no release yet"
    return f"{package['name']} {package['version']}: {names}; mended in {mended}"


def audit_vulnerabilities(pip_audit: PipAudit, exported: str, folder: Path) -> Verdict:
    """Ask the feed about every package of `uv export`.

    What it can't say of a single package is a failure; that it can't be reached at all is SKIPPED.
    """
    out_of_reach = _feed_trouble(pip_audit, folder)
    if out_of_reach is not None:
        return out_of_reach
    requirements = folder / "requirements.txt"
    requirements.write_text(exported)
    ended = pip_audit([*_OPTIONS, "--require-hashes", "--requirement", str(requirements)])
    try:
        answer = read_answer(ended.output)
    except AuditBroke:
        return Verdict(SUBJECT, Level.FAIL, f"pip-audit gave no answer: {ended.last_word}")
    asked = {canonicalize_name(each.name) for each in exported_requirements(exported)}
    told = answer.looked_up | {canonicalize_name(line.split(":")[0]) for line in answer.unknown}
    silence = tuple(f"{name}: nothing is said of it" for name in sorted(asked - told))
    problems = (*answer.vulnerable, *answer.unknown, *silence)
    if problems:
        text = f"{len(asked)} packages, of which these are vulnerable or could not be looked up"
        return Verdict(SUBJECT, Level.FAIL, text, problems)
    return Verdict(SUBJECT, Level.OK, f"none known in {len(asked)} packages")


def _feed_trouble(pip_audit: PipAudit, folder: Path) -> Verdict | None:
    canary = folder / "canary.txt"
    canary.write_text(f"{CANARY}\n")
    ended = pip_audit([*_OPTIONS, "--no-deps", "--requirement", str(canary)])
    try:
        answer = read_answer(ended.output)
    except AuditBroke:
        return _skipped(ended.last_word)
    if answer.unknown:
        return _skipped(answer.unknown[0])
    if not answer.vulnerable:
        return Verdict(SUBJECT, Level.FAIL, f"the feed knows nothing even against {CANARY}")
    return None


def _skipped(why: str) -> Verdict:
    return Verdict(SUBJECT, Level.SKIPPED, "the feed is out of reach; nothing was checked", (why,))
