"""What a request costs its caller."""

from fastapi import Request

from taskflow_api.auth import Principal
from taskflow_api.problems import TOO_MANY_REQUESTS, ProblemError
from taskflow_api.rate_limits.limits import RateLimits


async def charge(request: Request, caller: Principal, *, cost: int = 1) -> None:
    """Take tokens of the caller's for this request; its answer tells what is left.

    A cost beyond a quota takes the whole bucket.

    Raises:
        ProblemError: 429, there are not enough.
    """
    limits: RateLimits = request.app.state.resources.rate_limits
    taken = await limits.take(caller, cost=cost)
    if taken is None:
        return
    request.state.rate_limit = taken
    if not taken.granted:
        raise ProblemError(
            TOO_MANY_REQUESTS,
            "Too many requests come from this tenant or with this key.",
            headers={"Retry-After": str(taken.retry_after_seconds())},
        )
