"""Which form of a log a client takes, by its Accept header (RFC 9110, section 12.5.1)."""

import re

from taskflow_api.log_parts import LogFormat
from taskflow_api.problems import NOT_ACCEPTABLE, ProblemError

_NAMES = {
    "text/plain": LogFormat.TEXT,
    "application/x-ndjson": LogFormat.JSON_LINES,
    "application/ndjson": LogFormat.JSON_LINES,
    "application/jsonl": LogFormat.JSON_LINES,
    "application/x-jsonlines": LogFormat.JSON_LINES,
    "*/*": LogFormat.TEXT,
    "text/*": LogFormat.TEXT,
    "application/*": LogFormat.JSON_LINES,
}
_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE | re.ASCII)


def log_format(accept: str | None) -> LogFormat:
    """The form that the client likes best; text where it doesn't say.

    Raises:
        ProblemError: 406, it takes neither.
    """
    if not accept or not accept.strip():
        return LogFormat.TEXT
    liked: list[tuple[float, LogFormat]] = []
    for entry in accept.split(","):
        name, *parameters = entry.split(";")
        offered = _NAMES.get(name.strip().lower())
        quality = _quality(parameters)
        if offered is not None and quality > 0:
            liked.append((quality, offered))
    if not liked:
        raise ProblemError(
            NOT_ACCEPTABLE, f"A log is offered as {LogFormat.TEXT} and {LogFormat.JSON_LINES}."
        )
    return max(liked, key=lambda preference: preference[0])[1]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if found := _QUALITY.fullmatch(parameter):
            return float(found[1])
    return 1.0
