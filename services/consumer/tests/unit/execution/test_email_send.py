"""`email.send` against a real SMTP server."""

import json
import ssl
from collections.abc import AsyncIterator
from email import policy
from email.header import decode_header, make_header
from email.parser import Parser
from email.utils import getaddresses
from pathlib import Path
from typing import Any

import pytest
import trustme

from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow.sdk.registry import Registry
from taskflow_testing.mail_server import MailServer
from taskflow_testing.tcp_proxy import TcpProxy

from .harness import Harness

REGISTRY = Registry.from_modules(["taskflow_consumer.handlers.email_send"])
MESSAGE = {"to": ["ada@example.com"], "subject": "Hello", "text": "Good morning"}
ADA, BOB, EVE = "ada@example.com", "bob@example.com", "eve@example.com"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailServer]:
    async with MailServer() as server:
        configure(monkeypatch, server, smtp_security="none")
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def configure(monkeypatch: pytest.MonkeyPatch, server: MailServer, **settings: str) -> None:
    defaults = {"smtp_host": "localhost", "smtp_from": "Task Flow <jobs@taskflow.example>"}
    for name, value in {**defaults, "smtp_port": str(server.port), **settings}.items():
        monkeypatch.setenv(f"TASKFLOW_{name.upper()}", value)


async def send(
    harness: Harness, payload: dict[str, Any] | None = None, checkpoint: object = None
) -> tuple[Outcome, str, ClaimedJob]:
    claimed = harness.claim("email.send", payload or MESSAGE, checkpoint=checkpoint)
    outcome = await harness.run(harness.executor(REGISTRY), claimed)
    return outcome, harness.text(claimed), claimed


def message_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.message


async def test_a_message_arrives(harness: Harness, server: MailServer) -> None:
    payload = {
        "to": ["Ada Lovelace <ada@example.com>", BOB],
        "cc": ["Zoë, the third <zoe@example.com>"],
        "bcc": [EVE, BOB],
        "subject": "Grüße 🎈",
        "text": "Guten Tag, Ada\n.\nein Punkt\n" + "lang " * 400,
        "html": "<p>Guten Tag, <b>Ada</b></p>",
        "reply_to": "Help <help@example.com>",
    }
    outcome, log, claimed = await send(harness, payload)
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    (mail,) = server.mails
    assert mail.sender == "jobs@taskflow.example"
    assert mail.recipients == [ADA, BOB, "zoe@example.com", EVE]
    message = mail.message
    assert message["From"] == "Task Flow <jobs@taskflow.example>"
    assert message["To"] == "Ada Lovelace <ada@example.com>, bob@example.com"
    assert message["Cc"] == '"Zoë, the third" <zoe@example.com>'
    assert message["Bcc"] is None
    assert EVE not in mail.content.decode()
    assert message["Subject"] == "Grüße 🎈"
    assert message["Reply-To"] == "Help <help@example.com>"
    assert message["Message-ID"] == f"<{claimed.attempt.job_id}@taskflow.example>"
    text, html = message.iter_parts()
    assert text.get_content().splitlines()[:3] == ["Guten Tag, Ada", ".", "ein Punkt"]
    assert html.get_content_type() == "text/html"
    assert max(map(len, mail.content.splitlines())) <= 998
    assert json.loads(outcome.result_json or "") == {
        "message_id": message["Message-ID"],
        "recipients": mail.recipients,
    }
    assert "RCPT TO:<eve@example.com>" in log
    assert "queued as 7" in log
    assert server.quits == 1


LINE_BREAKS = "=?utf-8?q?Hello=0D=0ABcc:_evil@example.com=0D=0A=0D=0ABody?="


