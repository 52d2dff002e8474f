"""Who stands at the door: what is known of a request before it is known whose it is."""

from dataclasses import dataclass

from fastapi import Request

from taskflow.access.audit_log import Origin
from taskflow.access.scopes import Actor, ActorKind
from taskflow_api.client_address import client_address


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a request comes from, and its id."""

    address: str
    request_id: str

    def of_user(self, user_id: object) -> Origin:
        """The same, by a user."""
        return Origin(Actor(ActorKind.USER, str(user_id)), self.address, self.request_id)


def visit_of(request: Request) -> Visit:
    """What this request says of itself."""
    return Visit(client_address(request.scope), request.scope["state"]["request_id"])
