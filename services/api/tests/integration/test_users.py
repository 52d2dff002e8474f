"""Users: register, sign in, refresh, sign out, and what somebody else can make of it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
import pytest
from fastapi import FastAPI

from taskflow.access import sessions
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_api.users.access_tokens import AccessTokens
from taskflow_api.users.passwords import PARAMETERS, Passwords
from taskflow_api.users.token_keys import TokenKeyRing
from taskflow_testing.problems import check_problem

from .conftest import Start

REGISTER = "/api/v1/auth/register"
TOKEN = "/api/v1/auth/token"
ME = "/api/v1/auth/me"
LOGOUT = "/api/v1/auth/logout"
JOBS = "/api/v1/jobs"
PASSWORD = "correct horse battery"
_WAITING_FOR_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%user_sessions%'
"""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def email() -> str:
    """An address that no other test has tried to sign in with."""
    return f"ada-{uuid4().hex[:12]}@example.com"


@pytest.fixture
async def anybody(api: httpx.AsyncClient) -> httpx.AsyncClient:
    """The client, without a key."""
    del api.headers["X-API-Key"]
    return api


def bearing(tokens: Mapping[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def register(api: httpx.AsyncClient, email: str) -> None:
    answer = await api.post(REGISTER, json={"email": email, "password": PASSWORD})
    assert answer.status_code == 202, answer.text


async def sign_in(api: httpx.AsyncClient, email: str, **changes: str) -> dict[str, Any]:
    """Tokens for the password."""
    answer = await api.post(TOKEN, json={"username": email, "password": PASSWORD} | changes)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(api: httpx.AsyncClient, token: str) -> httpx.Response:
    return await api.post(TOKEN, json={"grant_type": "refresh_token", "refresh_token": token})


@pytest.fixture
async def tokens(anybody: httpx.AsyncClient, email: str) -> dict[str, Any]:
    """A user's that has just registered."""
    await register(anybody, email)
    return await sign_in(anybody, email)


async def acts(connection: asyncpg.Connection, tenant_id: object) -> list[str]:
    rows = await connection.fetch(
        "SELECT action FROM audit_log WHERE tenant_id = $1 ORDER BY id", tenant_id
    )
    return [row["action"] for row in rows]


async def test_a_user_has_a_tenant_of_its_own(
    anybody: httpx.AsyncClient, email: str, connection: asyncpg.Connection
) -> None:
    answer = await anybody.post(REGISTER, json={"email": email.upper(), "password": PASSWORD})
    assert answer.status_code == 202
    assert answer.json()["email"] == email
    tokens = await sign_in(anybody, email)
    assert tokens["token_type"] == "bearer"
    assert tokens["expires_in"] == 900
    me = (await anybody.get(ME, headers=bearing(tokens))).json()
    assert me["email"] == email
    assert me["kind"] == "user"
    assert me["scopes"] == ["admin", "jobs:read", "jobs:write", "queues:write"]
    assert UUID(me["tenant_id"]) != DEFAULT_TENANT_ID
    submitted = await anybody.post(JOBS, json={"type": "echo"}, headers=bearing(tokens))
    listed = await anybody.get(JOBS, headers=bearing(tokens))
    assert submitted.status_code == 202
    assert [job["id"] for job in listed.json()["items"]] == [submitted.json()["id"]]
    assert await acts(connection, UUID(me["tenant_id"])) == ["user.register", "user.login"]


async def test_two_users_see_nothing_of_each_other(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any]
) -> None:
    await register(anybody, "other-" + email)
    others = await sign_in(anybody, "other-" + email)
    job = await anybody.post(JOBS, json={"type": "echo"}, headers=bearing(tokens))
    seen = await anybody.get(f"{JOBS}/{job.json()['id']}", headers=bearing(others))
    check_problem(seen, 404, "job_not_found")
    assert (await anybody.get(JOBS, headers=bearing(others))).json()["items"] == []


async def test_a_taken_address_gets_the_answer_of_a_free_one(
    anybody: httpx.AsyncClient, email: str, connection: asyncpg.Connection
) -> None:
    free = await anybody.post(REGISTER, json={"email": email, "password": PASSWORD})
    before = await connection.fetchrow("SELECT * FROM users WHERE email = $1", email)
    taken = await anybody.post(REGISTER, json={"email": email, "password": "another password"})
    assert (taken.status_code, taken.json()) == (free.status_code, free.json())
    assert taken.headers.keys() == free.headers.keys()
    assert await connection.fetchrow("SELECT * FROM users WHERE email = $1", email) == before
    # Nor is anything left of what was tried: a tenant, a job, a line in a log.
    assert await connection.fetchval("SELECT count(*) FROM tenants") == 2
    assert await connection.fetchval("SELECT count(*) FROM audit_log") == 1


async def test_two_who_register_an_address_at_once_make_one_user(
    anybody: httpx.AsyncClient, email: str, connection: asyncpg.Connection
) -> None:
    body = {"email": email, "password": PASSWORD}
    answers = await asyncio.gather(*(anybody.post(REGISTER, json=body) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {202}
    assert await connection.fetchval("SELECT count(*) FROM users") == 1
    assert await connection.fetchval("SELECT count(*) FROM tenants") == 2


async def test_nothing_tells_a_wrong_password_from_no_user(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    wrong = [
        await anybody.post(TOKEN, json={"username": name, "password": "wrong" + PASSWORD})
        for name in (email, "nobody-" + email, "no address", "a\u0430@example.com")
    ]
    for answer in wrong:
        problem = check_problem(answer, 401, "sign_in_refused")
        assert problem["error"] == "invalid_grant"
        assert answer.headers["WWW-Authenticate"]
    assert len({answer.json()["detail"] for answer in wrong}) == 1
    assert len({frozenset(answer.headers.keys()) for answer in wrong}) == 1
    tenant_id = await connection.fetchval("SELECT tenant_id FROM users WHERE email = $1", email)
    async with asyncio.timeout(10):
        while "user.login_refused" not in await acts(connection, tenant_id):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"email": "ada", "password": PASSWORD}, "/email"),
        ({"email": "ada@example.com", "password": "x" * 11}, "/password"),
        ({"email": "ada@example.com", "password": "x" * 129}, "/password"),
        ({"email": "ada@example.com", "password": "\ud800" * 12}, ""),
        ({"email": "ada@example.com", "password": PASSWORD, "tenant_id": "x"}, "/tenant_id"),
        ({"email": "ada@example.com", "password": PASSWORD, "scopes": []}, "/scopes"),
        ({"password": PASSWORD}, "/email"),
    ],
)
async def test_a_registration_must_be_whole(
    anybody: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = await anybody.post(REGISTER, content=content, headers=headers)
    problem = check_problem(answer, 422, "invalid_content")
    assert pointer in {each["pointer"] for each in problem["errors"]} or not pointer
    assert PASSWORD not in answer.text


async def test_registration_can_be_closed(start: Start, email: str) -> None:
    async with start(registration_open=False) as api:
        answer = await api.post(REGISTER, json={"email": email, "password": PASSWORD})
        check_problem(answer, 403, "registration_closed")


async def test_a_form_does_as_well_as_json(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any]
) -> None:
    """What the button of /docs sends, its headers included."""
    form = {"grant_type": "password", "username": email, "password": PASSWORD, "scope": ""}
    headers = {"Authorization": "Basic Og==", "X-Requested-With": "XMLHttpRequest"}
    answer = await anybody.post(TOKEN, data=form, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    again = {"grant_type": "refresh_token", "refresh_token": answer.json()["refresh_token"]}
    assert (await anybody.post(TOKEN, data=again)).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", FORM, 422),
        (b"username=a&username=b", FORM, 400),
        (b"username=%ff&password=x", FORM, 400),
        (b"grant_type=client_credentials", FORM, 422),
        (b"grant_type=refresh_token", FORM, 422),
        (b"username=a", FORM, 422),
        (b"username=a&email=a&password=b", FORM, 422),
        (b"username=a&password=b&scope=everything", FORM, 422),
        (b"username=a%00&password=b", FORM, 422),
        (b"{}", FORM, 400),
        (b"{}", {"Content-Type": "application/json"}, 422),
        (b"username=a", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b"username=a", {}, 415),
    ],
)
async def test_a_request_for_tokens_must_be_one(
    anybody: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    check_problem(await anybody.post(TOKEN, content=content, headers=headers), status)


async def test_tokens_may_have_fewer_scopes_and_get_no_more(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any]
) -> None:
    few = await sign_in(anybody, email, scope="jobs:read")
    assert few["scope"] == "jobs:read"
    next_ones = (await refresh(anybody, few["refresh_token"])).json()
    assert next_ones["scope"] == "jobs:read"
    for each in (few, next_ones):
        refused = await anybody.post(JOBS, json={"type": "echo"}, headers=bearing(each))
        check_problem(refused, 403, "insufficient_scope")
        assert (await anybody.get(JOBS, headers=bearing(each))).status_code == 200


