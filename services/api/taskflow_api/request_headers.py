"""Headers with a meaning for jobs: Idempotency-Key and Prefer."""

import re
from typing import Annotated

from fastapi import Header, Request

from taskflow_api.problems import MALFORMED_HEADER, ProblemError

MAX_KEY_CHARACTERS = 255
MAX_WAIT_SECONDS = 30
KEY_PATTERN = r'^([!#-~]([ -~]{0,253}[!-~])?|"([ !#-\[\]-~]|\\["\\]){1,255}")$'

_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_WAIT = re.compile(r'wait\s*=\s*("?)(\d{1,9})\1\s*(?:;.*)?', re.IGNORECASE | re.ASCII)


async def idempotency_key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1-255 printable characters, bare or quoted. The same key with the same"
            " body gives the first answer again, for 24 hours.",
            examples=["order-4711"],
            # For readers alone: one that is malformed is a 400, not the 422 of a pattern.
            json_schema_extra={"pattern": KEY_PATTERN},
        ),
    ] = None,
) -> str | None:
    """The key of the request, without its quotes, or None.

    Raises:
        ProblemError: 400, it is malformed or sent twice.
    """
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        raise ProblemError(MALFORMED_HEADER, "Idempotency-Key was sent more than once.")
    return None if idempotency_key is None else _parse_key(idempotency_key.strip())


def _parse_key(text: str) -> str:
    key = text
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        if quoted is None:
            raise ProblemError(MALFORMED_HEADER, "Idempotency-Key is not a well-formed string.")
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not _PRINTABLE.fullmatch(key):
        raise ProblemError(
            MALFORMED_HEADER,
            f"Idempotency-Key must have 1 to {MAX_KEY_CHARACTERS} printable ASCII characters.",
        )
    return key


async def wait_seconds(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description=f"`wait=N` holds the answer until the job ends, at most N seconds"
            f" (at most {MAX_WAIT_SECONDS}).",
            examples=["wait=10"],
        ),
    ] = None,
) -> int | None:
    """For how long the client likes to wait, or None; a malformed preference is ignored."""
    del prefer  # Named for the documentation; a header may be sent more than once.
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        if found := _WAIT.fullmatch(preference.strip()):
            return min(int(found[2]), MAX_WAIT_SECONDS)
    return None
