"""What is made of pip-audit's answers; those of `recorded` are its own."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from taskflow_audit.tools import Ended
from taskflow_audit.verdict import AuditBroke, Level
from taskflow_audit.vulnerabilities import audit_vulnerabilities, read_answer

RECORDED = Path(__file__).parent / "recorded"
VULNERABLE = (RECORDED / "vulnerable.json").read_text()
CLEAN = (RECORDED / "clean.json").read_text()
NO_FEED = (RECORDED / "mirror_without_feed.json").read_text()
URLLIB3 = "urllib3 1.24.1: PYSEC-2019-133, CVE-2019-11324, GHSA-mh33-7rrq-662w; mended in 1.24.2"

EXPORTED = """\
redis==8.1.0 \\
    --hash=sha256:a4fe1aac3d3b3cc791d4b3d5931c5a956045dc951ee74d1c913ee3ac4d2ee9fb
colorama==0.4.6 ; sys_platform == 'no such platform' \\
    --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6
"""


class PipAudit:
    """Gives one answer after the other, and keeps what it was asked."""

    def __init__(self, *answers: Ended) -> None:
        self.answers = list(answers)
        self.asked: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str]) -> Ended:
        self.asked.append(arguments)
        return self.answers.pop(0)


def told(output: str, code: int = 0) -> Ended:
    return Ended(code, output, "")


def test_an_answer_is_read() -> None:
    answer = read_answer(VULNERABLE)
    assert answer.looked_up == {"urllib3", "redis"}
    assert (answer.vulnerable, answer.unknown) == ((URLLIB3,), ())
    answer = read_answer(NO_FEED)
    assert answer.looked_up == frozenset()
    assert answer.unknown[0].startswith("urllib3: Dependency not found on PyPI")


@pytest.mark.parametrize(
    "output", ["", "Traceback", "[]", "{}", '{"dependencies": [{"version": "1", "vulns": []}]}']
)
def test_an_answer_that_is_none(output: str) -> None:
    with pytest.raises(AuditBroke):
        read_answer(output)


def test_nothing_known_is_well(tmp_path: Path) -> None:
    pip_audit = PipAudit(told(VULNERABLE, 1), told(CLEAN))
    verdict = audit_vulnerabilities(pip_audit, EXPORTED, tmp_path)
    assert (verdict.level, verdict.text) == (Level.OK, "none known in 1 packages")
    canary, everything = pip_audit.asked
    assert "--no-deps" in canary
    assert "--require-hashes" in everything
    assert Path(everything[-1]).read_text() == EXPORTED


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (VULNERABLE, URLLIB3),
        (
            '{"dependencies": [{"name": "redis", "skip_reason": "Dependency not found"}]}',
            "redis: Dependency not found",
        ),
        ('{"dependencies": []}', "redis: nothing is said of it"),
    ],
)
def test_what_is_known_or_can_not_be_looked_up_is_a_failure(
    tmp_path: Path, answer: str, detail: str
) -> None:
    pip_audit = PipAudit(told(VULNERABLE, 1), told(answer))
    verdict = audit_vulnerabilities(pip_audit, EXPORTED, tmp_path)
    assert verdict.level is Level.FAIL
    assert detail in verdict.details


@pytest.mark.parametrize(
    "canary", [told(NO_FEED), Ended(1, "", "Traceback\nConnectionError: no such host")]
)
def test_a_feed_out_of_reach_is_said_aloud(tmp_path: Path, canary: Ended) -> None:
    pip_audit = PipAudit(canary)
    verdict = audit_vulnerabilities(pip_audit, EXPORTED, tmp_path)
    assert verdict.level is Level.SKIPPED
    assert str(verdict).startswith("SKIPPED")
    assert len(pip_audit.asked) == 1


def test_a_feed_that_fails_half_way_is_a_failure(tmp_path: Path) -> None:
    pip_audit = PipAudit(told(VULNERABLE, 1), Ended(1, "", "Traceback\nConnectionError: reset"))
    verdict = audit_vulnerabilities(pip_audit, EXPORTED, tmp_path)
    assert (verdict.level, "reset" in verdict.text) == (Level.FAIL, True)


def test_a_feed_that_knows_nothing_of_the_canary_is_no_feed(tmp_path: Path) -> None:
    blank = json.dumps({"dependencies": [{"name": "urllib3", "version": "1.24.1", "vulns": []}]})
    verdict = audit_vulnerabilities(PipAudit(told(blank)), EXPORTED, tmp_path)
    assert verdict.level is Level.FAIL
