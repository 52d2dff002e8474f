"""Which job types come along, and that those which reach out do so wherever they run."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from taskflow.errors import ConfigurationError
from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow.sdk.registry import Registry
from taskflow_consumer.handlers import built_in_job_types, http_request
from taskflow_testing.http_server import HttpServer
from taskflow_testing.mail_server import MailServer

from .harness import Harness


def registry(*disabled: str) -> Registry:
    return Registry.from_modules([], built_in_job_types(disabled))


def test_all_come_along() -> None:
    assert registry().names == ("echo", "email.send", "flaky", "http.request", "sleep")


def test_those_that_are_disabled_do_not() -> None:
    assert registry("http.request", "echo").names == ("email.send", "flaky", "sleep")


def test_a_type_that_there_is_not_can_not_be_disabled() -> None:
    with pytest.raises(ConfigurationError, match="TASKFLOW_DISABLED_BUILT_INS: 'http_request'"):
        registry("http_request")


async def _reach_out() -> list[Outcome]:
    """A call, a call that is refused, and a mail."""
    harness = Harness()
    executor = harness.executor(registry())
    async with HttpServer() as web, MailServer() as mail:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TASKFLOW_OUTBOUND_ALLOWED_NETWORKS", "127.0.0.1/32")
            environment.setenv("TASKFLOW_SMTP_HOST", "127.0.0.1")
            environment.setenv("TASKFLOW_SMTP_PORT", str(mail.port))
            environment.setenv("TASKFLOW_SMTP_FROM", "jobs@taskflow.example")
            environment.setenv("TASKFLOW_SMTP_SECURITY", "none")
            http_request._client.cache_clear()
            message = {"to": ["ada@example.com"], "subject": "x", "text": "y"}
            jobs = [
                harness.claim("http.request", {"url": web.url}),
                harness.claim("http.request", {"url": "http://127.0.0.2"}),
                harness.claim("email.send", message),
            ]
            outcomes = [await harness.run(executor, each) for each in jobs]
        http_request._client.cache_clear()
        assert (len(web.requests), len(mail.mails)) == (1, 1)
    await executor.drain(0)
    return outcomes


def _in_uvloop(main: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    return uvloop.run(main)


async def test_they_reach_out_and_no_further_under_uvloop() -> None:
    called, refused, mailed = await asyncio.to_thread(_in_uvloop, _reach_out())
    assert called.kind is OutcomeKind.COMPLETED, called
    assert mailed.kind is OutcomeKind.COMPLETED, mailed
    assert refused.kind is OutcomeKind.FAILED
    assert "TASKFLOW_OUTBOUND_ALLOWED_NETWORKS" in str(refused.error)


async def test_the_guard_holds_in_a_process_of_its_own(harness: Harness) -> None:
    # A job that has lost a worker is run apart, where nobody hands a client on.
    executor = harness.executor(registry())
    suspect = harness.claim("http.request", {"url": "http://127.0.0.2"}, losses=1)
    outcome = await harness.run(executor, suspect, timeout=60)
    assert outcome.kind is OutcomeKind.FAILED
    assert "TASKFLOW_OUTBOUND_ALLOWED_NETWORKS" in str(outcome.error)
