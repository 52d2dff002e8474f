"""A line of a log: what is stored and what is shown, whatever a job writes."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.log_lines import MAX_LINE_BYTES, render_json, render_text

AT = datetime(2026, 11, 22, 2, 2, 2, 123456, tzinfo=UTC)


def line(message: str = "hello", **fields: Any) -> bytes:
    return render_json(AT, level="info", logger="job", attempt=1, message=message, fields=fields)


def stored(message: str = "hello", **fields: Any) -> dict[str, Any]:
    rendered = line(message, **fields)
    assert rendered.endswith(b"\n")
    assert len(rendered) <= MAX_LINE_BYTES
    found = json.loads(rendered)
    assert isinstance(found, dict)
    return found


def shown(message: str = "hello", **fields: Any) -> str:
    return render_text(line(message, **fields)).decode()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_line_is_stored_as_json_in_a_fixed_order() -> None:
    assert line("resizing", width=320) == (
        b'{"at":"2026-11-22T02:02:02.123456Z","level":"info","logger":"job","attempt":1,'
        b'"message":"resizing","width":320}\n'
    )


def test_times_are_told_in_utc() -> None:
    at = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    found = render_json(at, level="info", logger="", attempt=1, message="", fields={})
    assert json.loads(found)["at"] == "2026-11-22T02:02:02.123456Z"


def test_a_line_is_shown_as_text() -> None:
    assert shown("resizing", width=320, name="a b", ok=True, where=None, tags=["x"]) == (
        "2026-11-22T02:02:02.123456Z INFO    resizing"
        '  width=320 name="a b" ok=true where=null tags=["x"]\n'
    )
    assert shown("done") == "2026-11-22T02:02:02.123456Z INFO    done\n"


def test_fields_that_the_line_needs_itself_are_kept_under_fields() -> None:
    found = stored("x", level="high", at=5, attempt=9, fields=1, cut=2, other=3)
    assert (found["level"], found["attempt"], found["other"]) == ("info", 1, 3)
    assert found["fields"] == {"level": "high", "at": 5, "attempt": 9, "fields": 1, "cut": 2}
    assert "cut" not in found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Decimal("1.50"), "1.50"),
        (PurePosixPath("/a/b"), "/a/b"),
        (AT, "2026-11-22 02:02:02.123456+00:00"),
        (b"ab", "b'ab'"),
        ({1}, "{1}"),
        (math.nan, "nan"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (Unprintable(), "<Unprintable whose repr raises RuntimeError>"),
    ],
)
def test_what_json_has_no_form_for_becomes_text(value: object, expected: str) -> None:
    assert stored("x", value=value)["value"] == expected


def test_a_value_that_holds_itself_becomes_text_and_leaves_the_others_alone() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    found = stored("x", cycle=cycle, other=5)
    assert found["cycle"] == "[[...]]"
    assert found["other"] == 5


def test_a_value_nested_too_deep_becomes_text() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert isinstance(stored("x", deep=deep)["deep"], str)


def test_field_names_that_are_no_text_become_text() -> None:
    fields: dict[Any, Any] = {5: "five"}
    found = render_json(AT, level="info", logger="", attempt=1, message="", fields=fields)
    assert json.loads(found)["5"] == "five"


def test_nul_emoji_and_lone_surrogates_survive() -> None:
    message = "nul \0 emoji 😀 lone \ud800"
    assert stored(message)["message"] == message
    assert shown(message).endswith("nul \\x00 emoji 😀 lone \\ud800\n")


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "\r\n",
        "\x1b[2J",
        "\x07",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u061c",
        "\x9b",
    ],
)
def test_no_text_of_a_job_passes_for_a_line_of_its_own(text: str) -> None:
    forged = f"x{text}2026-11-22T02:02:02.000000Z ERROR   forged"
    rendered = render_json(
        AT, level=forged, logger=forged, attempt=1, message=forged, fields={forged: forged}
    )
    assert len(rendered.decode().splitlines()) == 1
    found = render_text(rendered).decode()
    assert len(found.splitlines()) == 1
    assert text not in found.rstrip("\n")


def test_a_traceback_follows_indented() -> None:
    found = shown("failed", traceback='Traceback:\n  File "x"\r\nERROR\x1b[0m\n')
    assert found == (
        "2026-11-22T02:02:02.123456Z INFO    failed\n"
        '    Traceback:\n      File "x"\n    ERROR\\x1b[0m\n'
    )


def test_blank_stretches_show_nothing() -> None:
    assert render_text(b"\n") == b""
    assert render_text(b"     \n") == b""


@pytest.mark.parametrize(
    "raw", [b"not json\n", b'{"half":\n', b"[1,2]\n", b'{"at":5}\n', b"\xff\xfe\x1b\n", b"{}\n"]
)
def test_a_stored_line_that_is_none_of_ours_is_shown_raw_and_safe(raw: bytes) -> None:
    found = render_text(raw).decode()
    assert found.strip()
    assert len(found.splitlines()) == 1
    assert "\x1b" not in found


@pytest.mark.parametrize("message", ["x" * 10_000_000, "é" * 100_000, "\0" * 100_000, '"' * 66_000])
def test_a_long_message_is_cut_and_says_so(message: str) -> None:
    found = stored(message, other=5)
    assert found["cut"] is True
    assert found["other"] == 5
    assert found["message"].startswith(message[:4000])
    assert found["message"].endswith("… [cut]")
    assert shown(message).endswith("  [cut]\n")


def test_a_line_of_just_the_limit_is_not_cut() -> None:
    overhead = len(line(""))
    assert "cut" not in stored("x" * (MAX_LINE_BYTES - overhead))
    assert stored("x" * (MAX_LINE_BYTES - overhead + 1))["cut"] is True


def test_long_fields_are_cut_and_the_message_stays() -> None:
    found = stored("message", text="t" * 200_000, data=list(range(100_000)), short="s")
    assert found["cut"] is True
    assert (found["message"], found["short"]) == ("message", "s")
    assert found["text"].startswith("t" * 4000)
    assert found["data"].startswith("[0,1,2,")


def test_too_many_fields_are_left_out() -> None:
    found = stored("message", **{f"field_{number}": number for number in range(20_000)})
    assert found["cut"] is True
    assert found["message"] == "message"


def test_long_names_are_cut() -> None:
    rendered = render_json(
        AT,
        level="l" * 70_000,
        logger="g" * 70_000,
        attempt=1,
        message="m",
        fields={"n" * 70_000: 1},
    )
    assert len(rendered) < 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    message=st.text(st.characters(), max_size=200),
    fields=st.dictionaries(st.text(), json_values, max_size=5),
)
def test_whatever_is_written_is_one_line_of_json_and_shows_as_one_line(
    message: str, fields: dict[str, Any]
) -> None:
    fields.pop("traceback", None)
    rendered = render_json(
        AT, level="info", logger="job", attempt=3, message=message, fields=fields
    )
    assert json.loads(rendered)["message"] == message
    assert rendered.decode().splitlines(keepends=True) == [rendered.decode()]
    shown_lines = render_text(rendered).decode().splitlines(keepends=True)
    assert len(shown_lines) == 1
    assert shown_lines[0].startswith("2026-11-22T02:02:02.123456Z INFO    ")
