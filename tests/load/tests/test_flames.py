import sysconfig
from pathlib import Path

from taskflow_bench.flames import without_places


def test_a_drawing_does_not_say_where_files_are() -> None:
    checkout = Path("/somewhere/checkout")
    drawn = (
        f"<title>run ({checkout}/shared/taskflow/relay.py:7)</title>"
        f"<title>send ({sysconfig.get_path('purelib')}/starlette/routing.py:1)</title>"
        f"<title>run ({sysconfig.get_path('stdlib')}/asyncio/runners.py:2)</title>"
    )
    assert without_places(drawn, checkout) == (
        "<title>run (shared/taskflow/relay.py:7)</title>"
        "<title>send (starlette/routing.py:1)</title>"
        "<title>run (asyncio/runners.py:2)</title>"
    )
