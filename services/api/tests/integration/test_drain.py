"""The end of a process under load: nobody sees an error, and a second signal ends it at once."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from taskflow_testing.jobs import Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.services import Servers, ServiceProcess, Services
from taskflow_testing.waiting import eventually, sessions_waiting

pytestmark = pytest.mark.usefixtures("register")

JOBS = "/api/v1/jobs"
ECHO = {"type": "echo"}
CLIENTS = 12


@pytest.fixture
async def services(
    clean_database: str, amqp_url: str, redis_url: str, s3: TestBucket, tmp_path: Path
) -> AsyncIterator[Services]:
    services = Services(Servers(clean_database, amqp_url, redis_url, s3), tmp_path, tmp_path)
    yield services
    await services.stop()


class Client:
    """Sends one request after another on a connection that it keeps, until no more is taken."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.statuses: Counter[int] = Counter()
        self.accepted: list[str] = []
        self.errors: list[str] = []
        self.told_to_close = 0

    async def run(self) -> None:
        while True:
            async with self._services.client() as http:
                try:
                    await self._use(http)
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    self.errors.append(repr(error))
                    return

    async def _use(self, http: httpx.AsyncClient) -> None:
        while True:
            answer = await http.post(JOBS, json=ECHO)
            self.statuses[answer.status_code] += 1
            if answer.status_code == httpx.codes.ACCEPTED:
                self.accepted.append(answer.json()["id"])
            if answer.headers.get("Connection") == "close":
                self.told_to_close += 1
                return


async def test_a_signal_under_load_shows_no_client_an_error(
    services: Services, connection: asyncpg.Connection
) -> None:
    process = await services.start_api()
    clients = [Client(services) for _ in range(CLIENTS)]
    load = [asyncio.create_task(client.run()) for client in clients]

    async def is_busy() -> bool:
        return all(len(client.accepted) >= 10 for client in clients)

    await eventually(is_busy)
    assert await process.terminate() == 0
    await asyncio.gather(*load)

    assert [error for client in clients for error in client.errors] == []
    assert sum((client.statuses for client in clients), Counter()).keys() == {202}
    assert sum(client.told_to_close for client in clients) == CLIENTS
    accepted = {job_id for client in clients for job_id in client.accepted}
    rows = await connection.fetch("SELECT id::text FROM jobs")
    assert accepted == {row["id"] for row in rows}
    # What could not be published was written down, and nothing was left in memory.
    assert [line for line in process.events("relay_stopped_early") if line["waiting"]] == []


async def test_an_idle_connection_gets_one_more_request_answered(services: Services) -> None:
    process = await services.start_api()
    async with services.client() as http:
        assert (await http.post(JOBS, json=ECHO)).status_code == 202
        process.signal(signal.SIGTERM)

        async def listens_no_more() -> bool:
            address = urlsplit(str(http.base_url))
            try:
                _, writer = await asyncio.open_connection(address.hostname, address.port)
            except ConnectionRefusedError:
                return True
            writer.close()
            return False

        await eventually(listens_no_more)
        answer = await http.post(JOBS, json=ECHO)
        assert (answer.status_code, answer.headers["Connection"]) == (202, "close")
    assert await process.wait(10) == 0


async def held_request(services: Services, jobs: Jobs) -> "asyncio.Task[httpx.Response]":
    """A request that waits for a row, which the caller's transaction has locked."""
    job_id = await jobs.submit()
    await jobs.connection.execute("BEGIN")
    await jobs.connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)

    async def cancel() -> httpx.Response:
        async with services.client() as http:
            return await http.post(f"{JOBS}/{job_id}/cancel")

    return asyncio.create_task(cancel())


async def stop_while_held(process: ServiceProcess, jobs: Jobs) -> None:
    await eventually(lambda: sessions_waiting(jobs.connection))
    process.signal(signal.SIGTERM)

    async def is_stopping() -> bool:
        # Its listener is closed, so that only what is under way holds it.
        return not process.is_running or bool(process.events("api_stopping"))

    await eventually(is_stopping)


async def test_what_is_under_way_is_finished_first(services: Services, jobs: Jobs) -> None:
    process = await services.start_api()
    held = await held_request(services, jobs)
    await stop_while_held(process, jobs)
    await jobs.connection.execute("COMMIT")
    answer = await held
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert await process.wait(10) == 0


async def test_a_second_signal_ends_it_at_once(services: Services, jobs: Jobs) -> None:
    process = await services.start_api()
    held = await held_request(services, jobs)
    await stop_while_held(process, jobs)
    began_at = time.monotonic()
    process.signal(signal.SIGTERM)
    assert await process.wait(10) == 0
    assert time.monotonic() - began_at < 2
    (seen,) = await asyncio.gather(held, return_exceptions=True)
    if isinstance(seen, httpx.Response):
        assert (seen.status_code, seen.headers["Retry-After"]) == (503, "1")
    else:
        assert isinstance(seen, httpx.TransportError)
    await jobs.connection.execute("ROLLBACK")
