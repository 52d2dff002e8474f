"""What `make audit` makes of its verdicts."""

import sys
from collections.abc import Sequence

import pytest

from taskflow_audit.__main__ import main
from taskflow_audit.verdict import AuditBroke, Level, Verdict


@pytest.mark.parametrize(
    ("options", "level", "code"),
    [
        ([], Level.OK, 0),
        ([], Level.SKIPPED, 0),
        ([], Level.FAIL, 1),
        (["--feed-required"], Level.OK, 0),
        (["--feed-required"], Level.SKIPPED, 1),
        (["--feed-required"], Level.FAIL, 1),
    ],
)
def test_what_could_not_be_checked_is_a_failure_where_the_feed_is_required(
    monkeypatch: pytest.MonkeyPatch, options: Sequence[str], level: Level, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["make audit", *options])
    found = [Verdict("one", level, "is so"), Verdict("other", Level.OK, "is well")]
    monkeypatch.setattr("taskflow_audit.__main__._verdicts", lambda _: iter(found))
    assert main() == code


def test_a_tool_that_is_missing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> list[Verdict]:
        raise AuditBroke("there is no uv here")

    monkeypatch.setattr(sys, "argv", ["make audit"])
    monkeypatch.setattr("taskflow_audit.__main__._verdicts", broken)
    assert main() == 1
    assert capsys.readouterr().err == "audit: there is no uv here\n"
