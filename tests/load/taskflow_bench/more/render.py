"""Sections as Markdown, and their places in docs/performance.md."""

from collections.abc import Iterable

from taskflow_bench import page, table
from taskflow_bench.more.findings import Cell, MoreReport, Section, Table

_LARGE, _SMALL = 100, 10


def render(report: MoreReport, titles: Iterable[tuple[str, str]]) -> str:
    """All sections that were run below their titles, which are by experiments' names."""
    sections = {each.experiment: section(report, each) for each in report.sections}
    parts = [f"### {title}\n\n{sections[name]}" for name, title in titles if name in sections]
    return "\n\n".join(parts) + "\n"


def section(report: MoreReport, found: Section) -> str:
    """When and where it was measured, and what was found."""
    at_scale = "" if found.scale == 1 else f", at {found.scale:g} of the usual numbers"
    parts = [f"{found.date}{at_scale}. {table.ran_on(report.machine)}."]
    parts += [_table(each) for each in found.findings.tables]
    parts += ["\n".join(f"- {note}" for note in found.findings.notes)]
    return "\n\n".join(part for part in parts if part)


def update(text: str, report: MoreReport) -> str:
    """The page with each section that was run in place of its last one.

    Raises:
        BenchBroke: it has no place for one.
    """
    for found in report.sections:
        begin, end = _markers(found.experiment)
        text = page.replaced(text, begin, end, section(report, found))
    return text


def _markers(name: str) -> tuple[str, str]:
    return (
        f"<!-- written by make bench-more: {name} -->",
        f"<!-- end of what make bench-more writes: {name} -->",
    )


def _table(found: Table) -> str:
    return table.grid(found.head, [[_cell(cell) for cell in row] for row in found.rows])


def _cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if abs(cell) >= _LARGE:
        return f"{cell:,.0f}"
    return f"{cell:.1f}" if abs(cell) >= _SMALL else f"{cell:.2f}"
