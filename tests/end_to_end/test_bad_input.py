"""What clients, users' handlers and strangers in the broker do wrong, against real services."""

import json
import uuid
from typing import Any

import aio_pika
import httpx
import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Servers, Services
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
JSON = {"Content-Type": "application/json"}
NOBODY = "01a2015c-e1a8-74b4-a616-f4607e055524"
"""The id of no job."""


async def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> Any:
    """The problem's document, when it is one and of this kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"]
    if code is not None:
        assert problem["code"] == code
    return problem


def echo(**fields: Any) -> dict[str, Any]:
    return {"type": "echo", "payload": {"text": "x"}, **fields}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (echo(payload={"text": 5}), "/payload/text"),
        (echo(payload={}), "/payload"),
        (echo(payload=[]), "/payload"),
        (echo(typo=1), "/typo"),
        (echo(priority="most"), "/priority"),
        (echo(queue="no spaces"), "/queue"),
        (echo(max_attempts=0), "/max_attempts"),
        (echo(max_attempts=10**30), "/max_attempts"),
        (echo(timeout_seconds=-1), "/timeout_seconds"),
        (echo(delay_seconds=1e300), "/delay_seconds"),
        (echo(run_at="yesterday"), "/run_at"),
        (echo(run_at="0000-01-01T00:00:00Z"), "/run_at"),
        (echo(run_at="2030-01-01T00:00:00"), "/run_at"),
        (echo(tags=["a\0b"]), "/tags/0"),
        (echo(payload={"text": "NUL \0"}), "/payload"),
        (echo(depends_on=[NOBODY]), "/depends_on/0"),
        (echo(depends_on=["not-a-uuid"]), "/depends_on/0"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_content_that_is_refused_is_pointed_at(
    jobs: JobClient, body: dict[str, Any], pointer: str
) -> None:
    answer = await jobs.http.post(JOBS, content=json.dumps(body), headers=JSON)
    problem = await assert_problem(answer, 422)
    assert any(error["pointer"].startswith(pointer) for error in problem["errors"]), problem


async def test_an_unknown_type_says_what_to_do(jobs: JobClient) -> None:
    answer = await jobs.http.post(JOBS, json={"type": "nobody.has.this"})
    problem = await assert_problem(answer, 422, "unknown_job_type")
    assert "TASKFLOW_HANDLERS" in problem["detail"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"type": "echo", "type": "sleep"}', 400),
        (b"[" * 100_000, 400),
        (b'{"type": "echo", "payload": {"text": NaN}}', 400),
        (b"[]", 422),
        (b'"echo"', 422),
        (json.dumps(echo(payload={"text": "x" * 300 * 1024})).encode(), 413),
    ],
    ids=["empty", "cut", "not-utf-8", "twice", "deep", "nan", "array", "string", "300-kib"],
)
async def test_a_body_that_is_no_submission_is_refused(
    jobs: JobClient, content: bytes, status: int
) -> None:
    answer = await jobs.http.post(JOBS, content=content, headers=JSON)
    await assert_problem(answer, status)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{JOBS}/{NOBODY}", 404),
        (f"{JOBS}/{NOBODY}/attempts", 404),
        (f"{JOBS}/{NOBODY}/events", 404),
        (f"/api/v1/logs/{NOBODY}", 404),
        (f"{JOBS}/not-a-uuid", 422),
        (f"{JOBS}?limit=-1", 422),
        (f"{JOBS}?limit=101", 422),
        (f"{JOBS}?state=dreaming", 422),
        (f"{JOBS}?created_after=someday", 422),
        (f"{JOBS}?cursor=AAAA", 422),
        (f"{JOBS}?cursor=%00", 422),
        ("/api/v1/nothing", 404),
        ("/api/v1/schedules", 404),
    ],
)
async def test_a_read_that_cannot_be_answered_says_why(
    jobs: JobClient, path: str, status: int
) -> None:
    await assert_problem(await jobs.http.get(path), status)


async def test_a_cursor_of_another_list_is_refused(jobs: JobClient) -> None:
    for _ in range(2):
        await jobs.submit("echo", {"text": "x"}, tags=["cursor"])
    page = (await jobs.http.get(JOBS, params={"tag": "cursor", "limit": 1})).json()
    other = {"tag": "another", "limit": 1, "cursor": page["next_cursor"]}
    await assert_problem(await jobs.http.get(JOBS, params=other), 422)


@pytest.mark.parametrize("key", [None, "", "wrong", "tf_live_AAAAAAAA_" + "B" * 38])
async def test_without_a_known_key_nothing_is_told(jobs: JobClient, key: str | None) -> None:
    del jobs.http.headers["X-API-Key"]
    headers = {} if key is None else {"X-API-Key": key}
    for path in (JOBS, f"{JOBS}/{uuid.uuid4()}", "/api/v1/workers", "/api/v1/job-types"):
        answer = await jobs.http.get(path, headers=headers)
        await assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"]


async def test_every_letter_comes_back_as_it_was_sent(jobs: JobClient) -> None:
    text = '🦊 \u202e \u2028 é \ufeff " \\ \x1f \U0010ffff'
    metadata = {"text": text, "long": -(10**40), "huge": 10**400, "tiny": 5e-300, "none": None}
    job = await jobs.submit("echo", {"text": text}, tags=["🦊"], metadata=metadata, name=text)
    job = await jobs.completes(job)
    assert job["result"] == {"text": text}
    assert (job["tags"], job["metadata"], job["name"]) == (["🦊"], metadata, text)


async def test_a_garbage_message_is_buried_and_work_goes_on(
    jobs: JobClient, real_servers: Servers
) -> None:
    mark = uuid.uuid4().hex
    bodies = {
        f"garbage {mark}".encode(),
        json.dumps({"v": 1, "job_id": f"no-uuid-{mark}"}).encode(),
        json.dumps({"v": 99, "job_id": str(uuid.uuid4()), "mark": mark}).encode(),
        b"\x00\xff" * 1000 + mark.encode(),
    }
    found: dict[bytes, str] = {}
    async with await aio_pika.connect(real_servers.amqp_url) as connection:
        channel = await connection.channel()
        for body in bodies:
            await channel.default_exchange.publish(
                aio_pika.Message(body), routing_key="jobs.default.medium"
            )
        dead = await channel.get_queue("jobs.dead", ensure=False)

        async def look() -> bool:
            while (message := await dead.get(no_ack=True, fail=False)) is not None:
                found[message.body] = str(message.headers.get("reason"))
            return bodies <= set(found)

        await eventually(look, pause=0.1)
    assert all(found[body] not in {"", "None"} for body in bodies)
    await jobs.completes(await jobs.submit("echo", {"text": "after"}))


async def test_a_pointer_to_no_job_is_let_go(jobs: JobClient, real_servers: Servers) -> None:
    stranger = json.dumps({"v": 1, "job_id": str(uuid.uuid4())}).encode()
    async with await aio_pika.connect(real_servers.amqp_url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(
            aio_pika.Message(stranger), routing_key="jobs.default.medium"
        )
        await jobs.completes(await jobs.submit("echo", {"text": "after"}))
        lane = await channel.declare_queue("jobs.default.medium", passive=True)
        assert lane.declaration_result.message_count == 0


@pytest.mark.parametrize(
    "job_type", ["trial.exits", "trial.exits_in_thread", "trial.exits_isolated"]
)
async def test_a_handler_that_exits_fails_alone(
    jobs: JobClient, services: Services, job_type: str
) -> None:
    job = await jobs.reaches(await jobs.submit(job_type), "failed")
    assert "3" in job["error"]["message"]
    assert all(process.is_running for process in services.processes)
    await jobs.completes(await jobs.submit("echo", {"text": "after"}))


async def test_a_result_that_is_no_json_fails_for_good(jobs: JobClient) -> None:
    job = await jobs.reaches(await jobs.submit("trial.no_json"), "failed")
    assert job["attempt"] == 1
    assert "result can't be stored" in job["error"]["message"]


async def test_a_log_of_50_mb_is_stored_beside_other_jobs(jobs: JobClient) -> None:
    much = await jobs.submit("trial.logs_much", {"megabytes": 50}, timeout_seconds=90)
    beside = await jobs.submit("echo", {"text": "beside"})
    await jobs.completes(beside, timeout=10)
    much = await jobs.completes(much, timeout=90)
    await jobs.log_has(much, "that was all", tail=1, timeout=60)
    cut = await jobs.http.get(
        much["links"]["logs"],
        headers={"Range": "bytes=0-999", "Accept": "application/x-ndjson"},
    )
    assert cut.status_code == 206
    assert len(cut.content) == 1000
    assert int(cut.headers["Content-Range"].rpartition("/")[2]) > 50_000_000


async def test_handlers_that_cannot_be_used_stop_a_consumer(
    real_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("handlers")
    services = Services(real_servers, folder, folder)
    process = services.launch("consumer", handlers="no_such_module")
    assert await process.wait(20) != 0
    assert "no_such_module" in process.log_tail()
    assert "Traceback" not in process.log_tail()
