"""A run as Markdown."""

from collections.abc import Callable, Sequence

from taskflow_bench.contestants import CONTESTANTS, TASKFLOW
from taskflow_bench.report import COLUMNS, Figure, Machine, Report, Turn, figure
from taskflow_bench.targets import Verdict, verdicts

BUSY_GENERATOR = 0.5
"""Cores of the load generator from which on it may be what is measured."""

_TITLES = {each.name: each.title for each in CONTESTANTS}
_LARGE = 100


def render(report: Report) -> str:
    """Everything that is printed: what it ran on, the figures, the ratios, the CPU."""
    parts = [
        _heading(report),
        _figures(report),
        _ratios(verdicts(report)),
        _cpu(report),
        *_warnings(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def line(turn: Turn) -> str:
    """One turn, while others are still to come."""
    figures = ", ".join(f"{name} {_number(column(turn))}" for name, column in COLUMNS.items())
    return f"{turn.contestant}: {figures}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all but its first column are figures."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _heading(report: Report) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in report.machine.packages.items())
    return (
        f"{report.date}, {report.rounds} interleaved rounds; each phase of posts at most"
        f" {report.jobs:,} jobs or {report.seconds:g} s. Medians, and in brackets the range of the"
        f" rounds.\n\n"
        f"{ran_on(report.machine)}; {packages}.\n\n"
        f"The load generator alone, against an application that does nothing:"
        f" {report.generator.requests_per_second:,.0f} requests/s,"
        f" {report.generator.cpu_ms_per_request:.3f} ms of CPU each."
    )


def ran_on(machine: Machine) -> str:
    """The machine and the servers, as the beginning of a sentence."""
    versions = machine.versions
    return (
        f"On {versions.cores} cores of {machine.processor}, {machine.memory_gib:g} GiB, Linux"
        f" {machine.kernel}, which the servers and the load generator share; PostgreSQL"
        f" {versions.postgresql}, RabbitMQ {versions.rabbitmq}, Python {versions.python}"
    )


def _figures(report: Report) -> str:
    rows = [
        [
            _TITLES.get(name, name),
            *(_cell(figure(map(column, report.turns_of(name)))) for column in COLUMNS.values()),
        ]
        for name in report.contestants
    ]
    return grid(["", *COLUMNS], rows)


def _ratios(found: Sequence[Verdict]) -> str:
    rows = [
        [each.what, f"{each.ratio:.2f}", f"{each.least:g}", "yes" if each.is_met else "no"]
        for each in found
    ]
    return grid([f"{TASKFLOW} in this run", "ratio", "goal", "met"], rows) if rows else ""


def _cpu(report: Report) -> str:
    """What a job costs each process while both go on, all of them, and the cores in use."""
    processes = list(
        dict.fromkeys(name for turn in report.turns for name in turn.both.used.cpu_seconds)
    )
    rows = []
    for name in report.contestants:
        found = report.turns_of(name)
        costs = [_median_of(found, _cost_of(process)) for process in processes]
        total = _median_of(found, lambda turn: sum(turn.both.cpu_ms_per_job.values()))
        cores = _median_of(found, lambda turn: turn.both.used.cores)
        generator = _median_of(found, lambda turn: turn.both.generator_cores)
        rows.append([_TITLES.get(name, name), *costs, total, cores, generator])
    head = ["CPU ms a job, both at once", *processes, "together", "cores", "generator's cores"]
    return grid(head, rows)


def _warnings(report: Report) -> list[str]:
    lines = []
    for turn in report.turns:
        for name, phase in turn.phases.items():
            if phase.generator_cores > BUSY_GENERATOR:
                lines.append(
                    f"- {turn.contestant}, round {turn.round}, {name}: the load generator used"
                    f" {phase.generator_cores:.2f} of a core"
                )
    if not lines:
        return []
    return ["The load generator was busy, and others had less of the machine:", "\n".join(lines)]


def _cost_of(process: str) -> Callable[[Turn], float]:
    return lambda turn: turn.both.cpu_ms_per_job.get(process, 0.0)


def _median_of(turns: Sequence[Turn], value: Callable[[Turn], float]) -> str:
    return f"{figure(map(value, turns)).median:.2f}"


def _cell(found: Figure) -> str:
    if found.least == found.most:
        return _number(found.median)
    return f"{_number(found.median)} ({_number(found.least)}-{_number(found.most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _LARGE else f"{value:.1f}"
