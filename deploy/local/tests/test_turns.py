"""Commands on one stack take turns."""

import threading
import time
from pathlib import Path

import pytest

from taskflow_local.turns import turn


def test_a_second_command_says_that_it_waits_and_then_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "some" / "stack"
    entered = threading.Event()

    def second() -> None:
        with turn(directory):
            entered.set()

    with turn(directory):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 10
        while "waiting for it" not in capsys.readouterr().out:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not entered.is_set()
    assert entered.wait(10)
    thread.join()


def test_other_stacks_need_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with turn(tmp_path / "one"), turn(tmp_path / "two"):
        assert capsys.readouterr().out == ""
