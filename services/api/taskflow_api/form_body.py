"""A request's body as OAuth 2 sends it: a form (RFC 6749, appendix B)."""

import re
from typing import TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel

from taskflow_api.json_body import read_body, validated
from taskflow_api.problems import MALFORMED_BODY, ProblemError

Model = TypeVar("Model", bound=BaseModel)

MAX_FIELDS = 20

_FORM_TYPE = re.compile(
    r'application/x-www-form-urlencoded\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE
)


async def read_form_or_body(request: Request, model: type[Model]) -> Model:
    """The body as `model`, of a form or of JSON; what a form has beyond it is left out.

    Raises:
        ProblemError: 400, it is neither; 415, it doesn't claim to be; 422, the model refuses it.
    """
    if not _FORM_TYPE.fullmatch(request.headers.get("Content-Type", "")):
        return await read_body(request, model)
    fields = parse_form(await request.body())
    known = {name: value for name, value in fields.items() if name in model.model_fields}
    return validated(model, known)


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form in UTF-8; those that are empty count as left out.

    Raises:
        ProblemError: 400, it is none, or has a field twice.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise ProblemError(MALFORMED_BODY, "The body is not a form in UTF-8.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ProblemError(MALFORMED_BODY, "The form has a field twice.")
    return {name: value for name, value in fields.items() if value}
