"""The scorecard: a table in Markdown with a row for each scenario."""

import re
from collections.abc import Mapping
from pathlib import Path

from taskflow_chaos.result import Result

_HEAD = """# Chaos scorecard

Each row is the last full run of a scenario of `make chaos` on real servers and processes: two APIs,
four consumers, two schedulers, with PostgreSQL, RabbitMQ, Redis and an S3 server. All invariants
are checked after each, as SQL. What a scenario does is in
[tests/chaos](../tests/chaos/README.md).

- **recovery**: the worst one; what is measured is in the row.
- **submit**: from the client's first try to its 202, repeated tries and outages included.
- **lost**: attempts that ended with their worker; **refused**: outcomes of workers that a job had
  moved on from; **republished**: messages that were found lost and sent again, and how many of
  these needlessly (- where nothing tells them apart).

"""
_COLUMNS = (
    "", "scenario", "verdict", "jobs", "seed", "faults", "recovery", "submit p50 / p99",
    "answers", "lost", "refused", "republished", "took", "when", "on",
)  # fmt: skip
_ROW = re.compile(r"^\| (C\d+) \|.*$", re.MULTILINE)


def update(document: str, result: Result) -> str:
    """The document with this result's row in place of the scenario's last one, if it had one."""
    rows: dict[str, str] = {match[1]: match[0] for match in _ROW.finditer(document)}
    return render({**rows, result.scenario: row(result)})


def render(rows: Mapping[str, str]) -> str:
    """The whole document; rows by scenario."""
    ordered = sorted(rows, key=lambda scenario: int(scenario.removeprefix("C")))
    table = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *(rows[name] for name in ordered)]
    return _HEAD + "\n".join(table) + "\n"


def row(result: Result) -> str:
    """One scenario's row."""
    recovery = "-"
    if result.worst_recovery_seconds is not None:
        recovery = f"{result.worst_recovery_seconds:.1f} s ({result.recovery_means})"
    versions = result.versions
    return _line(
        [
            result.scenario,
            f"{result.title}: {result.asserts}",
            _verdict(result),
            f"{result.jobs:,}",
            str(result.seed),
            _counts(result.faults),
            recovery,
            f"{_number(result.submit_p50_ms)} / {_number(result.submit_p99_ms)} ms",
            _counts(result.statuses),
            _number(result.lost_attempts),
            _number(result.refused_outcomes),
            f"{_number(result.republished)} ({_number(result.needless_republished)})",
            f"{result.seconds:.0f} s",
            result.run_at[:10],
            ""
            if versions is None
            else f"PostgreSQL {versions.postgresql}, RabbitMQ {versions.rabbitmq},"
            f" Python {versions.python}, {versions.cores} cores",
        ]
    )


def _verdict(result: Result) -> str:
    if result.skipped:
        return f"skipped: {result.skipped}"
    return "passed" if result.passed else "**FAILED**"


def update_file(path: Path, result: Result) -> None:
    """Bring the scenario's row in the file up to date."""
    before = path.read_text() if path.exists() else ""
    path.write_text(update(before, result))


def _line(cells: "list[str] | tuple[str, ...]") -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} x {name}" for name, count in sorted(counts.items())) or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
