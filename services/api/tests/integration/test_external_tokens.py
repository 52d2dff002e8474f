"""Tokens of an issuer: its keys fetched from a server over HTTP, what counts, what is forged."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_api.users import issuer_keys
from taskflow_testing.http_server import HttpServer, ReceivedRequest, http_answer
from taskflow_testing.problems import check_problem

from .conftest import Start

ME = "/api/v1/auth/me"
JOBS = "/api/v1/jobs"
AUDIENCE = "our-api"
NOW = datetime.now(UTC)

EC_KEY, OTHER_EC_KEY = (
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP256R1()),
)
RSA_KEY = rsa.generate_private_key(65537, 2048)
SHORT_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind = (
        jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else (jwt.algorithms.RSAAlgorithm)
    )
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


class Issuer(HttpServer):
    """Publishes its keys, and tells where by its configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[dict[str, Any]] = [
            jwk(EC_KEY, "ec", use="sig", alg="ES256"),
            jwk(RSA_KEY, "rsa", use="sig"),
        ]
        self.is_away = False
        self.answer = self._answer

    async def _answer(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        document: dict[str, Any] = {"keys": self.keys}
        if request.target == "/.well-known/openid-configuration":
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        body = json.dumps(document).encode()
        writer.write(http_answer(503 if self.is_away else 200, body))

    @property
    def looks(self) -> int:
        """How often the keys were asked for."""
        return len([each for each in self.requests if each.target == "/keys"])


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as server:
        yield server


def served(
    start: Start, issuer: Issuer, **settings: Any
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return start(**{"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE} | settings)


@pytest.fixture
async def api(start: Start, issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    async with served(start, issuer) as client:
        del client.headers["X-API-Key"]
        yield client


def signed(
    issuer: Issuer,
    key: Any = EC_KEY,
    algorithm: str = "ES256",
    kid: str | None = "ec",
    *,
    without: str = "",
    header: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    found = {
        "iss": issuer.url,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": NOW,
        "exp": NOW + timedelta(days=1),
        "tenant": "default",
        "scope": "openid jobs:read",
    } | claims
    found = {name: value for name, value in found.items() if name != without}
    named = {"kid": kid} if kid is not None else {}
    return jwt.encode(found, key, algorithm, headers={**named, **(header or {})})


async def me(api: httpx.AsyncClient, token: str) -> httpx.Response:
    return await api.get(ME, headers={"Authorization": f"Bearer {token}"})


async def test_a_token_of_the_issuer_says_who_comes(api: httpx.AsyncClient, issuer: Issuer) -> None:
    answer = await me(api, signed(issuer))
    assert answer.json() == {
        "kind": "user",
        "id": "oidc:ada",
        "tenant_id": str(DEFAULT_TENANT_ID),
        "scopes": ["jobs:read"],
        "email": None,
    }
    token = {"Authorization": f"Bearer {signed(issuer)}"}
    assert (await api.get(JOBS, headers=token)).status_code == 200
    refused = await api.post(JOBS, json={"type": "echo"}, headers=token)
    check_problem(refused, 403, "insufficient_scope")
    check_problem(await api.post("/api/v1/auth/logout", headers=token), 403, "no_session")
    assert issuer.looks == 1


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "admin jobs:read"}, ["admin", "jobs:read"]),
        ({"scope": ["jobs:write", 5, None, {}]}, ["jobs:write"]),
        ({"scope": {"jobs:write": True}}, []),
        ({"scope": ""}, []),
        ({"without": "scope"}, []),
    ],
)
async def test_scopes_are_those_that_there_are(
    api: httpx.AsyncClient, issuer: Issuer, claims: dict[str, Any], scopes: list[str]
) -> None:
    assert (await me(api, signed(issuer, **claims))).json()["scopes"] == scopes


async def test_claims_algorithms_and_the_address_of_the_keys_are_the_settings(
    start: Start, issuer: Issuer, connection: asyncpg.Connection
) -> None:
    tenant_id = uuid4()
    await connection.execute("INSERT INTO tenants VALUES ($1, 'acme')", tenant_id)
    async with served(
        start,
        issuer,
        oidc_tenant_claim="org",
        oidc_scopes_claim="roles",
        oidc_algorithms="PS512",
        oidc_jwks_url=f"{issuer.url}/keys",
    ) as api:
        del api.headers["X-API-Key"]
        for named in ("acme", str(tenant_id), str(tenant_id).upper()):
            claims: dict[str, Any] = {"org": named, "roles": ["admin"]}
            answer = await me(api, signed(issuer, RSA_KEY, "PS512", "rsa", **claims))
            assert answer.json()["tenant_id"] == str(tenant_id)
            assert answer.json()["scopes"] == ["admin"]
        refused = await me(api, signed(issuer, RSA_KEY, "RS256", "rsa", org="acme"))
        check_problem(refused, 401)
    assert {each.target for each in issuer.requests} == {"/keys"}


FORGED: dict[str, dict[str, Any]] = {
    "another's signature": {"key": OTHER_EC_KEY},
    "an HMAC with the public key": {
        "key": PEM.replace(b"-----BEGIN", b"-----begin"), "algorithm": "HS256", "kid": "rsa",
    },
    "another algorithm than the key's": {"key": RSA_KEY, "algorithm": "RS256", "kid": "ec"},
    "an algorithm that isn't set": {"key": RSA_KEY, "algorithm": "RS512", "kid": "rsa"},
    "no kid": {"kid": None},
    "a kid that there isn't": {"kid": "other"},
    "a kid that is a path": {"kid": "../../../etc/passwd"},
    "jku": {"key": OTHER_EC_KEY, "header": {"jku": "http://127.0.0.1:1/keys"}},
    "x5u": {"key": OTHER_EC_KEY, "header": {"x5u": "http://127.0.0.1:1/chain"}},
    "jwk": {"key": OTHER_EC_KEY, "header": {"jwk": jwk(OTHER_EC_KEY, "ec")}},
    "another kind": {"header": {"typ": "logout+jwt"}},
    "a critical extension": {"header": {"crit": ["x"], "x": 1}},
    "another issuer": {"iss": "https://issuer.example"},
    "another audience": {"aud": "another-api"},
    "expired": {"iat": NOW - timedelta(hours=1), "exp": NOW - timedelta(minutes=2)},
    "not yet": {"nbf": NOW + timedelta(hours=5)},
    "of the future": {"iat": NOW + timedelta(hours=5)},
    "without exp": {"without": "exp"},
    "without iat": {"without": "iat"},
    "without iss": {"without": "iss"},
    "without aud": {"without": "aud"},
    "without sub": {"without": "sub"},
    "without a tenant": {"without": "tenant"},
    "a tenant that there isn't": {"tenant": "nobodys"},
    "a tenant that is none": {"tenant": ["default"]},
    "a tenant that is SQL": {"tenant": "' OR 1=1 --"},
    "a tenant without an end": {"tenant": "default" * 100},
    "a tenant that can't be stored": {"tenant": "default\x00"},
    "a subject with a line's end": {"sub": "ada\nlog: forged"},
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
async def test_what_is_forged_or_for_others_is_refused(
    api: httpx.AsyncClient, issuer: Issuer, name: str
) -> None:
    answer = await me(api, signed(issuer, **FORGED[name]))
    check_problem(answer, 401, "not_authenticated")
    assert issuer.looks <= 1


async def test_an_infinite_end_is_refused(api: httpx.AsyncClient, issuer: Issuer) -> None:
    check_problem(await me(api, signed(issuer, exp=float("inf"))), 401)


@pytest.mark.parametrize(
    "entry",
    [
        {**jwk(EC_KEY, "new"), "use": "enc"},
        {**jwk(EC_KEY, "new"), "alg": "ES384"},
        {**jwk(EC_KEY, "new"), "kty": "oct", "k": "c2VjcmV0"},
        {**jwk(EC_KEY, "new"), "d": "AAAA"},
        {**jwk(EC_KEY, "new"), "x": "!"},
        {**jwk(EC_KEY, "new"), "crv": "P-999"},
        {"kid": "new"},
        "new",
    ],
    # Each process that collects makes keys of its own.
    ids=["use", "alg", "symmetric", "private", "no-point", "curve", "only-kid", "no-object"],
)
async def test_a_key_that_is_for_something_else_counts_for_nothing(
    api: httpx.AsyncClient, issuer: Issuer, entry: Any
) -> None:
    issuer.keys.append(entry)
    check_problem(await me(api, signed(issuer, kid="new")), 401)
    assert (await me(api, signed(issuer))).status_code == 200


async def test_a_key_that_is_too_short_is_refused(api: httpx.AsyncClient, issuer: Issuer) -> None:
    issuer.keys.append(jwk(SHORT_KEY, "short"))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = signed(issuer, SHORT_KEY, "RS256", "short")
    check_problem(await me(api, token), 401)


async def test_a_new_key_is_found_and_unknown_ones_bring_no_storm(
    api: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await me(api, signed(issuer))).status_code == 200
    issuer.keys = [jwk(OTHER_EC_KEY, "next")]
    rotated = signed(issuer, OTHER_EC_KEY, kid="next")
    check_problem(await me(api, rotated), 401)
    assert issuer.looks == 1
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", 0.0)
    assert (await me(api, rotated)).status_code == 200
    check_problem(await me(api, signed(issuer)), 401)
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", 60.0)
    looks = issuer.looks
    many = await asyncio.gather(*(me(api, signed(issuer, kid=str(n))) for n in range(20)))
    assert {answer.status_code for answer in many} == {401}
    assert issuer.looks == looks


async def test_who_has_a_known_key_waits_for_nobody_elses_look(
    api: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await me(api, signed(issuer))).status_code == 200
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        is_asked.set()
        await may_answer.wait()
        await issuer._answer(request, writer)

    issuer.answer = slow
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", 0.0)
    unknown = asyncio.create_task(me(api, signed(issuer, kid="other")))
    async with asyncio.timeout(10):
        await is_asked.wait()
    assert (await me(api, signed(issuer))).status_code == 200
    assert not unknown.done()
    may_answer.set()
    check_problem(await unknown, 401)


async def test_many_who_come_at_first_make_one_look(api: httpx.AsyncClient, issuer: Issuer) -> None:
    answers = await asyncio.gather(*(me(api, signed(issuer)) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert issuer.looks == 1


async def test_a_key_that_was_taken_back_is_forgotten(
    api: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await me(api, signed(issuer))).status_code == 200
    issuer.keys = [jwk(OTHER_EC_KEY, "next")]
    monkeypatch.setattr(issuer_keys, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", 0.0)
    async with asyncio.timeout(10):
        while (await me(api, signed(issuer))).status_code == 200:
            await asyncio.sleep(0.02)


async def test_who_comes_after_a_long_time_is_not_let_in_by_a_key_that_was_taken_back(
    api: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await me(api, signed(issuer))).status_code == 200
    issuer.keys = [jwk(OTHER_EC_KEY, "next")]
    for name in ("FRESH_SECONDS", "STALE_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(issuer_keys, name, 0.0)
    check_problem(await me(api, signed(issuer)), 401)


async def test_an_issuer_that_is_away_is_a_503_and_no_401(
    api: httpx.AsyncClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.is_away = True
    for _ in range(2):
        answer = await me(api, signed(issuer))
        check_problem(answer, 503, "service_unavailable")
        assert answer.headers["Retry-After"]
    assert len(issuer.requests) == 1
    issuer.is_away = False
    monkeypatch.setattr(issuer_keys, "AGAIN_SECONDS", 0.0)
    assert (await me(api, signed(issuer))).status_code == 200
    # What is known goes on while it is away, and what isn't might be a new key.
    issuer.is_away = True
    monkeypatch.setattr(issuer_keys, "FRESH_SECONDS", 0.0)
    for _ in range(3):
        assert (await me(api, signed(issuer))).status_code == 200
    check_problem(await me(api, signed(issuer, kid="next")), 503)
    monkeypatch.setattr(issuer_keys, "KEPT_SECONDS", 0.0)
    check_problem(await me(api, signed(issuer)), 503)


@pytest.mark.parametrize(
    "document",
    [
        b"not JSON",
        b"[]",
        b'{"issuer": "https://another.example", "jwks_uri": "http://127.0.0.1:1/"}',
        b'{"keys": []}',
        b'{"keys": 5}',
        b"{" + b'"a":' * 400 + b"1" + b"}" * 400,
        b'"' + b"x" * 300_000 + b'"',
    ],
    ids=["no-json", "a-list", "another-issuer", "no-keys", "keys-a-number", "deep", "long"],
)
async def test_an_issuer_that_talks_nonsense_is_one_that_is_away(
    start: Start, issuer: Issuer, document: bytes
) -> None:
    issuer.answer = http_answer(200, document)
    for address in ("", f"{issuer.url}/keys"):
        async with served(start, issuer, oidc_jwks_url=address) as api:
            del api.headers["X-API-Key"]
            check_problem(await me(api, signed(issuer)), 503)


async def test_keys_are_not_fetched_from_where_an_answer_leads(
    api: httpx.AsyncClient, issuer: Issuer
) -> None:
    async with Issuer() as other:
        issuer.answer = http_answer(302, location=f"{other.url}/keys")
        check_problem(await me(api, signed(issuer)), 503)
        assert other.requests == []


async def test_without_an_issuer_no_such_token_counts(start: Start, issuer: Issuer) -> None:
    async with start() as api:
        del api.headers["X-API-Key"]
        check_problem(await me(api, signed(issuer)), 401)
    assert issuer.requests == []
