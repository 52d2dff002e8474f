"""From a command's answer to the broker."""

from taskflow.broker.message import Pointer
from taskflow.jobs.commands import Pointed
from taskflow.relay import Dispatch, Relay


def publish(relay: Relay, pointed: Pointed) -> None:
    """Have the pointer of a job published whose stamp is committed."""
    pointer = Pointer(pointed.job_id, pointed.lane, pointed.type, pointed.pointer_at)
    relay.send([Dispatch(pointer)])
