"""docs/performance.md: the part of it that a run writes, and its plot."""

from pathlib import Path

from taskflow_bench import plot, table
from taskflow_bench.errors import BenchBroke
from taskflow_bench.report import Report

PAGE, PLOT = "performance.md", "performance.svg"
_BEGIN, _END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"


def write(docs: Path, report: Report) -> None:
    """Bring the page and the plot up to date."""
    page = docs / PAGE
    page.write_text(update(page.read_text(), report))
    (docs / PLOT).write_text(plot.render(report))


def update(text: str, report: Report) -> str:
    """The page with this run in place of the last one.

    Raises:
        BenchBroke: it has no place for it.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BenchBroke(f"docs/{PAGE} lacks the line {_BEGIN} or {_END}")
    picture = f"![The figures as bars]({PLOT})"
    return f"{before}{_BEGIN}\n\n{table.render(report)}\n{picture}\n\n{_END}{after}"
