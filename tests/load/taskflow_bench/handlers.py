"""The jobs of `make bench-more`, as users write them (TASKFLOW_HANDLERS)."""

import hashlib

from pydantic import BaseModel

from taskflow import JobContext, job

MODULE = __name__
KINDS = 10


class Text(BaseModel):
    """What to work on."""

    text: str


class Lines(Text):
    """What to write, and how often."""

    lines: int


@job("bench.digest")
async def digest(payload: Text, ctx: JobContext) -> dict[str, str]:
    """Read all of a payload; only its digest comes back."""
    ctx.log.info("digest", characters=len(payload.text))
    return {"text": digest_of(payload.text)}


def digest_of(text: str) -> str:
    """What `bench.digest` makes of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@job("bench.lines")
async def write_lines(payload: Lines, ctx: JobContext) -> dict[str, str]:
    """Write lines to the job's log."""
    for number in range(payload.lines):
        ctx.log.info("line", number=number, text=payload.text)
    return {"text": payload.text}


def kind(number: int) -> str:
    """The name of one of `KINDS` types that do what `echo` does."""
    return f"bench.kind-{number}"


def _handler_of(number: int) -> object:
    @job(kind(number))
    async def say(payload: Text, ctx: JobContext) -> dict[str, str]:
        """Return the text that it is given."""
        ctx.log.info("say", text=payload.text)
        return {"text": payload.text}

    return say


# A consumer takes what it finds in the module.
globals().update({f"kind_{number}": _handler_of(number) for number in range(KINDS)})