@pytest.mark.parametrize(
    "text",
    [
        LINE_BREAKS,
        f"Hello {LINE_BREAKS} again",
        f"{LINE_BREAKS} Grüße",
        "=?utf-8?b?SGVsbG8=?=",
        *(" a ", "a=?b", "x" * 500, "ä" * 250),
        "long " * 15 + ", evil@example.com",
        "long " * 15 + "\\, evil@example.com, b",
        "Ünï, evil@example.com",
        "a, b: c; (d) [e] @ \\",
    ],
)
async def test_a_text_in_a_header_is_what_it_says(
    harness: Harness, server: MailServer, text: str
) -> None:
    name = text[:250].strip()
    named = {"to": [f"{name} <{ADA}>"], "cc": [BOB, f"{name} <{EVE}>"]}
    outcome, _, _ = await send(harness, {**MESSAGE, "subject": text, **named})
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    head, _, body = server.mails[0].content.partition(b"\r\n\r\n")
    assert body.rstrip() == b"Good morning"
    lines = head.decode("ascii").split("\r\n")
    assert max(map(len, lines)) <= 78
    read = Parser(policy=policy.compat32).parsestr("\n".join(lines))
    assert "Bcc" not in read
    assert str(make_header(decode_header(read["Subject"]))) == text
    [(to, ada)] = getaddresses([read["To"]])
    assert (str(make_header(decode_header(to))), ada) == (name, ADA)
    assert [address for _, address in getaddresses([read["Cc"]])] == [BOB, EVE]


async def test_html_alone(harness: Harness, server: MailServer) -> None:
    await send(harness, {"to": [ADA], "subject": "", "html": "<p>x</p>"})
    assert server.mails[0].message.get_content_type() == "text/html"


async def test_without_a_server_it_says_which_setting_is_missing(harness: Harness) -> None:
    outcome, _, _ = await send(harness)
    assert outcome.kind is OutcomeKind.FAILED
    assert "TASKFLOW_SMTP_HOST is not set" in message_of(outcome)


async def test_greylisting_is_waited_for(harness: Harness, server: MailServer) -> None:
    server.replies[ADA] = ["451 4.7.1 come back later"]
    outcome, log, _ = await send(harness)
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert "451" in message_of(outcome)
    assert "come back later" in log
    assert server.mails == []
    assert harness.checkpoints.saved == []
    outcome, _, _ = await send(harness)
    assert outcome.kind is OutcomeKind.COMPLETED


async def test_who_has_it_does_not_get_it_again(harness: Harness, server: MailServer) -> None:
    server.replies[BOB] = ["450 greylisted"]
    payload = {**MESSAGE, "to": [ADA, BOB]}
    outcome, _, _ = await send(harness, payload)
    assert outcome.kind is OutcomeKind.RETRYABLE
    (saved,) = harness.checkpoints.saved
    outcome, _, _ = await send(harness, payload, checkpoint=json.loads(saved))
    assert outcome.kind is OutcomeKind.COMPLETED
    assert [mail.recipients for mail in server.mails] == [[ADA], [BOB]]
    outcome, _, _ = await send(harness, payload, checkpoint=[ADA, BOB])
    assert outcome.kind is OutcomeKind.COMPLETED
    assert len(server.mails) == 2


async def test_who_all_have_it_do_not_get_it_again_for_want_of_a_note(
    harness: Harness, server: MailServer
) -> None:
    harness.checkpoints.is_away = True
    outcome, _, _ = await send(harness)
    assert outcome.kind is OutcomeKind.COMPLETED
    server.replies[BOB] = ["450 greylisted"]
    outcome, _, _ = await send(harness, {**MESSAGE, "to": [ADA, BOB]})
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert "450 greylisted" in message_of(outcome)


async def test_a_recipient_who_is_refused_fails_it(harness: Harness, server: MailServer) -> None:
    server.replies[BOB] = ["550 5.1.1 no such user"]
    outcome, _, _ = await send(harness, {**MESSAGE, "to": [ADA, BOB]})
    assert outcome.kind is OutcomeKind.FAILED
    assert "bob@example.com: 550 5.1.1 no such user" in message_of(outcome)
    assert "the others have it" in message_of(outcome)
    assert [mail.recipients for mail in server.mails] == [[ADA]]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [("554 spam", OutcomeKind.FAILED), ("452 disk full", OutcomeKind.RETRYABLE)],
)
async def test_a_message_that_is_refused(
    harness: Harness, server: MailServer, reply: str, kind: OutcomeKind
) -> None:
    server.data_replies = [reply]
    outcome, _, _ = await send(harness)
    assert outcome.kind is kind
    assert reply in message_of(outcome)
    assert harness.checkpoints.saved == []


