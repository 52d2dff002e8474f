"""The licences of what runs."""

from pathlib import Path

import pytest

from taskflow_audit.licences import (
    PAGE,
    audit_licences,
    is_allowed,
    licence_of,
    page_of,
    read_licences,
)
from taskflow_audit.locked import runtime_packages
from taskflow_audit.verdict import AuditBroke, Level


def test_every_licence_of_what_runs_is_allowed_and_on_the_page(checkout: Path) -> None:
    packages = runtime_packages(checkout / "uv.lock")
    verdict = audit_licences(packages, (checkout / PAGE).read_text())
    assert verdict.level is Level.OK, str(verdict)


def test_what_runs_is_what_the_services_need(checkout: Path) -> None:
    packages = set(runtime_packages(checkout / "uv.lock"))
    assert packages >= {"fastapi", "asyncpg", "aio-pika", "minio", "redis", "alembic", "greenlet"}
    assert packages.isdisjoint({"pytest", "locust", "ruff", "pip-audit", "supervisor", "taskflow"})


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND PSF-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later OR LicenseRef-Commercial", False),
        ("(MIT AND BSD-2-Clause)", True),
        ("(MIT OR GPL-3.0-only) AND BSD-3-Clause", False),
        ("BSD License", False),
        ("", False),
    ],
)
def test_what_the_list_allows(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed


def test_a_package_that_states_no_licence_or_a_forbidden_one_is_named() -> None:
    def licence(package: str) -> str:
        if package == "silent":
            raise AuditBroke("silent states no licence")
        return {"good": "MIT", "greedy": "GPL-3.0-only"}[package]

    page = page_of({"good": "MIT", "greedy": "GPL-3.0-only"})
    verdict = audit_licences(["good", "greedy", "silent"], page, licence=licence)
    assert verdict.level is Level.FAIL
    assert verdict.details == (
        "silent states no licence",
        "greedy: GPL-3.0-only is not on the list",
    )
    verdict = audit_licences(["good"], page, licence=licence)
    assert (verdict.level, "out of date" in str(verdict)) == (Level.FAIL, True)


def test_a_licence_in_the_words_of_a_classifier() -> None:
    # The first by its expression, the second by classifiers, the third by a field.
    assert licence_of("aio-pika") == "Apache-2.0"
    assert licence_of("uvloop") == "Apache-2.0 OR MIT"
    assert licence_of("yarl") == "Apache-2.0"
    # It says nothing: what was read in its licence file counts for that release.
    assert licence_of("aiocache") == "BSD-3-Clause"
    with pytest.raises(AuditBroke, match="is not installed"):
        licence_of("no-such-package-anywhere")


def test_the_page_can_be_written(checkout: Path) -> None:
    assert page_of(read_licences(checkout)) == (checkout / PAGE).read_text()
