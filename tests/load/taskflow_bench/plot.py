"""The figures of a run as bars, in SVG."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from taskflow_bench.contestants import TASKFLOW
from taskflow_bench.report import COLUMNS, Figure, Report, figure

_PANELS = tuple(COLUMNS)[:5]
_WIDTH, _LABELS, _BARS = 800, 120, 580
_ROW, _HEAD, _GAP = 22, 34, 14
_OURS, _OTHERS, _RANGE, _INK = "#0b7285", "#adb5bd", "#495057", "#212529"


def render(report: Report) -> str:
    """A panel for each figure, a bar for each contestant; a line spans the rounds."""
    names = report.contestants
    panel_height = _HEAD + len(names) * _ROW + _GAP
    panels = []
    for number, column in enumerate(_PANELS):
        figures = [figure(map(COLUMNS[column], report.turns_of(name))) for name in names]
        panels.append(_panel(column, names, figures, number * panel_height))
    height = len(_PANELS) * panel_height + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "".join(panels)
        + "</svg>\n"
    )


def _panel(title: str, names: Sequence[str], figures: Sequence[Figure], top: int) -> str:
    # The longest of all ends within the panel.
    scale = _BARS / (max(each.most for each in figures) or 1.0)
    lines = [_text(_GAP, top + 22, title, weight="bold")]
    for row, (name, found) in enumerate(zip(names, figures, strict=True)):
        y = top + _HEAD + row * _ROW
        middle = y + _ROW / 2 - 2
        colour = _OURS if name == TASKFLOW else _OTHERS
        bar = f'x="{_LABELS}" y="{y}" width="{found.median * scale:.1f}" height="{_ROW - 4}"'
        span = f"M{_LABELS + found.least * scale:.1f} {middle}H{_LABELS + found.most * scale:.1f}"
        lines += [
            _text(_GAP, y + 14, name),
            f'<rect {bar} fill="{colour}"/>\n',
            f'<path d="{span}" stroke="{_RANGE}" stroke-width="2"/>\n',
            _text(_LABELS + _BARS + 10, y + 14, f"{found.median:,.1f}"),
        ]
    return "".join(lines)


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" fill="{_INK}" font-weight="{weight}">{escape(text)}</text>\n'
