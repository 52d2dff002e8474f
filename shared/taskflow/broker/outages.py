"""What aio-pika raises while the broker is away, refuses us or is slow, and what it means."""

import asyncio
import contextlib
from collections.abc import Iterator

import aiormq.exceptions
from aiormq.abc import AbstractChannel

from taskflow.errors import ServiceUnavailable
from taskflow.tls import certificate_problem

OUTAGE_ERRORS: tuple[type[Exception], ...] = (
    aiormq.exceptions.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    OSError,
    TimeoutError,
)
"""What a broker that is away, refuses or is slow makes aio-pika raise, and no defect does."""

BROKER_ERRORS: tuple[type[Exception], ...] = (
    *OUTAGE_ERRORS,
    # uvloop's word for a transport that was closed; so this is for calls of aio-pika alone.
    RuntimeError,
)
"""What a call of aio-pika may raise while the broker is away."""


@contextlib.contextmanager
def library_cancellations() -> Iterator[None]:
    """Make a cancellation that nobody has asked for an outage.

    When aiormq gives a connection up it cancels whoever waits for an answer on it, which would
    end their tasks without a word.

    Raises:
        ServiceUnavailable: that is what happened.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ServiceUnavailable("RabbitMQ", "the connection was given up") from error


@contextlib.contextmanager
def ends_explained(channel: AbstractChannel) -> Iterator[None]:
    """Raise why a channel has ended, where aiormq says no more than that it has."""
    try:
        yield
    except aiormq.exceptions.ChannelInvalidStateError as error:
        raise end_of(channel.closing) from error


def end_of(closing: "asyncio.Future[object]") -> Exception:
    """Why a channel or a connection has ended."""
    known = closing.done() and not closing.cancelled()
    reason = closing.exception() if known else None
    # Where the connection ended between two frames, aiormq gives a bare `Exception` as the reason,
    # and for a close of ours one that says nothing.
    if isinstance(reason, aiormq.exceptions.AMQPError | OSError) and reason.args != (None, None):
        # All who wait raise it, each of whom would lengthen its traceback.
        return reason.with_traceback(None)
    return aiormq.exceptions.ChannelInvalidStateError("the channel was closed")


def is_refusal(error: BaseException) -> bool:
    """Whether the broker is there and says no: a wrong password, a missing virtual host."""
    return isinstance(
        error,
        aiormq.exceptions.AuthenticationError
        | aiormq.exceptions.ProbableAuthenticationError
        | aiormq.exceptions.ConnectionNotAllowed
        | aiormq.exceptions.ChannelAccessRefused
        | aiormq.exceptions.InvalidFrameError,
    )


def said(error: BaseException | None) -> str:
    """What happened, in words."""
    if error is None:
        return "it was closed"
    if isinstance(error, asyncio.CancelledError):
        # What aiormq makes of a connection on which nothing comes any more.
        return "it has been silent for too long"
    if isinstance(error, aiormq.exceptions.InvalidFrameError):
        # What aiormq makes of a Close in answer to its Open.
        return f"the virtual host is missing, full or not open to this user ({error})"
    return certificate_problem(error) or str(error) or type(error).__name__
