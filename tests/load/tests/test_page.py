import re
from pathlib import Path

import pytest

from taskflow_bench import page, plot
from taskflow_bench.contestants import TASKFLOW
from taskflow_bench.errors import BenchBroke

from .reports import report, turn

RUN = report(turn("celery", 1, 100), turn(TASKFLOW, 1, 1_000), turn(TASKFLOW, 2, 1_200))
DOCS = Path(__file__).parents[3] / "docs"


def test_a_run_takes_the_place_of_the_last_one() -> None:
    text = (DOCS / page.PAGE).read_text()
    once = page.update(text, RUN)
    assert "2031-05-06" in once
    assert page.update(once, RUN) == once
    (head,) = text.partition(page._BEGIN)[:1]
    assert once.startswith(head)


def test_a_page_without_a_place_for_it() -> None:
    with pytest.raises(BenchBroke):
        page.update("# Performance\n", RUN)


def test_the_plot_has_a_bar_for_each_contestant_in_each_panel() -> None:
    bars = re.findall(r'<rect x="\d+" y="\d+" width="([\d.]+)"', plot.render(RUN))
    widths = [float(width) for width in bars]
    assert len(widths) == 5 * 2
    assert widths[1] == pytest.approx(11 * widths[0], rel=0.01)
    assert max(widths) <= plot._BARS
