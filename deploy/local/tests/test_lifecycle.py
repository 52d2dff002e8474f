"""The whole stack with its real servers, and small programs in the services' place."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
import redis
from minio import Minio

from taskflow_local import env_file
from taskflow_local.__main__ import main
from taskflow_local.local_stack import stack_directory
from taskflow_local.ports import LOOPBACK, choose_free, is_free
from taskflow_local.processes import is_alive
from taskflow_local.stack import Stack

CHECKOUT = Path(__file__).parents[3]

API = """
import http.server
from dotenv import dotenv_values

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

port = int(dotenv_values(".env")["TASKFLOW_API_PORT"])
print("the api's own words", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
WAIT = "import time\ntime.sleep(600)\n"
# Not at once: a service imports what it needs before it finds out what is wrong.
FAIL = "import time\ntime.sleep(1.2)\nraise SystemExit('the consumer is broken')\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose ports are free and whose services are stand-ins."""
    shutil.copy(CHECKOUT / ".env.example", tmp_path)
    (tmp_path / "migrations").symlink_to(CHECKOUT / "migrations")
    for name, script in {"api": API, "consumer": WAIT, "scheduler": WAIT}.items():
        write_service(tmp_path, name, script)
    monkeypatch.chdir(tmp_path)
    for name in env_file.read(tmp_path / ".env.example"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TASKFLOW_STACK", "local")
    template = env_file.read(CHECKOUT / ".env.example")
    names = [name for name in template if name.endswith("_PORT")]
    for name, port in zip(names, choose_free(len(names)), strict=True):
        monkeypatch.setenv(name, str(port))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    Stack(stack_directory(tmp_path)).stop()


def write_service(checkout: Path, name: str, script: str) -> None:
    package = checkout / f"taskflow_{name}"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(script)


def pids(checkout: Path) -> dict[str, int]:
    statuses = Stack(stack_directory(checkout)).supervisor.statuses()
    return {name: status.pid for name, status in statuses.items() if status.pid is not None}


async def look_into(values: dict[str, str]) -> None:
    """Every server takes the services' credentials, and has what the services expect."""
    database = await asyncpg.connect(values["TASKFLOW_DATABASE_URL"])
    try:
        assert await database.fetchval("SELECT count(*) FROM alembic_version") == 1
        rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles"
        assert await database.fetchval(f"{rights} WHERE rolname = current_user") is False
        assert str(await database.fetchval("SHOW server_version")).startswith("18")
    finally:
        await database.close()
    async with await aio_pika.connect(values["TASKFLOW_AMQP_URL"]) as broker:
        channel = await broker.channel()
        await channel.get_exchange("jobs", ensure=True)
    with redis.Redis.from_url(values["TASKFLOW_REDIS_URL"]) as cache:
        assert cache.ping()
    bucket = values["TASKFLOW_S3_BUCKET"]
    assert s3_client(values, values["TASKFLOW_S3_SECRET_KEY"]).bucket_exists(bucket_name=bucket)


def s3_client(values: dict[str, str], secret: str) -> Minio:
    return Minio(
        endpoint=urlsplit(values["TASKFLOW_S3_ENDPOINT"]).netloc,
        access_key=values["TASKFLOW_S3_ACCESS_KEY"],
        secret_key=secret,
        secure=False,
        region="us-east-1",
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_life_of_the_stack(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up"]) == 0
    said = capsys.readouterr().out
    assert "started: postgres, rabbitmq, redis, s3, api, consumer, scheduler-1, scheduler-2" in said
    assert "curl -s http://127.0.0.1:" in said
    values = env_file.read(checkout / ".env")
    assert values["TASKFLOW_API_KEY"] not in said
    asyncio.run(look_into(values))
    running = pids(checkout)

    assert main(["up"]) == 0
    assert "everything runs already" in capsys.readouterr().out
    assert pids(checkout) == running

    assert main(["ps"]) == 0
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert table["api"][2:5:2] == [str(running["api"]), values["TASKFLOW_API_PORT"]]
    assert table["rabbitmq"][4] == values["TASKFLOW_RABBITMQ_PORT"]

    monkeypatch.setenv("TASKFLOW_S3_PORT", str(choose_free(1)[0]))
    assert main(["up"]) == 1
    assert "what runs can't change its port" in capsys.readouterr().err
    monkeypatch.setenv("TASKFLOW_S3_PORT", values["TASKFLOW_S3_PORT"])

    # New secrets on old data: the file is what counts.
    (checkout / ".env").unlink()
    assert main(["up"]) == 1
    assert "other settings than the present ones" in capsys.readouterr().err
    assert pids(checkout) == running
    assert main(["down"]) == 0
    assert not any(is_alive(pid) for pid in running.values())
    assert all(is_free(int(port)) for name, port in values.items() if name.endswith("_PORT"))
    assert main(["infra-up"]) == 0
    renewed = env_file.read(checkout / ".env")
    assert renewed["TASKFLOW_POSTGRES_PASSWORD"] != values["TASKFLOW_POSTGRES_PASSWORD"]
    asyncio.run(look_into(renewed))
    assert set(pids(checkout)) == {"postgres", "epmd", "rabbitmq", "redis", "s3"}

    write_service(checkout, "consumer", FAIL)
    assert main(["up"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("consumer does not stay up")
    assert error.rstrip().endswith("the consumer is broken")
    assert set(pids(checkout)) == {"postgres", "epmd", "rabbitmq", "redis", "s3"}

    assert main(["clean"]) == 0
    assert pids(checkout) == {}
    assert not stack_directory(checkout).exists()
    assert env_file.read(checkout / ".env") == renewed


def test_before_the_first_start_nothing_runs(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, words in {
        "ps": "nothing runs",
        "down": "nothing was running",
        "clean": "nothing was running",
    }.items():
        assert main([command]) == 0
        assert words in capsys.readouterr().out
    assert main(["logs"]) == 1
    assert "no logs yet" in capsys.readouterr().err


def test_logs_are_shown_and_followed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Stack(stack_directory(checkout)).supervisor.files.log("api")
    log.parent.mkdir(parents=True)
    log.write_text("first\n")
    assert main(["logs", "nonsense"]) == 1
    assert "there are: api" in capsys.readouterr().err
    command = [sys.executable, "-m", "taskflow_local", "logs", "api"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == "second\n"
        process.terminate()


def test_a_failed_migration_is_shown(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "migrations").unlink()
    assert main(["migrate"]) == 1
    assert "alembic" in capsys.readouterr().err


def test_a_port_that_is_taken_starts_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server((LOOPBACK, int(os.environ["TASKFLOW_API_PORT"]))):
        assert main(["up"]) == 1
    assert "TASKFLOW_API_PORT=" in capsys.readouterr().err
    assert not stack_directory(checkout).exists()
