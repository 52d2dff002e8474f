"""Where a change comes from, for the audit log."""

from fastapi import Request

from taskflow.access.audit_log import Origin
from taskflow_api.auth import Principal
from taskflow_api.client_address import client_address


def origin_of(request: Request, caller: Principal) -> Origin:
    """Who asks, from where, in which request."""
    return Origin(caller.actor, client_address(request.scope), request.state.request_id)
