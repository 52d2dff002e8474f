from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from taskflow.settings import ApiSettings
from taskflow_api.app import create_app

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def settings() -> ApiSettings:
    """None of the servers is there."""
    return ApiSettings(
        _env_file=None,
        database_url=f"postgresql://u:p@{NOWHERE}/taskflow",
        amqp_url=f"amqp://{NOWHERE}/taskflow",
        redis_url=f"redis://{NOWHERE}/0",
        s3_endpoint=f"http://{NOWHERE}",
        s3_access_key="access",
        s3_secret_key="secret",
        api_key="tf_live_testing_only",
        jwt_secret="of_at_least_thirty_two_characters",
    )


@pytest.fixture
def app(settings: ApiSettings) -> FastAPI:
    """A service none of whose servers is there."""
    return create_app(settings)


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that service."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"X-API-Key": "tf_live_testing_only"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client,
    ):
        yield client
