"""Requests that are refused before any server is asked: a problem document for each."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from taskflow_api.guards import OPEN_OPERATIONS
from taskflow_api.routes import all_routes
from taskflow_testing.problems import check_problem

JOBS = "/api/v1/jobs"
JSON = {"Content-Type": "application/json"}
ID = "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4a"


async def send(api: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await api.post(JOBS, content=body, headers=JSON | headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"{'type': 'echo'}",
        b'{"type": "echo"} x',
        b'{"type": "echo",}',
        b'\xef\xbb\xbf{"type": "echo"}',
        b'{"type": "\xff"}',
        '{"type": "echo"}'.encode("utf-16"),
        b'{"type": "echo", "type": "echo"}',
        b'{"type": "echo", "payload": {"a": {"b": 1, "b": 2}}}',
        b'{"type": "echo", "payload": {"n": NaN}}',
        b'{"type": "echo", "payload": {"n": -Infinity}}',
        b'{"type": "echo", "payload": {"n": %s}}' % (b"9" * 5000),
        b'{"type": "echo", "payload": {"n": 1%s}}' % (b"0" * 4300),
        b'{"type": "echo", "payload": {"a": %s}}' % (b"[" * 31 + b"]" * 31),
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"type": "echo", "payload": {"s": "\x01"}}',
    ],
)
async def test_a_malformed_body_is_a_400(api: httpx.AsyncClient, body: bytes) -> None:
    check_problem(await send(api, body), 400, "malformed_body")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", ""),
        (b'"echo"', ""),
        (b"null", ""),
        (b"{}", "/type"),
        (b'{"type": "echo", "callback_url": "http://x/"}', "/callback_url"),
        (b'{"type": "echo", "a/b~": 1}', "/a~1b~0"),
        (b'{"type": "echo", "\\ud800": 1}', ""),
        (b'{"type": 7}', "/type"),
        (b'{"type": "a b"}', "/type"),
        (b'{"type": "echo\\u0000"}', "/type"),
        (b'{"type": "echo", "payload": []}', "/payload"),
        (b'{"type": "echo", "payload": null}', "/payload"),
        (b'{"type": "echo", "payload": {"a": ["x", "\\u0000"]}}', "/payload/a/1"),
        (b'{"type": "echo", "payload": {"a": {"b/c": "\\ud800"}}}', "/payload/a/b~1c"),
        (b'{"type": "echo", "payload": {"\\u0000": 1}}', "/payload"),
        (b'{"type": "echo", "payload": {"n": 1e400}}', "/payload/n"),
        (b'{"type": "echo", "payload": {"n": [-1e999]}}', "/payload/n/0"),
        (b'{"type": "echo", "payload": {"n": [%s1]}}' % (b"1e308," * 1_000), "/payload"),
        (b'{"type": "echo", "payload": {"n": {"m": [%s1]}}}' % (b"5e-324," * 1_000), "/payload"),
        (b'{"type": "echo", "metadata": {"n": [%s1]}}' % (b"1e308," * 100), "/metadata"),
        (b'{"type": "echo", "metadata": {"n": "\\udfff"}}', "/metadata/n"),
        (b'{"type": "echo", "metadata": {"n": "%s"}}' % (b"x" * 17_000), "/metadata"),
        (b'{"type": "echo", "name": "\\u0000"}', "/name"),
        (b'{"type": "echo", "name": "\\ud83d"}', "/name"),
        (b'{"type": "echo", "tags": ["a", ""]}', "/tags/1"),
        (b'{"type": "echo", "tags": "a"}', "/tags"),
        (b'{"type": "echo", "unique_key": ""}', "/unique_key"),
        (b'{"type": "echo", "queue": "a.b"}', "/queue"),
        (b'{"type": "echo", "queue": "a\\n"}', "/queue"),
        (b'{"type": "echo", "priority": "soon"}', "/priority"),
        (b'{"type": "echo", "priority": null}', "/priority"),
        (b'{"type": "echo", "max_attempts": 0}', "/max_attempts"),
        (b'{"type": "echo", "max_attempts": 9223372036854775808}', "/max_attempts"),
        (b'{"type": "echo", "max_attempts": true}', "/max_attempts"),
        (b'{"type": "echo", "max_attempts": "4"}', "/max_attempts"),
        (b'{"type": "echo", "max_attempts": 1e400}', "/max_attempts"),
        (b'{"type": "echo", "timeout_seconds": 0}', "/timeout_seconds"),
        (b'{"type": "echo", "timeout_seconds": true}', "/timeout_seconds"),
        (b'{"type": "echo", "delay_seconds": -1}', "/delay_seconds"),
        (b'{"type": "echo", "delay_seconds": "60"}', "/delay_seconds"),
        (b'{"type": "echo", "delay_seconds": 1e300}', "/delay_seconds"),
        (b'{"type": "echo", "delay_seconds": %s}' % (b"9" * 400), "/delay_seconds"),
        (b'{"type": "echo", "ttl_seconds": 1e400}', "/ttl_seconds"),
        (b'{"type": "echo", "run_at": "tomorrow"}', "/run_at"),
        (b'{"type": "echo", "run_at": 1700000000}', "/run_at"),
        (b'{"type": "echo", "run_at": "2030-01-01"}', "/run_at"),
        (b'{"type": "echo", "run_at": "2030-01-01T00:00:00"}', "/run_at"),
        (b'{"type": "echo", "run_at": "2030-02-30T00:00:00Z"}', "/run_at"),
        (b'{"type": "echo", "run_at": "0001-01-01T00:00:00+10:00"}', "/run_at"),
        (b'{"type": "echo", "run_at": "9999-12-31T23:59:59-10:00"}', "/run_at"),
        (b'{"type": "echo", "run_at": "99999-12-31T23:59:59Z"}', "/run_at"),
        (b'{"type": "echo", "run_at": "2030-01-01T00:00:00Z", "delay_seconds": 1}', ""),
        (b'{"type": "echo", "depends_on": ["x"]}', "/depends_on/0"),
        (b'{"type": "echo", "depends_on": "%s"}' % ID.encode(), "/depends_on"),
    ],
)
async def test_content_that_is_not_acceptable_is_a_422_that_points_at_it(
    api: httpx.AsyncClient, body: bytes, pointer: str
) -> None:
    problem = check_problem(await send(api, body), 422, "invalid_content")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert all(error["detail"] for error in problem["errors"])


async def test_the_limit_is_counted_where_no_length_is_announced(api: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(300):
            yield b" " * 1024

    answer = await api.post(JOBS, content=chunks(), headers=JSON)
    check_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1",
     "application/jsonp", "multipart/form-data; boundary=x", "application/json, text/plain"],
)  # fmt: skip
async def test_a_body_must_say_that_it_is_json(api: httpx.AsyncClient, content_type: str) -> None:
    answer = await api.post(
        JOBS, content=b'{"type": "echo"}', headers={"Content-Type": content_type}
    )
    check_problem(answer, 415, "unsupported_media_type")


async def test_a_compressed_body_is_a_415(api: httpx.AsyncClient) -> None:
    answer = await send(api, b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    check_problem(answer, 415, "unsupported_media_type")
    assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "key",
    ["", '"', '""', '"abc', '"a"b"', '"a\\x"', "k" * 256, '"' + "k" * 256 + '"', "a\tb",
     "käse", '"a"; p=1'],
)  # fmt: skip
async def test_a_malformed_idempotency_key_is_a_400(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post(
        JOBS, json={"type": "echo"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    check_problem(answer, 400, "malformed_header")


async def test_two_idempotency_keys_are_a_400(api: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    check_problem(await api.post(JOBS, json={"type": "echo"}, headers=headers), 400)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1",
        f"{JOBS}/",
        f"{JOBS}/{ID}/explain",
        f"{JOBS}/{ID}/",
        "/api/v1/redrives",
        "/api/v1/error-groups",
        "/api/v1/queues",
        "/api/v1/schedules",
        "/api/v1/artifacts",
        "/api/v1/webhooks",
        "/api/v1/stream",
        "/metrics",
        "/docs/oauth2-redirect",
        "/%00%ff",
    ],
)
async def test_what_is_not_there_is_a_404(api: httpx.AsyncClient, method: str, path: str) -> None:
    check_problem(await api.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", JOBS, "GET, HEAD, POST"),
        ("OPTIONS", JOBS, "GET, HEAD, POST"),
        ("DELETE", JOBS, "GET, HEAD, POST"),
        ("PUT", f"{JOBS}/{ID}", "DELETE, GET, HEAD, PATCH"),
        ("POST", f"{JOBS}/{ID}", "DELETE, GET, HEAD, PATCH"),
        ("GET", f"{JOBS}/batch", "POST"),
        ("DELETE", f"{JOBS}/batch", "POST"),
        ("POST", f"{JOBS}/stats", "GET, HEAD"),
        ("PATCH", f"{JOBS}/stats", "GET, HEAD"),
        ("DELETE", f"{JOBS}/stats", "GET, HEAD"),
        ("GET", f"{JOBS}/{ID}/cancel", "POST"),
        ("HEAD", f"{JOBS}/{ID}/cancel", "POST"),
        ("DELETE", f"/api/v1/logs/{ID}", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("BREW", JOBS, "GET, HEAD, POST"),
    ],
)
async def test_a_method_that_is_not_there_is_a_405_with_those_that_are(
    api: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await api.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == allow
    if method != "HEAD":
        check_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("sent", ["ok-1._A", "x" * 128])
async def test_a_request_id_is_echoed(api: httpx.AsyncClient, sent: str) -> None:
    answer = await api.get("/healthz", headers={"X-Request-ID": sent})
    assert answer.headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "ä", "a\x7f", "<script>"])
async def test_an_odd_request_id_is_replaced(api: httpx.AsyncClient, sent: str) -> None:
    answer = await api.get("/healthz", headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    assert UUID(answer.headers["X-Request-ID"]).version == 7


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=-5", "/query/limit"),
        ("limit=101", "/query/limit"),
        ("limit=ten", "/query/limit"),
        ("limit=99999999999999999999", "/query/limit"),
        ("state=done", "/query/state/0"),
        ("state=queued&state=", "/query/state/1"),
        ("priority=soon", "/query/priority/0"),
        ("tag=", "/query/tag/0"),
        ("type=%00", "/query/type/0"),
        ("queue=a%00b", "/query/queue/0"),
        ("created_after=yesterday", "/query/created_after"),
        ("created_before=9999-12-31T23:59:59-10:00", "/query/created_before"),
        ("stat=queued", "/query/stat"),
        ("LIMIT=1", "/query/LIMIT"),
        ("&".join(f"tag={n}" for n in range(51)), "/query/tag"),
    ],
)
async def test_a_list_refuses_parameters_that_it_does_not_know(
    api: httpx.AsyncClient, query: str, pointer: str
) -> None:
    problem = check_problem(await api.get(f"{JOBS}?{query}"), 422, "invalid_content")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "😀", "%00", "A" * 43, "A" * 200, "-_" * 21])
async def test_a_cursor_that_is_none_is_a_422(api: httpx.AsyncClient, cursor: str) -> None:
    check_problem(await api.get(f"{JOBS}?cursor={cursor}"), 422, "invalid_cursor")


@pytest.mark.parametrize("path", ["stats?by=colour", "stats?state=queued", "stats?created_after=1"])
async def test_stats_refuse_what_they_do_not_know(api: httpx.AsyncClient, path: str) -> None:
    check_problem(await api.get(f"{JOBS}/{path}"), 422, "invalid_content")


GUARDED = sorted(
    (method, route.path)
    for route in all_routes()
    for method in route.methods or ()
    if (method, route.path) not in OPEN_OPERATIONS
)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "tf_live_testing_onl"},
        {"X-API-Key": "ü".encode("latin-1")},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dGZfbGl2ZV90ZXN0aW5nX29ubHk="},
        {"X-API-Key": "wrong", "Authorization": "Bearer tf_live_testing_only"},
    ],
)
@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_without_a_valid_key_it_is_a_401(
    api: httpx.AsyncClient, method: str, path: str, headers: dict[str, Any]
) -> None:
    del api.headers["X-API-Key"]
    address = path.format(job_id="x", job_type="-", api_key_id="x") + "?limit=-1"
    answer = await api.request(method, address, headers=headers, content=b"{")
    check_problem(answer, 401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path in GUARDED if "{job_id}" in path]
)
async def test_an_id_that_is_no_uuid_is_a_422(
    api: httpx.AsyncClient, method: str, path: str
) -> None:
    for odd in ("x", "1", "%00", "😀", "%ff", "0" * 500):
        answer = await api.request(method, path.format(job_id=odd), json={"tags": []})
        problem = check_problem(answer, 422, "invalid_content")
        assert [error["pointer"] for error in problem["errors"]] == ["/path/job_id"]


async def test_the_front_door_leads_to_the_documentation(api: httpx.AsyncClient) -> None:
    answer = await api.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (307, "/docs")
