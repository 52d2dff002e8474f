"""What a process logs, seen from outside: logging is set up once, for the whole process."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.log_setup import REDACTED, _rendering, redact

PROGRAM = """
import logging, sys, warnings
import structlog
from taskflow.log_setup import configure_logging

log = structlog.get_logger("taskflow.thing")
configure_logging(sys.argv[1], sys.argv[2], service="api")
structlog.contextvars.bind_contextvars(request_id="r1", job_id="j1", attempt=2)
log.info("thing_done", count=3, secret_key="hidden", surrogate="\\ud800", emoji="😀")
log.debug("thing_seen")
structlog.get_logger().info("thing_of_no_name")
class Unspeakable:
    def __str__(self): raise RuntimeError("no words")
log.info("thing_said", value=Unspeakable())
logging.getLogger("library").warning("it said %s", "amqp://user:password@host/x", extra={"n": 1})
logging.getLogger("uvicorn.error").info("chatter")
logging.getLogger("aiormq.connection").error("what we have said")
warnings.warn("old")
evil = "x\\r\\nfake\\x1b[2J\\x85fake\\u2028fake\\u202e\\u061c\\x9b"
log.warning("path", path=evil, **{evil: [evil]})
try:
    token = "local-secret"
    raise ValueError("because of postgresql://u:password@host/db")
except ValueError:
    log.exception("thing_broke")
"""


def output(level: str, log_format: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, level, log_format],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    return done.stdout


def test_each_line_is_an_object_with_its_context() -> None:
    lines = [json.loads(line) for line in output("INFO", "json").splitlines()]

    done, nameless, unspeakable, library, warning, path, broke = lines
    assert all(
        line["service"] == "api"
        and (line["request_id"], line["job_id"], line["attempt"]) == ("r1", "j1", 2)
        and line["timestamp"].endswith("Z")
        for line in lines
    )
    assert (done["event"], done["level"], done["logger"], done["count"]) == (
        "thing_done",
        "info",
        "taskflow.thing",
        3,
    )
    assert (done["secret_key"], done["emoji"]) == (REDACTED, "😀")
    assert (nameless["event"], nameless["logger"]) == ("thing_of_no_name", "__main__")
    assert (unspeakable["event"], unspeakable["line"]) == ("line_not_shown", "thing_said")
    assert "RuntimeError: no words" in unspeakable["exception"]
    assert (library["logger"], library["n"]) == ("library", 1)
    assert library["event"] == f"it said amqp://{REDACTED}@host/x"
    assert (warning["logger"], "old" in warning["event"]) == ("py.warnings", True)
    evil = "x\r\nfake\x1b[2J\x85fake\u2028fake\u202e\u061c\x9b"
    assert (path["path"], path[evil]) == (evil, [evil])
    assert (broke["event"], broke["level"]) == ("thing_broke", "error")
    assert "Traceback" in broke["exception"]
    assert f"ValueError: because of postgresql://{REDACTED}@host/db" in broke["exception"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_shown(log_format: str) -> None:
    text = output("DEBUG", log_format)
    assert "thing_seen" in text
    assert "what we have said" in text
    for secret in ("hidden", "password", "chatter"):
        assert secret not in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_text_can_pass_for_a_line_or_steer_a_terminal(log_format: str) -> None:
    text = output("INFO", log_format)
    assert not any(line.startswith("fake") for line in text.splitlines())
    assert not set(text) & set("\r\x1b\x85\u2028\u202e\u061c\x9b")


def test_the_level_holds_for_both_kinds_of_loggers() -> None:
    events = [json.loads(line)["event"] for line in output("ERROR", "json").splitlines()]
    assert events == ["thing_broke"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"api_key": "k"}, {"api_key": REDACTED}),
        ({"X-API-Key": "k"}, {"X-API-Key": REDACTED}),
        ({"headers": {"authorization": "Bearer a.b"}}, {"headers": {"authorization": REDACTED}}),
        ({"event": "sent Bearer a.b.c, ok"}, {"event": f"sent Bearer {REDACTED}, ok"}),
        ({"event": "sent BEARER a.b.c, ok"}, {"event": f"sent BEARER {REDACTED}, ok"}),
        ({"keys": ["tf_live_ab_cd", 1, None]}, {"keys": [REDACTED, 1, None]}),
        ({"event": "sent tf_refresh_a-b_c, ok"}, {"event": f"sent {REDACTED}, ok"}),
        ({"token": None}, {"token": None}),
        ({"claim_token": "t"}, {"claim_token": "t"}),
        ({"url": "http://host/path@x"}, {"url": "http://host/path@x"}),
    ],
)
def test_secrets_are_blotted_out(given: dict[str, Any], shown: dict[str, Any]) -> None:
    assert redact(None, "info", given) == shown


def test_what_contains_itself_is_cut_short() -> None:
    endless: dict[str, Any] = {"n": 1}
    endless["self"] = endless
    json.dumps(redact(None, "info", {"endless": endless}))


NAMES = st.sampled_from(["path", "password", "claim_token", "client", "note"])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["https://u:p@host/x", "tf_live_abc", "Bearer abc", "BASIC abc", "a\x85b", "\u2028", "\u202e"]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS)


@given(st.dictionaries(NAMES, VALUES))
def test_a_line_with_nothing_to_hide_is_written_as_any_other(event: dict[str, Any]) -> None:
    [render] = _rendering("json")

    def members(event: dict[str, Any]) -> dict[str, Any]:
        line = render(None, "info", event)
        assert isinstance(line, str)
        members: dict[str, Any] = json.loads(line)
        return members

    # What has a secret is looked at piece by piece.
    looked_at = members({**event, "secret": "x"})
    assert looked_at.pop("secret") == REDACTED
    assert repr(members(event)) == repr(looked_at)
