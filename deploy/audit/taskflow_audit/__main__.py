"""`make audit`: vulnerabilities, bandit, licences and an SBOM; the exit code is 1 if one fails."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from taskflow_audit.licences import PAGE, audit_licences, page_of, read_licences
from taskflow_audit.locked import ROOTS, runtime_packages
from taskflow_audit.sbom import write_sbom
from taskflow_audit.tools import export_lock, run_module
from taskflow_audit.verdict import AuditBroke, Level, Verdict
from taskflow_audit.vulnerabilities import audit_vulnerabilities

RESULTS = Path(".taskflow") / "audit"

_EVERYTHING = ("--all-packages", "--all-groups")
_RUNTIME = ("--no-default-groups", *(f"--package={name}" for name in ROOTS))


def main() -> int:
    """Run every check, print its verdict, return the exit code."""
    parser = argparse.ArgumentParser(prog="make audit")
    parser.add_argument(
        "--feed-required", action="store_true", help="what could not be checked is a failure"
    )
    parser.add_argument("--write", action="store_true", help=f"write {PAGE} anew")
    arguments = parser.parse_args()
    checkout = Path.cwd()
    bad = {Level.FAIL, Level.SKIPPED} if arguments.feed_required else {Level.FAIL}
    failed = False
    try:
        if arguments.write:
            (checkout / PAGE).write_text(page_of(read_licences(checkout)))
        for verdict in _verdicts(checkout):
            sys.stdout.write(f"{verdict}\n")
            sys.stdout.flush()
            failed |= verdict.level in bad
    except AuditBroke as error:
        sys.stderr.write(f"audit: {error}\n")
        return 1
    return int(failed)


def _verdicts(checkout: Path) -> Iterator[Verdict]:
    results = checkout / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    pip_audit = partial(run_module, "pip_audit", folder=results)
    cyclonedx = partial(run_module, "cyclonedx_py", folder=results)
    yield audit_vulnerabilities(pip_audit, export_lock(checkout, _EVERYTHING), results)
    yield _bandit(checkout)
    yield audit_licences(runtime_packages(checkout / "uv.lock"), (checkout / PAGE).read_text())
    yield write_sbom(cyclonedx, export_lock(checkout, _RUNTIME), results / "sbom.cdx.json")


def _bandit(checkout: Path) -> Verdict:
    """What bandit finds in what runs; pyproject.toml says where it looks."""
    folders = ("shared", "services", "migrations", "deploy", "examples")
    form = ["--format", "custom", "--msg-template", "{relpath}:{line}: {test_id} {msg}"]
    ended = run_module("bandit", ["-q", "-c", "pyproject.toml", *form, "-r", *folders], checkout)
    if ended.code == 0:
        return Verdict("bandit", Level.OK, "nothing found")
    found = tuple((ended.output.strip() or ended.last_word).splitlines())
    return Verdict("bandit", Level.FAIL, f"{len(found)} findings", found)


if __name__ == "__main__":
    sys.exit(main())
