"""The routes, a file for each group of them."""

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute

from taskflow_api.routes import (
    api_keys,
    audit_log,
    auth,
    batch,
    documentation,
    health,
    job,
    job_actions,
    job_history,
    job_lists,
    job_types,
    logs,
    submission,
    workers,
)

# The lists come before the single job, whose pattern would match /jobs/stats too.
ROUTERS: Sequence[APIRouter] = (
    submission.router,
    batch.router,
    job_lists.router,
    job.router,
    job_actions.router,
    job_history.router,
    logs.router,
    workers.router,
    job_types.router,
    auth.router,
    api_keys.router,
    audit_log.router,
    health.router,
    documentation.router,
)


def all_routes() -> list[APIRoute]:
    """Every route of the service, in the order in which they are tried.

    Raises:
        TypeError: a router has something else, of which nobody knows who may ask it.
    """
    found = []
    for route in (route for router in ROUTERS for route in router.routes):
        if not isinstance(route, APIRoute):
            raise TypeError(f"No guard is known for {type(route).__name__} {route!r}.")
        found.append(route)
    return found
