"""Whatever is sent: a problem document that says what was wrong, and never a 500."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow_api.routes import all_routes
from taskflow_testing.problems import check_problem

JOBS = "/api/v1/jobs"
JSON = {"Content-Type": "application/json"}


async def send(api: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await api.post(JOBS, content=body, headers=JSON | headers)


@pytest.mark.parametrize(
    ("method", "path"),
    sorted(
        (method, route.path)
        for route in all_routes()
        for method in route.methods or ()
        if "{job_id}" in route.path
    ),
)
async def test_an_unknown_id_is_a_404(api: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await api.request(method, path.format(job_id=uuid4()), json={"tags": []})
    check_problem(answer, 404, "job_not_found")


def doubles(text: str) -> Any:
    return json.loads(text, parse_int=float)


@pytest.mark.parametrize(
    "payload",
    [
        '{"n": 9223372036854775808}',
        '{"n": -170141183460469231731687303715884105728}',
        '{"n": %s}' % ("9" * 4300),
        '{"n": 1e308}',
        '{"n": 5e-324}',
        '{"n": 1e-400}',
        '{"n": 0.1234567890123456789}',
        '{"n": -0.0}',
        '{"s": "😀 \\ud83d\\ude00 \\u0001 \\u202e"}',
        '{"😀": {"": [null, true, {"__proto__": 1}]}}',
        '{"a": %s}' % ("[" * 30 + "]" * 30),
    ],
)
async def test_what_is_odd_but_storable_comes_back_equal(
    api: httpx.AsyncClient, payload: str
) -> None:
    accepted = await send(api, b'{"type": "echo", "payload": %s}' % payload.encode())
    assert accepted.status_code == 202, accepted.text
    read = await api.get(accepted.headers["Location"])
    listed = await api.get(JOBS)
    # PostgreSQL keeps a number's value, not whether it was written with an exponent.
    for shown in (doubles(accepted.text), doubles(read.text), doubles(listed.text)["items"][0]):
        assert shown["payload"] == doubles(payload)


async def test_a_body_has_a_limit(api: httpx.AsyncClient) -> None:
    fits = b'{"type": "echo", "payload": {"s": "%s"}}' % (b"x" * (256 * 1024 - 38))
    assert len(fits) == 256 * 1024
    assert (await send(api, fits)).status_code == 202
    check_problem(await send(api, fits + b" "), 413, "body_too_large")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json;charset=UTF-8",
     'application/json ; charset="utf-8"'],
)  # fmt: skip
async def test_json_may_be_named_in_any_of_its_ways(
    api: httpx.AsyncClient, content_type: str
) -> None:
    answer = await api.post(
        JOBS, content=b'{"type": "echo"}', headers={"Content-Type": content_type}
    )
    assert answer.status_code == 202


@pytest.mark.parametrize("key", ["k" * 255, '"' + "k" * 255 + '"', "a b", '"a\\"b"', "a,b;c=1"])
async def test_a_key_may_be_bare_or_quoted(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post(JOBS, json={"type": "echo"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 202


async def test_the_key_may_come_as_a_bearer_token(api: httpx.AsyncClient) -> None:
    del api.headers["X-API-Key"]
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} tf_live_testing_only"}
        assert (await api.get(JOBS, headers=headers)).status_code == 200


async def test_a_body_that_nobody_asked_for_is_ignored(api: httpx.AsyncClient) -> None:
    for method, path in (("GET", JOBS), ("GET", "/healthz"), ("GET", f"{JOBS}/stats")):
        answer = await api.request(method, path, content=b"{broken", headers=JSON)
        assert answer.status_code == 200
    created = await api.post(JOBS, json={"type": "echo"})
    answer = await api.post(
        created.headers["Location"] + "/cancel", content=b"\xff", headers={"Content-Type": "x/y"}
    )
    assert answer.status_code == 200


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        ANY_JSON.map(json.dumps).map(str.encode),
        st.dictionaries(
            st.sampled_from(
                ["payload", "metadata", "tags", "run_at", "delay_seconds", "name", "max_attempts",
                 "unique_key", "depends_on", "expires_at", "ttl_seconds", "queue", "priority"]
            ),
            ANY_JSON,
            max_size=3,
        ).map(lambda body: json.dumps({"type": "echo"} | body).encode()),
    )
)  # fmt: skip
async def test_no_body_at_all_makes_a_500(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await send(api, body)
    assert answer.status_code in {200, 202, 400, 422}, answer.text
    if answer.status_code >= 400:
        check_problem(answer, answer.status_code)
