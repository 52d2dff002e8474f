"""`email.send`: one message through the SMTP server of the settings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from taskflow import Fail, JobContext, job
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.backoff import Backoff
from taskflow.settings import MAILBOX, MailSettings, load_settings
from taskflow_consumer.handlers.mail_headers import put_addresses, put_text
from taskflow_consumer.handlers.smtp_session import smtp_session

MOST_RECIPIENTS = 100
LARGEST_TEXT_CHARACTERS = 1024 * 1024

# A server need not take more than seven bits.
_POLICY = policy.SMTP.clone(cte_type="7bit")

_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"


def mailbox(text: str) -> Address:
    """A recipient taken apart.

    Raises:
        ValueError: it isn't of the form of one.
    """
    found = MAILBOX.fullmatch(text)
    if found is None:
        raise ValueError("must be ada@example.com or Ada Lovelace <ada@example.com>")
    name = (found["name"] or "").strip().strip('"').strip()
    return Address(display_name=name, addr_spec=found["named"] or found["bare"])


def _checked(text: str) -> str:
    mailbox(text)
    return text


Recipient = Annotated[
    str,
    # The pattern is for whoever reads the schema; what it lets through, the function looks at.
    Field(
        max_length=320,
        pattern=rf"^([^<>{_CONTROL}]*<)?[^\s<>@,;]+@[A-Za-z0-9.-]+>?$",
        description="`ada@example.com`, or `Ada Lovelace <ada@example.com>`",
    ),
    AfterValidator(_checked),
]
Recipients = Annotated[list[Recipient], Field(max_length=MOST_RECIPIENTS)]


class EmailSend(BaseModel):
    """A message. The sender is the one of TASKFLOW_SMTP_FROM."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"anyOf": [{"required": ["text"]}, {"required": ["html"]}]},
    )

    to: Recipients = Field(min_length=1)
    cc: Recipients = []
    bcc: Recipients = []
    subject: str = Field(max_length=500, pattern=rf"^[^{_CONTROL}]*$")
    text: str | None = Field(None, max_length=LARGEST_TEXT_CHARACTERS)
    html: str | None = Field(None, max_length=LARGEST_TEXT_CHARACTERS)
    reply_to: Recipient | None = None

    @model_validator(mode="after")
    def _says_something_to_not_too_many(self) -> Self:
        if self.text is None and self.html is None:
            raise ValueError("text or html is needed")
        if len(self.to) + len(self.cc) + len(self.bcc) > MOST_RECIPIENTS:
            raise ValueError(f"to, cc and bcc have at most {MOST_RECIPIENTS} together")
        return self

    @property
    def recipients(self) -> list[str]:
        """The bare addresses of all, each once."""
        everybody = (*self.to, *self.cc, *self.bcc)
        return list(dict.fromkeys(mailbox(each).addr_spec for each in everybody))


@job("email.send", timeout_seconds=300, max_attempts=6, backoff=Backoff(5.0, 5.0))
async def email_send(payload: EmailSend, ctx: JobContext) -> Mapping[str, Any]:
    """Send a message by SMTP.

    What the server refuses for now (4xx, no connection) is tried again, for those recipients who
    haven't got it yet; what it refuses for good (5xx) fails.
    """
    settings = load_settings(MailSettings)
    if not settings.smtp_host:
        raise Fail(
            "No mail can be sent: TASKFLOW_SMTP_HOST is not set. Who runs TaskFlow sets it, and"
            " TASKFLOW_SMTP_FROM."
        )
    sender = mailbox(settings.smtp_from)
    message = compose(payload, sender, ctx.job_id)
    delivered: list[str] = ctx.checkpoint.value or []
    missing = [each for each in payload.recipients if each not in delivered]
    if missing:
        async with smtp_session(settings, sender.domain, ctx.log) as session:
            delivery = await session.deliver(sender.addr_spec, missing, message.as_bytes())
            if delivery.accepted:
                await _note(ctx, [*delivered, *delivery.accepted])
        delivery.raise_for_refused()
    return {"message_id": message["Message-ID"], "recipients": payload.recipients}


async def _note(ctx: JobContext, have_it: list[str]) -> None:
    try:
        await ctx.checkpoint.save(have_it)
    except ServiceUnavailable:
        # To fail for this would send it to all of them again; the outcome is kept until recorded.
        ctx.log.warning("who has the message could not be noted")


def compose(payload: EmailSend, sender: Address, job_id: UUID) -> EmailMessage:
    """The message. Its id comes from the job's, so that a second sending can be recognised."""
    message = EmailMessage(policy=_POLICY)
    put_addresses(message, "From", [sender])
    put_addresses(message, "To", map(mailbox, payload.to))
    if payload.cc:
        put_addresses(message, "Cc", map(mailbox, payload.cc))
    if payload.reply_to is not None:
        put_addresses(message, "Reply-To", [mailbox(payload.reply_to)])
    put_text(message, "Subject", payload.subject)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{job_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    if payload.text is not None:
        message.set_content(payload.text)
    if payload.html is not None and payload.text is None:
        message.set_content(payload.html, subtype="html")
    elif payload.html is not None:
        message.add_alternative(payload.html, subtype="html")
    return message
