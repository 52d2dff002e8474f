"""`http.request`: call a URL and keep what it answers."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator
from pydantic_core import to_json

from taskflow import Fail, JobContext, Retry, job
from taskflow.outbound.addresses import AddressRule
from taskflow.outbound.answers import Answer
from taskflow.outbound.client import Limits, OutboundClient
from taskflow.outbound.errors import OutboundError
from taskflow.outbound.redaction import names_a_secret, redacted_url
from taskflow.outbound.requests import Header, OutboundRequest, outbound_request
from taskflow.settings import OutboundSettings, load_settings
from taskflow_consumer.handlers.http_transcript import HttpTranscript

LONGEST_SECONDS = 300.0
LARGEST_ANSWER_BYTES = 1024 * 1024
LARGEST_BODY_BYTES = 1024 * 1024
MOST_REDIRECTS = 5
IDEMPOTENCY_KEY = "Idempotency-Key"

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Status = Annotated[int, Field(ge=100, le=599)]


class HttpRequest(BaseModel):
    """What to send where, and which answer is a good one."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"not": {"required": ["body", "json"]}}
    )

    url: str = Field(min_length=8, max_length=8192, pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://")
    method: Method = "GET"
    headers: dict[str, str] = Field({}, max_length=50)
    secret_headers: dict[str, SecretStr] = Field(
        {}, max_length=10, description="Headers whose values are not shown anywhere."
    )
    body: str | None = Field(None, max_length=LARGEST_BODY_BYTES, description="Text to send.")
    json_body: JsonValue = Field(None, alias="json", description="A JSON value to send.")
    timeout_seconds: float = Field(30.0, gt=0, le=LONGEST_SECONDS)
    expected_statuses: list[Status] | None = Field(
        None, min_length=1, max_length=50, description="By default 200 to 299."
    )
    follow_redirects: int = Field(0, ge=0, le=MOST_REDIRECTS)
    max_answer_bytes: int = Field(
        32 * 1024, ge=0, le=LARGEST_ANSWER_BYTES, description="More of an answer is cut off."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if {"body", "json_body"} <= self.model_fields_set:
            raise ValueError("body and json exclude each other")
        names = [name.lower() for name, _ in self.all_headers]
        if len(names) != len(set(names)):
            raise ValueError("a header is given twice")
        return self

    @property
    def all_headers(self) -> list[Header]:
        """Those that are shown and those that are not."""
        secret = self.secret_headers.items()
        return [
            *self.headers.items(),
            *((name, value.get_secret_value()) for name, value in secret),
        ]

    @property
    def secrets(self) -> list[str]:
        """The values that are not to be shown, as `Bearer x` and as `x`."""
        values = [
            value.strip()
            for name, value in self.all_headers
            if name in self.secret_headers or names_a_secret(name)
        ]
        return [*values, *(part for value in values for part in value.split())]

    def expects(self, status: int) -> bool:
        """Whether an answer with this status is a good one."""
        if self.expected_statuses is None:
            return 200 <= status <= 299  # noqa: PLR2004 - what "2xx" means
        return status in self.expected_statuses

    def to_send(self, idempotency_key: str) -> OutboundRequest:
        """The request.

        Raises:
            RequestRefused: it can't be sent.
        """
        content_type, body = self._content()
        ours = {"Content-Type": content_type, IDEMPOTENCY_KEY: idempotency_key}
        given = self.all_headers
        names = {name.lower() for name, _ in given}
        added: list[Header] = [
            (name, value) for name, value in ours.items() if value and name.lower() not in names
        ]
        return outbound_request(self.method, self.url, [*given, *added], body)

    def _content(self) -> tuple[str | None, bytes]:
        if "json_body" in self.model_fields_set:
            return "application/json", to_json(self.json_body)
        if self.body is not None:
            return "text/plain; charset=utf-8", self.body.encode()
        return None, b""


@job("http.request", timeout_seconds=LONGEST_SECONDS + 30)
async def http_request(payload: HttpRequest, ctx: JobContext) -> Mapping[str, Any]:
    """Call a URL and keep what it answers.

    A connection that fails and the statuses 408, 425, 429 and 5xx are tried again, after
    `Retry-After` where the server says so; any other status that isn't expected fails for good.
    """
    transcript = HttpTranscript(ctx.log, payload.secret_headers, payload.secrets)
    limits = Limits(
        total_seconds=payload.timeout_seconds,
        body_bytes=payload.max_answer_bytes,
        redirects=payload.follow_redirects,
    )
    try:
        request = payload.to_send(str(ctx.job_id))
        transcript.sends(request)
        answer = await _client().send(request, limits)
    except OutboundError as error:
        said = transcript.without_secrets(str(error))
        raise (Retry if error.is_retryable else Fail)(said) from None
    if payload.expects(answer.status):
        transcript.received(answer)
        return transcript.result(answer)
    transcript.received_unexpected(answer)
    raise _failure(payload, answer, transcript)


@cache
def _client() -> OutboundClient:
    """Made when the first job needs it: in a process of its own there is nobody to pass it on."""
    return OutboundClient(AddressRule(load_settings(OutboundSettings).outbound_allowed_networks))


def _failure(payload: HttpRequest, answer: Answer, transcript: HttpTranscript) -> Retry | Fail:
    url = transcript.without_secrets(redacted_url(answer.url))
    said = f"{payload.method} {url} was answered with {answer.status}"
    said = f"{said} {answer.reason}".rstrip()
    if answer.may_pass:
        return Retry(f"{said}.", answer.retry_after_seconds())
    wanted = ", ".join(map(str, payload.expected_statuses or ())) or "2xx"
    hint = "; follow_redirects lets it follow" if answer.header("location") else ""
    return Fail(f"{said}; expected: {wanted}{hint}. The job's log has more.")
