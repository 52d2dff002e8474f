"""All four servers behind TLS, with authorities of the test's own."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import NewServices, Servers
from taskflow_testing.tls_proxy import TlsProxy
from taskflow_testing.waiting import eventually

SERVERS = ("PostgreSQL", "RabbitMQ", "Redis", "S3")
MIGRATIONS = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "current"]
PROCESSES = {
    "taskflow-api",
    "taskflow",
    "taskflow-consumer",
    "taskflow-heartbeat",
    "taskflow-scheduler",
    "taskflow-scheduler-leadership",
}


@dataclass(frozen=True)
class Authorities:
    """One that signs for the servers, and the files of that one and of a stranger."""

    signing: trustme.CA
    ours: Path
    stranger: Path


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("authorities")
    found = Authorities(trustme.CA(), folder / "ours.pem", folder / "stranger.pem")
    found.signing.cert_pem.write_to_path(str(found.ours))
    trustme.CA().cert_pem.write_to_path(str(found.stranger))
    return found


@asynccontextmanager
async def behind_tls(
    servers: Servers, authority: trustme.CA, name: str = "127.0.0.1"
) -> AsyncIterator[dict[str, Any]]:
    """Settings that lead to the four servers by way of TLS and a certificate for `name`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    targets = {
        "database_url": servers.database_url,
        "amqp_url": servers.amqp_url,
        "redis_url": servers.redis_url,
        "s3_endpoint": servers.s3.endpoint,
    }
    async with AsyncExitStack() as stack:
        proxies = {
            setting: await stack.enter_async_context(TlsProxy(target, tls))
            for setting, target in targets.items()
        }
        yield {setting: proxy.url for setting, proxy in proxies.items()}


async def doctor(environment: Mapping[str, str], folder: Path) -> dict[str, tuple[str, str]]:
    """Its level and its words for each server."""
    command = [sys.executable, "-m", "taskflow", "doctor", "--json"]
    _, out = await run(command, environment, folder)
    checks = {check["subject"]: check for check in json.loads(out)["checks"]}
    return {name: (checks[name]["level"], checks[name]["text"]) for name in SERVERS}


async def run(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> tuple[int | None, str]:
    """The exit code and what was written."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def names_in(database_url: str) -> set[str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    return {row["application_name"] for row in rows}


async def test_a_job_runs_with_every_server_behind_tls(
    real_servers: Servers, new_services: NewServices, authorities: Authorities
) -> None:
    async with behind_tls(real_servers, authorities.signing) as settings:
        services = new_services(real_servers, **settings, tls_ca_file=authorities.ours)
        await services.start_api()
        consumer = await services.start_consumer(log_flush_seconds=0.2)
        await services.start_scheduler()
        async with services.client() as client:
            jobs = JobClient(client)
            job = await jobs.completes(await jobs.submit("echo", {"text": "in private"}))
            await jobs.log_has(job, "echo")
            health = (await client.get("/api/v1/health")).json()
        assert health["status"] == "ok", health

        async def connected() -> bool:
            return await names_in(real_servers.database_url) >= PROCESSES

        # The sibling of a consumer and the leader have connections of their own.
        await eventually(connected)
        assert consumer.events("heartbeat_failed") == []
        await services.stop()


async def test_a_migration_goes_through_tls(
    real_servers: Servers, new_services: NewServices, authorities: Authorities, checkout: Path
) -> None:
    async with behind_tls(real_servers, authorities.signing) as settings:
        services = new_services(real_servers, **settings, tls_ca_file=authorities.ours)
        code, out = await run(MIGRATIONS, services.environment(), checkout)
        assert (code, "(head)" in out) == (0, True), out
        declare = [sys.executable, "-m", "taskflow.broker"]
        code, out = await run(declare, services.environment(), checkout)
        assert code == 0, out


async def test_a_stranger_is_refused_in_a_line_that_names_the_setting(
    real_servers: Servers, new_services: NewServices, authorities: Authorities, checkout: Path
) -> None:
    async with behind_tls(real_servers, authorities.signing) as settings:
        services = new_services(real_servers, **settings, tls_ca_file=authorities.stranger)
        # The machine would trust them: whom the setting names counts instead, not as well.
        environment = services.environment() | {"SSL_CERT_FILE": str(authorities.ours)}
        for level, text in (await doctor(environment, checkout)).values():
            assert level == "fail"
            assert "its certificate is not accepted: " in text
            assert "(see TASKFLOW_TLS_CA_FILE)" in text
        api = services.launch("api")
        assert await api.wait(20) == 1
        line = api.log_path.read_text().splitlines()[-1]
        assert line.startswith("taskflow: TASKFLOW_DATABASE_URL: its certificate is not accepted")
        assert line.endswith("(see TASKFLOW_TLS_CA_FILE)")
        code, out = await run(MIGRATIONS, environment, checkout)
        assert (code, out.splitlines()[-1]) == (1, line)


async def test_a_certificate_of_another_name_is_refused(
    real_servers: Servers, new_services: NewServices, authorities: Authorities, tmp_path: Path
) -> None:
    async with behind_tls(real_servers, authorities.signing, "elsewhere.example") as settings:
        services = new_services(real_servers, **settings, tls_ca_file=authorities.ours)
        for level, text in (await doctor(services.environment(), tmp_path)).values():
            assert level == "fail"
            assert "certificate is not valid for '127.0.0.1'" in text


async def test_the_machines_authorities_count_where_none_are_named(
    real_servers: Servers, new_services: NewServices, authorities: Authorities, tmp_path: Path
) -> None:
    async with behind_tls(real_servers, authorities.signing) as settings:
        settings["database_url"] += "?sslmode=verify-full"
        environment = new_services(real_servers, **settings).environment()
        seen = await doctor(environment | {"SSL_CERT_FILE": str(authorities.ours)}, tmp_path)
        assert [level for level, _ in seen.values()] == ["ok"] * len(SERVERS), seen
