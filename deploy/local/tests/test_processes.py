"""Processes, alive and not."""

import os
import subprocess
import time

from taskflow_local.processes import is_alive


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())


def test_one_that_ended_is_not_alive_though_its_parent_has_not_noticed() -> None:
    with subprocess.Popen(["true"]) as process:
        deadline = time.monotonic() + 10
        while is_alive(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.path.exists(f"/proc/{process.pid}")  # noqa: PTH110
    assert not is_alive(process.pid)
