"""What a run ran on."""

import os
import platform

import asyncpg
import httpx
from pydantic import BaseModel, ConfigDict

from taskflow_testing.own_servers import ServerSet


class Versions(BaseModel):
    """The servers that matter, Python, and how many cores we may use."""

    model_config = ConfigDict(frozen=True)

    postgresql: str
    rabbitmq: str
    python: str
    cores: int


async def versions_of(servers: ServerSet) -> Versions:
    """Ask servers that run."""
    connection = await asyncpg.connect(servers.postgres.url, timeout=10)
    try:
        postgresql = str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
    url = httpx.URL(servers.rabbitmq_management_url)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url.join("/api/overview"), auth=(url.username, url.password))
    return Versions(
        postgresql=postgresql,
        rabbitmq=str(answer.raise_for_status().json()["rabbitmq_version"]),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
    )
