"""What of a handler's lines a log holds."""

import json
from uuid import uuid4

from taskflow_chaos.job_logs import AttemptLog, count_lines

JOB = uuid4()


def _body(*lines: tuple[int, str, str]) -> bytes:
    rows = [
        json.dumps({"attempt": attempt, "logger": logger, "message": message})
        for attempt, logger, message in lines
    ]
    return "".join(f"{row}\n" for row in rows).encode()


def test_lines_are_counted_by_attempt() -> None:
    body = _body((1, "job", "works"), (2, "job", "works"), (2, "job", "works"))
    found = count_lines(body, JOB, "works")
    assert found == {(JOB, 1): AttemptLog(lines=1), (JOB, 2): AttemptLog(lines=2)}


def test_what_the_log_says_it_lost_is_counted_apart() -> None:
    body = _body(
        (1, "taskflow", "… 120 lines (99000 bytes) lost: object storage was unreachable"),
        (1, "job", "works"),
        (1, "taskflow", "… 1 lines (90 bytes) lost: object storage was unreachable"),
    )
    assert count_lines(body, JOB, "works") == {(JOB, 1): AttemptLog(lines=1, said_lost=121)}


def test_a_line_that_stands_for_a_missing_object_excuses_nothing() -> None:
    body = _body((1, "taskflow", "… 3 lines are missing: no longer stored"))
    assert count_lines(body, JOB, "works") == {}


def test_a_job_cannot_say_that_its_lines_were_lost() -> None:
    body = _body((1, "job", "… 120 lines (99000 bytes) lost: so it claims"))
    assert count_lines(body, JOB, "works") == {}
