"""Jobs that are given a secret: TASKFLOW_HANDLERS=secret_jobs."""

import logging

from pydantic import BaseModel, SecretStr, field_validator

from taskflow import Fail, JobContext, job

log = logging.getLogger("secret")


class Login(BaseModel):
    """Whom to sign in as."""

    user: str
    password: SecretStr

    @field_validator("password")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        # No schema tells this, so that it is found out in the consumer alone.
        if value.get_secret_value().endswith("short"):
            raise ValueError("is too short")
        return value


@job("secret.logs")
async def logs(payload: Login, ctx: JobContext) -> dict[str, str]:
    """Log all that there is."""
    ctx.log.info("signing in", login=payload, password=payload.password)
    log.warning("signing in as %r with %s", payload, payload.password)
    return {"user": payload.user}


@job("secret.fails", max_attempts=1)
async def fails(payload: Login) -> None:
    """Fail with all that there is in the message."""
    raise Fail(f"{payload!r} is refused")


@job("secret.breaks", max_attempts=1)
async def breaks(payload: Login) -> None:
    """Break, with a cause that has all that there is in its message."""
    try:
        raise KeyError(payload)
    except KeyError as error:
        raise RuntimeError("it broke") from error