async def test_a_scope_of_a_later_version_is_none(
    anybody: httpx.AsyncClient, email: str, connection: asyncpg.Connection
) -> None:
    await register(anybody, email)
    tokens = await sign_in(anybody, email, scope="jobs:read")
    await connection.execute("UPDATE user_sessions SET scopes = '{jobs:read,moon:land}'")
    answer = await refresh(anybody, tokens["refresh_token"])
    assert (answer.status_code, answer.json().get("scope")) == (200, "jobs:read")


async def test_a_refresh_token_leads_on_and_on(
    anybody: httpx.AsyncClient, tokens: dict[str, Any]
) -> None:
    seen = {tokens["refresh_token"]}
    for _ in range(3):
        tokens = (await refresh(anybody, tokens["refresh_token"])).json()
        assert tokens["refresh_token"] not in seen
        seen.add(tokens["refresh_token"])
        assert (await anybody.get(ME, headers=bearing(tokens))).status_code == 200


async def test_no_token_is_kept_as_it_is(
    tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    for table in ("users", "user_sessions", "refresh_tokens", "audit_log"):
        text = await connection.fetchval(f"SELECT jsonb_agg({table})::text FROM {table}")
        assert tokens["refresh_token"] not in text
        assert PASSWORD not in text


async def test_a_stolen_refresh_token_ends_the_session(
    anybody: httpx.AsyncClient, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    second = (await refresh(anybody, tokens["refresh_token"])).json()
    third = (await refresh(anybody, second["refresh_token"])).json()
    me = (await anybody.get(ME, headers=bearing(third))).json()

    stolen = await refresh(anybody, tokens["refresh_token"])

    check_problem(stolen, 401, "sign_in_refused")
    check_problem(await refresh(anybody, third["refresh_token"]), 401, "sign_in_refused")
    assert "user.token_reuse" in await acts(connection, UUID(me["tenant_id"]))
    async with asyncio.timeout(10):
        while (await anybody.get(ME, headers=bearing(third))).status_code != 401:
            await asyncio.sleep(0.02)


async def test_a_lost_answer_is_given_again_and_only_for_a_moment(
    anybody: httpx.AsyncClient, tokens: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (await refresh(anybody, tokens["refresh_token"])).json()
    again = (await refresh(anybody, tokens["refresh_token"])).json()
    assert again["refresh_token"] == given["refresh_token"]
    monkeypatch.setattr(sessions, "GRACE_SECONDS", 0)
    check_problem(await refresh(anybody, tokens["refresh_token"]), 401, "sign_in_refused")
    check_problem(await refresh(anybody, given["refresh_token"]), 401, "sign_in_refused")


async def test_a_token_that_is_used_many_times_at_once_has_one_successor(
    anybody: httpx.AsyncClient, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(refresh(anybody, tokens["refresh_token"]) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    (successor,) = {answer.json()["refresh_token"] for answer in answers}
    assert await connection.fetchval("SELECT count(*) FROM refresh_tokens") == 2
    assert (await refresh(anybody, successor)).status_code == 200


async def test_those_who_use_a_token_at_once_take_turns(
    anybody: httpx.AsyncClient,
    tokens: dict[str, Any],
    connection: asyncpg.Connection,
    clean_database: str,
) -> None:
    holder = await asyncpg.connect(clean_database)
    async with holder.transaction():
        await holder.execute("SELECT FROM user_sessions FOR UPDATE")
        both = [asyncio.create_task(refresh(anybody, tokens["refresh_token"])) for _ in range(2)]
        async with asyncio.timeout(10):
            while await connection.fetchval(_WAITING_FOR_SESSIONS) < 2:
                await asyncio.sleep(0.02)
    await holder.close()
    answers = await asyncio.gather(*both)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


async def test_a_change_of_the_secret_signs_nobody_out(start: Start, email: str) -> None:
    old, new = "o" * 32, "n" * 32
    async with start(jwt_secret=old) as api:
        await register(api, email)
        tokens = await sign_in(api, email)
        given = (await refresh(api, tokens["refresh_token"])).json()
    async with start(jwt_secret=new, jwt_previous_secret=old) as api:
        del api.headers["X-API-Key"]
        assert (await api.get(ME, headers=bearing(given))).status_code == 200
        # The answer before the change was lost.
        again = (await refresh(api, tokens["refresh_token"])).json()
        assert again["refresh_token"] == given["refresh_token"]
        assert (await refresh(api, again["refresh_token"])).status_code == 200


async def test_without_a_secret_the_api_key_stands_in_for_it_in_every_process(
    start: Start, email: str
) -> None:
    async with start(jwt_secret="") as one, start(jwt_secret="") as other:
        del one.headers["X-API-Key"], other.headers["X-API-Key"]
        await register(one, email)
        tokens = await sign_in(one, email)
        assert (await other.get(ME, headers=bearing(tokens))).status_code == 200
    async with start(jwt_secret="", api_key="tf_live_another_for_testing") as changed:
        del changed.headers["X-API-Key"]
        check_problem(await changed.get(ME, headers=bearing(tokens)), 401, "not_authenticated")
        # The session goes on: what the next token is made with is another matter.
        given = (await refresh(changed, tokens["refresh_token"])).json()
        assert (await changed.get(ME, headers=bearing(given))).status_code == 200


async def test_who_signs_out_is_out_and_no_other_session_is(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    other = await sign_in(anybody, email)
    me = (await anybody.get(ME, headers=bearing(tokens))).json()
    answer = await anybody.post(LOGOUT, headers=bearing(tokens))
    assert answer.status_code == 204
    check_problem(await anybody.get(ME, headers=bearing(tokens)), 401, "not_authenticated")
    check_problem(await anybody.post(LOGOUT, headers=bearing(tokens)), 401)
    check_problem(await refresh(anybody, tokens["refresh_token"]), 401, "sign_in_refused")
    assert (await anybody.get(ME, headers=bearing(other))).status_code == 200
    assert (await acts(connection, UUID(me["tenant_id"])))[-1] == "user.logout"


async def test_the_end_of_a_session_is_known_to_other_processes_within_a_second(
    start: Start, email: str
) -> None:
    async with start() as one, start() as other:
        del one.headers["X-API-Key"], other.headers["X-API-Key"]
        await register(one, email)
        tokens = await sign_in(one, email)
        assert (await other.get(ME, headers=bearing(tokens))).status_code == 200
        assert (await one.post(LOGOUT, headers=bearing(tokens))).status_code == 204
        ended_at = asyncio.get_running_loop().time()
        while (await other.get(ME, headers=bearing(tokens))).status_code == 200:
            assert asyncio.get_running_loop().time() - ended_at < 1.0
            await asyncio.sleep(0.02)


async def test_a_session_carries_no_token_of_somebody_else(
    anybody: httpx.AsyncClient, tokens: dict[str, Any], setting_values: dict[str, Any]
) -> None:
    """Signed with the secret, which has leaked, by who has a session of its own."""
    signer = AccessTokens(TokenKeyRing(setting_values["jwt_secret"]), life_seconds=60)
    own = signer.read(tokens["access_token"])
    for forged in (
        replace(own, tenant_id=DEFAULT_TENANT_ID),
        replace(own, user_id=uuid4()),
        replace(own, session_id=uuid4()),
    ):
        answer = await anybody.get(ME, headers=bearing({"access_token": signer.issue(forged)}))
        check_problem(answer, 401, "not_authenticated")
    answer = await anybody.get(ME, headers=bearing({"access_token": signer.issue(own)}))
    assert answer.status_code == 200


async def test_a_disabled_user_is_out(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    await connection.execute("UPDATE users SET disabled_at = now() WHERE email = $1", email)
    refused = await anybody.post(TOKEN, json={"username": email, "password": PASSWORD})
    check_problem(refused, 401, "sign_in_refused")
    check_problem(await refresh(anybody, tokens["refresh_token"]), 401, "sign_in_refused")
    async with asyncio.timeout(10):
        while (await anybody.get(ME, headers=bearing(tokens))).status_code != 401:
            await asyncio.sleep(0.02)


async def test_a_session_ends_in_time_whatever_is_refreshed(
    anybody: httpx.AsyncClient, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    await connection.execute("UPDATE user_sessions SET expires_at = now()")
    check_problem(await refresh(anybody, tokens["refresh_token"]), 401, "sign_in_refused")


async def test_a_user_has_so_many_sessions_and_the_oldest_go(
    anybody: httpx.AsyncClient,
    email: str,
    tokens: dict[str, Any],
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    later = [await sign_in(anybody, email) for _ in range(2)]
    check_problem(await refresh(anybody, tokens["refresh_token"]), 401, "sign_in_refused")
    for each in later:
        assert (await refresh(anybody, each["refresh_token"])).status_code == 200
    assert await connection.fetchval("SELECT count(*) FROM user_sessions") == 2


async def test_a_key_has_no_session_to_end(api: httpx.AsyncClient) -> None:
    check_problem(await api.post(LOGOUT), 403, "no_session")
    me = (await api.get(ME)).json()
    assert (me["kind"], me["email"]) == ("settings", None)


async def test_a_weaker_hash_is_replaced_when_its_owner_signs_in(
    anybody: httpx.AsyncClient, email: str, tokens: dict[str, Any], connection: asyncpg.Connection
) -> None:
    passwords = Passwords(type(PARAMETERS)(PARAMETERS.type, 19, 16, 32, 1, 1024, 1))
    weak = await passwords.hash(PASSWORD)
    passwords.close()
    await connection.execute("UPDATE users SET password_hash = $1", weak)
    await sign_in(anybody, email)
    renewed = await connection.fetchval("SELECT password_hash FROM users")
    assert renewed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    await sign_in(anybody, email)


async def test_a_registration_sends_a_mail_where_there_is_a_server(
    start: Start, email: str, connection: asyncpg.Connection
) -> None:
    async with start(smtp_host="mail.example.com") as api:
        await register(api, email)
        await register(api, email)
        await register(api, "other-" + email)
        tokens = await sign_in(api, email)
        del api.headers["X-API-Key"]
        (job,) = (await api.get(JOBS, headers=bearing(tokens))).json()["items"]
    assert (job["type"], job["state"]) == ("email.send", "queued")
    assert job["payload"]["to"] == [email]
    row = await connection.fetchrow("SELECT * FROM jobs WHERE id = $1", UUID(job["id"]))
    owner = await connection.fetchval("SELECT tenant_id FROM users WHERE email = $1", email)
    assert row is not None
    assert row["tenant_id"] == owner


async def test_a_tenant_reads_no_hash(app: FastAPI, tokens: dict[str, Any]) -> None:
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    writes = app.state.resources.writes
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with writes._database.connection(UUID(claims["tenant"])) as connection:
            await connection.fetch("SELECT password_hash FROM users")
