"""The report of `taskflow doctor`, for people and for programs."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from taskflow.doctor.diagnosis import Diagnosis, Level, exit_code

WIDTH = 118
_INDENT = " " * 19
_MARKS = {Level.OK: "ok", Level.WARN: "WARN", Level.UNSEEN: "????", Level.FAIL: "FAIL"}


def as_text(diagnoses: Sequence[Diagnosis]) -> str:
    """A short list, with what to do below each line that is not well."""
    lines = [line for diagnosis in diagnoses for line in _lines(diagnosis)]
    return "\n".join([*lines, "", _verdict(diagnoses)])


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    head = f"{_MARKS[diagnosis.level]:<5} {diagnosis.subject:<12} "
    yield from _wrapped(head, diagnosis.text)
    for detail in diagnosis.details:
        yield from _wrapped(f"{_INDENT}- ", detail)
    if diagnosis.what_to_do is not None:
        yield from _wrapped(f"{_INDENT}> ", diagnosis.what_to_do)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(diagnoses: Sequence[Diagnosis]) -> str:
    counts = {level: sum(each.level is level for each in diagnoses) for level in Level}
    if not any(counts[level] for level in (Level.WARN, Level.UNSEEN, Level.FAIL)):
        return "All is well."
    words = {
        Level.FAIL: "broken",
        Level.UNSEEN: "could not be looked at",
        Level.WARN: "to look at",
    }
    return (
        ", ".join(f"{counts[level]} {word}" for level, word in words.items() if counts[level]) + "."
    )


def as_json(diagnoses: Sequence[Diagnosis]) -> str:
    """One object: `exit_code`, and `checks` with level, subject, text, what_to_do and details."""
    return json.dumps(
        {
            "exit_code": exit_code(diagnoses),
            "checks": [asdict(diagnosis) for diagnosis in diagnoses],
        },
        indent=2,
    )
