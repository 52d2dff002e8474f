"""/api/v1/auth: register, get tokens, see who one is, sign out."""

from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskflow.access import users as stored_users
from taskflow.access.scopes import Scope
from taskflow_api import problems
from taskflow_api.auth import TOKEN_PATH
from taskflow_api.dependencies import With
from taskflow_api.form_body import read_form_or_body
from taskflow_api.guards import Known
from taskflow_api.json_body import read_body
from taskflow_api.problem_docs import form_body_doc, json_body_doc, problem_docs
from taskflow_api.problems import INVALID_CONTENT, NO_SESSION, ProblemError
from taskflow_api.users.access_tokens import scope_text, scopes_in
from taskflow_api.users.schemas import (
    Me,
    RegistrationAccepted,
    RegistrationRequest,
    TokenRequest,
    TokenResponse,
)
from taskflow_api.users.visits import visit_of

router = APIRouter(tags=["users"])

_BODY_PROBLEMS = (
    problems.MALFORMED_BODY,
    problems.REQUEST_TIMEOUT,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID_CONTENT,
    problems.TOO_MANY_REQUESTS,
    problems.SERVICE_UNAVAILABLE,
)
_ACCEPTED = "If the address was free it has a user now, who can sign in."


@router.post(
    "/api/v1/auth/register",
    status_code=202,
    response_model=RegistrationAccepted,
    operation_id="register",
    summary="Register",
    response_description="The address has a user, from now on or since before.",
    responses=problem_docs(*_BODY_PROBLEMS, problems.REGISTRATION_CLOSED, public=True),
    openapi_extra=json_body_doc(RegistrationRequest),
)
async def register(request: Request, resources: With) -> RegistrationAccepted:
    """Make a user, with a tenant of its own. An address that is taken gets the same answer."""
    users = resources.users
    users.registrations.require_open()
    wanted = await read_body(request, RegistrationRequest)
    visit = visit_of(request)
    await users.limits.take_registration(wanted.email, visit.address)
    await users.registrations.register(wanted.email, wanted.password, visit)
    return RegistrationAccepted(email=wanted.email, detail=_ACCEPTED)


@router.post(
    TOKEN_PATH,
    response_model=TokenResponse,
    operation_id="get_token",
    summary="Get tokens",
    response_description="An access token, and a refresh token for the next pair.",
    responses=problem_docs(*_BODY_PROBLEMS, problems.SIGN_IN_REFUSED, public=True),
    openapi_extra=form_body_doc(TokenRequest),
)
async def get_token(request: Request, resources: With) -> TokenResponse:
    """Sign in with a password, or take the next pair of tokens for a refresh token.

    JSON, or a form as OAuth 2 has it (RFC 6749, sections 4.3 and 6). A refresh token is good for
    one use: who comes with one that was used before ends the session for everybody.
    """
    wanted = await read_form_or_body(request, TokenRequest)
    users, visit = resources.users, visit_of(request)
    if wanted.refresh_token is not None and wanted.grant_type == "refresh_token":
        tokens = await users.sign_in.with_refresh_token(wanted.refresh_token, visit)
    else:
        scopes = _known_scopes(wanted.scope)
        tokens = await users.sign_in.with_password(
            wanted.account, wanted.password or "", scopes, visit
        )
    return TokenResponse(
        access_token=tokens.access,
        expires_in=users.access_token_seconds,
        refresh_token=tokens.refresh,
        scope=scope_text(tokens.scopes),
    )


def _known_scopes(text: str) -> frozenset[Scope]:
    names = text.split()
    scopes = scopes_in(names)
    if len(scopes) < len(set(names)):
        known = ", ".join(Scope)
        raise ProblemError(
            INVALID_CONTENT, "There is no such scope.", errors=[("/scope", f"are some of {known}")]
        )
    return scopes


@router.get(
    "/api/v1/auth/me",
    response_model=Me,
    operation_id="get_me",
    summary="See who you are",
    responses=problem_docs(),
)
async def get_me(caller: Known, resources: With) -> Me:
    """The user, tenant and scopes of the key or token of this request."""
    email = None
    if caller.session_id is not None:
        async with resources.writes.connection(caller.tenant_id) as connection:
            email = await stored_users.find_email(connection, UUID(caller.actor.id))
    return Me(
        kind=caller.actor.kind,
        id=caller.actor.id,
        tenant_id=caller.tenant_id,
        scopes=sorted(caller.scopes),
        email=email,
    )


@router.post(
    "/api/v1/auth/logout",
    status_code=204,
    operation_id="log_out",
    summary="Sign out",
    response_description="The session has ended.",
    responses=problem_docs(NO_SESSION),
)
async def log_out(request: Request, caller: Known, resources: With) -> Response:
    """End the session of this access token.

    Its refresh tokens are no good from now on, its access tokens within a second.
    """
    if caller.session_id is None:
        raise ProblemError(NO_SESSION, "A key is revoked, and another's token expires.")
    users = resources.users
    await users.sign_in.out(caller.tenant_id, caller.actor.id, caller.session_id, visit_of(request))
    users.callers.forget(caller.session_id)
    return Response(status_code=204)