async def test_a_server_that_is_away_is_tried_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MailServer() as server:
        configure(monkeypatch, server, smtp_security="none")
    outcome, _, _ = await send(harness)
    assert outcome.kind is OutcomeKind.RETRYABLE


async def test_a_server_that_falls_silent(
    harness: Harness, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKFLOW_SMTP_TIMEOUT_SECONDS", "0.3")
    async with TcpProxy(f"smtp://127.0.0.1:{server.port}") as network:
        monkeypatch.setenv("TASKFLOW_SMTP_PORT", network.url.rpartition(":")[2])
        network.freeze()
        outcome, _, _ = await send(harness)
        assert outcome.kind is OutcomeKind.RETRYABLE
        network.thaw()
        network.answer_limit_bytes = 60
        outcome, _, _ = await send(harness)
        assert outcome.kind is OutcomeKind.RETRYABLE
    assert server.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # aiosmtpd knows of STARTTLS alone
@pytest.mark.usefixtures("trusted")
async def test_a_private_connection_and_a_login(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext, security: str
) -> None:
    async with MailServer(tls, starttls=security == "starttls") as server:
        server.accounts = {b"taskflow": b"canary-password"}
        login = {"smtp_username": "taskflow", "smtp_password": "canary-password"}
        configure(monkeypatch, server, smtp_security=security, **login)
        outcome, log, _ = await send(harness)
        assert outcome.kind is OutcomeKind.COMPLETED, outcome
        assert set(server.logins) == {(b"taskflow", b"canary-password")}
        assert "'AUTH', 'code': 235" in log
        assert "canary" not in log
        server.accounts = {b"taskflow": b"another"}
        outcome, log, _ = await send(harness)
        assert outcome.kind is OutcomeKind.FAILED
        assert "535" in message_of(outcome)
        assert "canary" not in log + message_of(outcome)
    assert len(server.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext, security: str
) -> None:
    async with MailServer(tls, starttls=security == "starttls") as server:
        configure(monkeypatch, server, smtp_security=security)
        outcome, _, _ = await send(harness)
        assert outcome.kind is OutcomeKind.FAILED
        assert "certificate" in message_of(outcome)
    assert server.mails == []


async def test_starttls_is_not_given_up_when_it_is_not_offered(
    harness: Harness, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKFLOW_SMTP_SECURITY", "starttls")
    outcome, _, _ = await send(harness)
    assert outcome.kind is OutcomeKind.FAILED
    assert "TASKFLOW_SMTP_SECURITY" in message_of(outcome)
    assert server.mails == []


@pytest.mark.parametrize(
    "change",
    [
        {"to": []},
        {"to": ["nobody"]},
        {"to": ["a@b.example, c@d.example"]},
        {"to": ["a@b.example\r\nBcc: c@d.example"]},
        {"to": ["A\nBcc: x <a@b.example>"]},
        {"to": ["<a@b.example> <c@d.example>"]},
        {"to": ["a@b.example>\r\nRCPT TO:<c@d.example"]},
        {"to": ["a..b@c.example"]},
        {"to": ["a@-b.example"]},
        {"to": ["a@b..example"]},
        {"to": [f"a{n}@b.example" for n in range(60)], "bcc": ["c@d.example"] * 60},
        {"reply_to": "a@b.example\nX: y"},
        {"subject": "Hello\r\nBcc: c@d.example"},
        {"subject": "Hello\u2028Bcc: c@d.example"},
        {"text": None},
        {"sender": "boss@example.com"},
    ],
)
async def test_payloads_that_do_not_fit(
    harness: Harness, server: MailServer, change: dict[str, Any]
) -> None:
    outcome, _, _ = await send(harness, {**MESSAGE, **change})
    assert outcome.error is not None
    assert outcome.error.type == "invalid_payload"
    assert server.mails == []
