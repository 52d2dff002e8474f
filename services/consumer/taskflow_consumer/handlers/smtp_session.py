"""One conversation with the SMTP server, and what its answers mean for a job."""

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponse,
    SMTPResponseException,
)

from taskflow import Fail, Retry
from taskflow.sdk.job_log import JobLogger
from taskflow.settings import MailSettings

MAX_REPLY_CHARACTERS = 500
MAX_REFUSALS_TOLD = 5
LEAVE_SECONDS = 3.0

_PERMANENT = range(500, 600)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Who has the message now, and what the server said to the others."""

    accepted: Sequence[str]
    refused: Mapping[str, SMTPResponse]

    def raise_for_refused(self) -> None:
        """Do nothing if nobody was refused.

        Raises:
            Retry: somebody was refused for now.
            Fail: somebody was refused, and all of those for good.
        """
        if not self.refused:
            return
        told = [f"{who}: {_line(said)}" for who, said in self.refused.items()][:MAX_REFUSALS_TOLD]
        others = "the others have it" if self.accepted else "nobody has got it by this attempt"
        message = f"The server refused {len(self.refused)} of the recipients; {others}."
        is_final = all(said.code in _PERMANENT for said in self.refused.values())
        raise (Fail if is_final else Retry)(f"{message} {'; '.join(told)}")


class SmtpSession:
    """A connection to the server of the settings, to which we are `own_name`.

    Its methods raise Retry where the server doesn't answer or refuses something for now, Fail
    where it refuses something for good or isn't who it should be.
    """

    def __init__(self, settings: MailSettings, own_name: str, log: JobLogger) -> None:
        self._settings = settings
        self._log = log
        self._smtp = SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            timeout=settings.smtp_timeout_seconds,
            use_tls=settings.smtp_security == "tls",
            start_tls=False,  # by us, so that it is in the log
            local_hostname=own_name,
        )

    async def open(self) -> None:
        """Connect, make it private, and log in, as far as the settings say."""
        smtp, settings = self._smtp, self._settings
        with self._meaning():
            self._say("connect", await smtp.connect())
            self._say("EHLO", await smtp.ehlo())
            if settings.smtp_security == "starttls":
                self._say("STARTTLS", await smtp.starttls())
                self._say("EHLO", await smtp.ehlo())
            if settings.smtp_username:
                password = settings.smtp_password.get_secret_value()
                self._say("AUTH", await smtp.login(settings.smtp_username, password))

    async def deliver(self, sender: str, recipients: Sequence[str], message: bytes) -> Delivery:
        """Hand over the message for those recipients whom the server takes."""
        smtp = self._smtp
        accepted: list[str] = []
        refused: dict[str, SMTPResponse] = {}
        with self._meaning():
            options = [f"SIZE={len(message)}"] if smtp.supports_extension("size") else []
            self._say(f"MAIL FROM:<{sender}>", await smtp.mail(sender, options=options))
            for recipient in recipients:
                try:
                    reply = await smtp.rcpt(recipient)
                    accepted.append(recipient)
                except SMTPRecipientRefused as error:
                    reply = refused[recipient] = SMTPResponse(error.code, error.message)
                self._say(f"RCPT TO:<{recipient}>", reply)
            if accepted:
                self._say("DATA", await smtp.data(message), message_bytes=len(message))
        return Delivery(accepted, refused)

    async def leave(self) -> None:
        """Say goodbye; what was accepted is accepted, whatever comes of this."""
        with suppress(SMTPException, OSError):
            self._say("QUIT", await self._smtp.quit(timeout=LEAVE_SECONDS))

    def close(self) -> None:
        """Close the connection, without a word where none was said."""
        self._smtp.close()

    def _say(self, command: str, reply: SMTPResponse, **fields: object) -> None:
        self._log.info("smtp", command=command, code=reply.code, reply=_text(reply), **fields)

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        server = f"{self._settings.smtp_host}:{self._settings.smtp_port}"
        try:
            yield
        except SMTPResponseException as error:
            said = _line(SMTPResponse(error.code, error.message))
            kind = Fail if error.code in _PERMANENT else Retry
            raise kind(f"The SMTP server {server} answered: {said}") from None
        except (SMTPException, OSError) as error:
            raise _meaning(error, server) from None


@asynccontextmanager
async def smtp_session(
    settings: MailSettings, own_name: str, log: JobLogger
) -> AsyncIterator[SmtpSession]:
    """A session that is ready to take messages; errors as `SmtpSession`."""
    session = SmtpSession(settings, own_name, log)
    try:
        await session.open()
        yield session
        await session.leave()
    finally:
        session.close()


def _meaning(error: SMTPException | OSError, server: str) -> Retry | Fail:
    for cause in (error, error.__cause__):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Fail(
                f"The certificate of the SMTP server {server} (TASKFLOW_SMTP_HOST) is not valid:"
                f" {cause.verify_message.rstrip('.')}."
            )
    if isinstance(error, OSError):  # most of aiosmtplib's own about connections among them
        return Retry(f"The SMTP server {server} can't be reached: {error or type(error).__name__}")
    return Fail(
        f"The SMTP server {server} can't do what TASKFLOW_SMTP_SECURITY and TASKFLOW_SMTP_USERNAME"
        f" ask for: {error}"
    )


def _line(reply: SMTPResponse) -> str:
    return f"{reply.code} {_text(reply)}"


def _text(reply: SMTPResponse) -> str:
    """What the server said, on one line; bytes that are no text are replaced."""
    text = reply.message.encode("utf-8", "replace").decode()
    return " ".join(text.split())[:MAX_REPLY_CHARACTERS]
