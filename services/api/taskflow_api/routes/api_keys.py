"""A tenant's API keys: make, read, rename, rotate, revoke."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from taskflow.access import api_keys, queries
from taskflow.access.api_keys import MadeKey, WantedKey
from taskflow.access.schemas import (
    ApiKeyPage,
    ApiKeyPatch,
    ApiKeyRequest,
    ApiKeyRotation,
    ApiKeyView,
    NewApiKeyView,
)
from taskflow.access.views import api_key_view
from taskflow.jobs import cursors
from taskflow_api import problems
from taskflow_api.dependencies import ApiKeyId, With
from taskflow_api.guards import Admin
from taskflow_api.json_body import read_body
from taskflow_api.lifespan import Resources
from taskflow_api.origins import origin_of
from taskflow_api.problem_docs import Responses, headers_doc, json_body_doc, problem_docs

PATH = "/api/v1/api-keys"

router = APIRouter(tags=["API keys"], prefix=PATH)

_BODY_PROBLEMS = (
    problems.MALFORMED_BODY,
    problems.REQUEST_TIMEOUT,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID_CONTENT,
)
_MADE: Responses = {
    201: {"headers": headers_doc({"Location": "Where it is read, without its secret."})}
}


@router.post(
    "",
    status_code=201,
    response_model=NewApiKeyView,
    operation_id="create_api_key",
    summary="Make an API key",
    response_description="It is good from now on. `key` is shown this once.",
    responses={**_MADE, **problem_docs(*_BODY_PROBLEMS)},
    openapi_extra=json_body_doc(ApiKeyRequest),
)
async def create_api_key(request: Request, caller: Admin, resources: With) -> Response:
    """Make a key of your tenant's. Only a hash of it is kept: a key that is lost is replaced."""
    body = await read_body(request, ApiKeyRequest)
    wanted = WantedKey(body.name, set(body.scopes), body.expires_at)
    async with resources.writes.connection(caller.tenant_id) as connection:
        made = await api_keys.create(
            connection, caller.tenant_id, wanted, origin_of(request, caller)
        )
    return await _shown_once(resources, caller.tenant_id, made)


class ApiKeyListQuery(BaseModel):
    """The parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="How many keys a page has at most.")
    cursor: str | None = Field(
        None, max_length=200, description="The `next_cursor` of the page before."
    )


@router.get(
    "",
    response_model=ApiKeyPage,
    operation_id="list_api_keys",
    summary="List the API keys",
    responses=problem_docs(problems.INVALID_CONTENT, problems.INVALID_CURSOR),
)
async def list_api_keys(
    caller: Admin, resources: With, query: Annotated[ApiKeyListQuery, Query()]
) -> ApiKeyPage:
    """Your tenant's keys, newest first, with those that were revoked or have expired."""
    digest = cursors.list_digest({"tenant": str(caller.tenant_id), "list": "api_keys"})
    after = None if query.cursor is None else cursors.decode(query.cursor, digest)
    async with resources.reads.connection(caller.tenant_id) as connection:
        page = await queries.list_api_keys(
            connection, caller.tenant_id, after=after, limit=query.limit
        )
    following = page.next_position
    return ApiKeyPage(
        items=[api_key_view(row) for row in page.rows],
        next_cursor=None if following is None else cursors.encode(following, digest),
        has_more=following is not None,
    )


@router.get(
    "/{api_key_id}",
    response_model=ApiKeyView,
    operation_id="get_api_key",
    summary="Read an API key",
    responses=problem_docs(problems.API_KEY_NOT_FOUND, problems.INVALID_CONTENT),
)
async def get_api_key(caller: Admin, resources: With, api_key_id: ApiKeyId) -> ApiKeyView:
    """What is known of a key; its secret is known to its owner alone."""
    return await _read(resources, caller.tenant_id, api_key_id)


@router.patch(
    "/{api_key_id}",
    response_model=ApiKeyView,
    operation_id="rename_api_key",
    summary="Rename an API key",
    responses=problem_docs(problems.API_KEY_NOT_FOUND, *_BODY_PROBLEMS),
    openapi_extra=json_body_doc(ApiKeyPatch),
)
async def rename_api_key(
    request: Request, caller: Admin, resources: With, api_key_id: ApiKeyId
) -> ApiKeyView:
    """Give a key another name. What it may do is fixed: make another one for that."""
    body = await read_body(request, ApiKeyPatch)
    async with resources.writes.connection(caller.tenant_id) as connection:
        await api_keys.rename(
            connection, caller.tenant_id, api_key_id, body.name, origin_of(request, caller)
        )
    return await _read(resources, caller.tenant_id, api_key_id)


@router.post(
    "/{api_key_id}/rotate",
    status_code=201,
    response_model=NewApiKeyView,
    operation_id="rotate_api_key",
    summary="Put a new API key in the place of another",
    response_description="The new one. `key` is shown this once.",
    responses={
        **_MADE,
        **problem_docs(problems.API_KEY_NOT_FOUND, problems.API_KEY_CONFLICT, *_BODY_PROBLEMS),
    },
    openapi_extra=json_body_doc(ApiKeyRotation),
)
async def rotate_api_key(
    request: Request, caller: Admin, resources: With, api_key_id: ApiKeyId
) -> Response:
    """Make a key with the same name and scopes; the old one ends when the overlap is over.

    Both are good meanwhile; a third one is not made before the first has ended.
    """
    body = await read_body(request, ApiKeyRotation)
    async with resources.writes.connection(caller.tenant_id) as connection:
        made = await api_keys.rotate(
            connection,
            caller.tenant_id,
            api_key_id,
            origin_of(request, caller),
            overlap=timedelta(seconds=body.overlap_seconds),
            expires_at=body.expires_at,
        )
    return await _shown_once(resources, caller.tenant_id, made)


@router.delete(
    "/{api_key_id}",
    status_code=204,
    operation_id="revoke_api_key",
    summary="Revoke an API key",
    response_description="It is revoked: every API process refuses it within a second.",
    responses=problem_docs(problems.API_KEY_NOT_FOUND, problems.INVALID_CONTENT),
)
async def revoke_api_key(
    request: Request, caller: Admin, resources: With, api_key_id: ApiKeyId
) -> Response:
    """End a key for good; again does no harm. It stays in the list."""
    async with resources.writes.connection(caller.tenant_id) as connection:
        await api_keys.revoke(connection, caller.tenant_id, api_key_id, origin_of(request, caller))
    return Response(status_code=204)


async def _read(resources: Resources, tenant_id: UUID, api_key_id: UUID) -> ApiKeyView:
    async with resources.reads.connection(tenant_id) as connection:
        return api_key_view(await queries.get_api_key(connection, tenant_id, api_key_id))


async def _shown_once(resources: Resources, tenant_id: UUID, made: MadeKey) -> Response:
    view = await _read(resources, tenant_id, made.id)
    shown = NewApiKeyView(**view.model_dump(), key=made.key.text)
    headers = {"Location": f"{PATH}/{made.id}"}
    return Response(shown.model_dump_json(), 201, headers, "application/json")
