"""What of `logging` ends up in which attempt's log."""

import asyncio
import contextvars
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from taskflow.sdk.context import current_attempt_log
from taskflow_consumer.log_capture import LogCapture

logger = logging.getLogger("app.images")


@dataclass
class Written:
    """An attempt's log that keeps its lines where a test sees them."""

    lines: list[tuple[str, str, str, Mapping[str, Any]]] = field(default_factory=list)
    is_closed: bool = False

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        if not self.is_closed:
            self.lines.append((level, message, logger, fields))

    async def close(self) -> None:
        self.is_closed = True

    @property
    def messages(self) -> list[str]:
        return [message for _, message, _, _ in self.lines]


@pytest.fixture(autouse=True)
def _capture() -> Iterator[None]:
    root = logging.getLogger()
    handler, level = LogCapture(), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def written() -> Iterator[Written]:
    log = Written()
    token = current_attempt_log.set(log)
    yield log
    current_attempt_log.reset(token)


def test_a_record_becomes_a_line_with_its_extra(written: Written) -> None:
    logger.info("resized %s to %d", "a.png", 320, extra={"width": 320, "tags": ["x"]})
    assert written.lines == [
        ("info", "resized a.png to 320", "app.images", {"width": 320, "tags": ["x"]})
    ]


@pytest.mark.parametrize(
    ("number", "level"),
    [
        (5, "debug"),
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (25, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "critical"),
        (99, "critical"),
    ],
)
def test_every_level_becomes_one_of_the_five(written: Written, number: int, level: str) -> None:
    logging.getLogger().setLevel(1)
    logger.log(number, "x")
    assert [line[0] for line in written.lines] == [level]


def test_a_traceback_and_a_stack_come_along(written: Written) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed", stack_info=True)
    ((level, message, _, fields),) = written.lines
    assert (level, message) == ("error", "failed")
    assert fields["traceback"].startswith("Traceback")
    assert fields["traceback"].endswith("ValueError: broken")
    assert "test_a_traceback_and_a_stack_come_along" in fields["stack"]


def test_a_traceback_that_was_made_before_comes_along(written: Written) -> None:
    content = {"name": "x", "levelno": 40, "msg": "failed", "exc_text": "ValueError: y"}
    record = logging.makeLogRecord(content)
    logger.handle(record)
    ((_, message, _, fields),) = written.lines
    assert (message, fields) == ("failed", {"traceback": "ValueError: y"})


@pytest.fixture
def structured() -> structlog.stdlib.BoundLogger:
    """A logger of structlog's that hands its events to `logging`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger("app.structured"),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger.bind(job_id="known", attempt=1)


def test_events_of_structlog_keep_their_fields(
    written: Written, structured: structlog.stdlib.BoundLogger
) -> None:
    structured.warning("resized", width=320)
    assert written.lines == [("warning", "resized", "app.structured", {"width": 320})]


def test_events_of_structlog_keep_their_traceback(
    written: Written, structured: structlog.stdlib.BoundLogger
) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structured.exception("failed", width=320)
    ((level, message, _, fields),) = written.lines
    assert (level, message, fields["width"]) == ("error", "failed", 320)
    assert fields["traceback"].endswith("ValueError: broken")
    assert fields.keys() == {"width", "traceback"}


PROGRAM = """
import structlog
from taskflow.sdk.context import current_attempt_log
from taskflow_consumer.log_capture import configure_capture

class Told:
    def write(self, *line):
        print("job:", *line)

configure_capture("INFO", "json")
log = structlog.get_logger("app.images").bind(width=320)
log.warning("outside")
current_attempt_log.set(Told())
structlog.contextvars.bind_contextvars(job_id="j1", attempt=1)
log.warning("resized %s", "a.png")
log.debug("looked")
"""


def test_structlog_as_the_consumer_sets_it_up_lands_in_both_logs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=30
    )
    outside, of_job, of_service = done.stdout.splitlines()
    assert json.loads(outside)["event"] == "outside"
    assert of_job == "job: warning resized a.png app.images {'width': 320}"
    assert json.loads(of_service).items() >= {"event": "resized a.png", "job_id": "j1"}.items()


def test_warnings_are_lines_where_logging_captures_them(written: Written) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        try:
            warnings.warn("old fashioned", DeprecationWarning, stacklevel=1)
        finally:
            logging.captureWarnings(False)
    ((level, message, name, _),) = written.lines
    assert (level, name) == ("warning", "py.warnings")
    assert "DeprecationWarning: old fashioned" in message


def test_what_is_printed_is_no_line(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    print("hello")  # noqa: T201 - the subject of the test
    assert written.lines == []
    assert capsys.readouterr().out == "hello\n"


def test_outside_a_job_nothing_is_captured() -> None:
    assert current_attempt_log.get() is None
    logger.error("nobody's")


def test_a_call_with_a_wrong_format_fails_nothing(
    written: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    for handler in root.handlers:
        if not isinstance(handler, LogCapture):
            monkeypatch.setattr(handler, "emit", lambda _: None)
    logger.info("%d", "not a number")
    logger.info("next")
    assert written.messages == ["next"]
    assert "--- Logging error ---" in capsys.readouterr().err


async def test_threads_and_tasks_of_a_job_write_into_its_log_and_no_other() -> None:
    async def run_job(name: str) -> Written:
        log = Written()
        current_attempt_log.set(log)
        logger.info("%s itself", name)
        await asyncio.to_thread(logger.info, "%s thread", name)
        await asyncio.create_task(_say(f"{name} task"))
        return log

    one, two = await asyncio.gather(run_job("one"), run_job("two"))
    assert one.messages == ["one itself", "one thread", "one task"]
    assert two.messages == ["two itself", "two thread", "two task"]


async def test_a_task_that_outlives_its_job_writes_into_nobody_elses_log() -> None:
    go_on = asyncio.Event()
    first, second = Written(), Written()

    async def linger() -> None:
        await go_on.wait()
        logger.info("late")

    token = current_attempt_log.set(first)
    straggler = asyncio.create_task(linger())
    await first.close()
    current_attempt_log.reset(token)
    context = contextvars.copy_context()
    context.run(current_attempt_log.set, second)
    await asyncio.create_task(_say("second's own"), context=context)
    go_on.set()
    await straggler
    assert first.messages == []
    assert second.messages == ["second's own"]


async def _say(message: str) -> None:
    logger.info(message)
