"""A real SMTP server on loopback whose refusals are a script."""

import asyncio
import ssl
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True)
class Mail:
    sender: str
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        message = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


class MailServer:
    """An async context manager. `replies` holds what RCPT is answered, by address, in turn."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, starttls: bool = False) -> None:
        self.mails: list[Mail] = []
        self.replies: dict[str, list[str]] = {}
        self.data_replies: list[str] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.accounts: dict[bytes, bytes] = {}
        self.quits = 0
        self._tls = None if starttls else tls
        self._starttls = tls if starttls else None
        self._server: asyncio.Server | None = None
        self._sessions: set[SMTP] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            if session.transport is not None:
                session.transport.close()
        await self._server.wait_closed()

    async def handle_RCPT(  # noqa: N802 - the library's name
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        replies = self.replies.get(address)
        reply = replies.pop(0) if replies else "250 OK"
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = self.data_replies.pop(0) if self.data_replies else "250 queued as 7"
        if reply.startswith("2"):
            assert envelope.mail_from is not None
            assert isinstance(envelope.content, bytes)
            mail = Mail(envelope.mail_from, list(envelope.rcpt_tos), envelope.content)
            self.mails.append(mail)
        return reply

    async def handle_QUIT(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        self.quits += 1
        return "221 Bye"

    def _session(self) -> SMTP:
        session = SMTP(
            self,
            hostname="mail.example",
            tls_context=self._starttls,
            require_starttls=self._starttls is not None,
            authenticator=self._authenticate,
            auth_require_tls=self._starttls is not None,
            auth_required=bool(self.accounts),
            loop=asyncio.get_running_loop(),
        )
        self._sessions.add(session)
        return session

    def _authenticate(self, *about: Any) -> AuthResult:
        login: LoginPassword = about[-1]
        self.logins.append((login.login, login.password))
        is_right = self.accounts.get(login.login) == login.password
        return AuthResult(success=is_right, handled=False)
