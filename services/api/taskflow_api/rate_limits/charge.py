"""What a request costs its caller."""

from fastapi import Request

from taskflow_api.added_headers import add_headers
from taskflow_api.auth import Principal
from taskflow_api.problems import INVALID_CONTENT, TOO_MANY_REQUESTS, ProblemError
from taskflow_api.rate_limits.limits import RateLimits
from taskflow_api.rate_limits.takes import Taken


async def charge(request: Request, caller: Principal, *, cost: int = 1) -> None:
    """Take tokens of the caller's for this request; its answer tells what is left.

    A cost beyond a quota takes the whole bucket.

    Raises:
        ProblemError: 429, there are not enough.
    """
    limits: RateLimits = request.app.state.resources.rate_limits
    _settle(request, await limits.take(caller, cost=cost), cost)


async def charge_batch(request: Request, caller: Principal, jobs: int) -> None:
    """Take the tokens of a batch, a token for each job; for the first one its guard has.

    Raises:
        ProblemError: 422, there are never so many; 429, there are not enough now.
    """
    limits: RateLimits = request.app.state.resources.rate_limits
    most = limits.most_at_once(caller)
    if most is not None and jobs > most:
        raise ProblemError(
            INVALID_CONTENT,
            "The batch has more jobs than the caller may ever submit at once.",
            errors=[("/jobs", f"has {jobs} jobs, and the limit of requests is {most}")],
        )
    if jobs > 1:
        # Whoever comes again pays for the first one again, so there must be enough for all.
        _settle(request, await limits.take(caller, cost=jobs - 1), jobs)


def _settle(request: Request, taken: Taken | None, wanted: int) -> None:
    if taken is None:
        return
    add_headers(request.scope, "caller", taken.headers())
    if not taken.granted:
        raise ProblemError(
            TOO_MANY_REQUESTS,
            "Too many requests come from this tenant or with this key.",
            headers={"Retry-After": str(taken.retry_after_seconds(wanted))},
        )
