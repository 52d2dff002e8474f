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
    picture = f"![The figures as bars]({PLOT})"
    return replaced(text, _BEGIN, _END, f"{table.render(report)}\n{picture}")


def replaced(text: str, begin: str, end: str, content: str) -> str:
    """The text with other content between two lines, which stay.

    Raises:
        BenchBroke: one of them isn't there.
    """
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise BenchBroke(f"docs/{PAGE} lacks the line {begin} or {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
