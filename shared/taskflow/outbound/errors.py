"""Why a request to the outside came to nothing. Each says whether another try can help."""

from typing import ClassVar

from taskflow.errors import TaskFlowError


class OutboundError(TaskFlowError):
    """A request that got no answer, or was not sent at all."""

    is_retryable: ClassVar[bool]


class RequestRefused(OutboundError):
    """The request can't be sent as it is: its URL, a header, its method."""

    is_retryable = False


class DestinationRefused(OutboundError):
    """The address isn't one that requests may go to.

    The message keeps to itself what a name resolved to: that may be known inside alone.
    """

    is_retryable = False

    def __init__(self, host: str, why: str) -> None:
        super().__init__(
            f"Requests to {host!r} are refused: its address is {why}. They go to public addresses"
            " only; who runs TaskFlow can open inner networks by"
            " TASKFLOW_OUTBOUND_ALLOWED_NETWORKS."
        )


class RedirectRefused(OutboundError):
    """An answer sent us on to where we don't go."""

    is_retryable = False


class CertificateRefused(OutboundError):
    """The server can't prove that it is the one that was asked for."""

    is_retryable = False


class NameNotResolved(OutboundError):
    """The name has no address now."""

    is_retryable = True


class ConnectFailed(OutboundError):
    """Nothing answers there, or the connection was lost."""

    is_retryable = True


class AnswerMalformed(OutboundError):
    """What came back is no HTTP, is cut short, or has a head or an encoding out of bounds."""

    is_retryable = True


class TimedOut(OutboundError):
    """Connecting, or all of it, took too long."""

    is_retryable = True
