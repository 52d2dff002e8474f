"""Access tokens of our own: what is accepted, and a table of what somebody might try instead."""

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from taskflow import api_key
from taskflow.access.scopes import ALL_SCOPES, Scope
from taskflow.settings import ApiSettings
from taskflow_api.users.access_tokens import Access, AccessTokens
from taskflow_api.users.errors import InvalidToken
from taskflow_api.users.token_keys import TokenKeyRing, token_secret_of
from taskflow_testing.problems import check_problem

# As in conftest.py.
SECRET = "of_at_least_thirty_two_characters"
OTHER_SECRET = "of_at_least_thirty_two_other_ones"
MADE_KEY = api_key.generate().text
ME = "/api/v1/auth/me"
ACCESS = Access(uuid4(), uuid4(), uuid4(), ALL_SCOPES)


def ring(secret: str, previous: str = "") -> TokenKeyRing:
    return TokenKeyRing(secret, previous)


def tokens(*secrets: str, life_seconds: int = 86_400) -> AccessTokens:
    return AccessTokens(ring(*secrets), life_seconds=life_seconds)


KEY = ring(SECRET).current
GOOD = tokens(SECRET).issue(ACCESS)
CLAIMS: Mapping[str, Any] = jwt.decode(GOOD, options={"verify_signature": False})
HEADER: Mapping[str, Any] = {"kid": KEY.id, "typ": "at+jwt"}
NOW = datetime.now(UTC)
STRANGER = rsa.generate_private_key(65537, 2048)
STRANGERS_JWK = jwt.algorithms.RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)


def signed(
    key: Any = KEY.signing,
    algorithm: str = "HS256",
    *,
    without: str = "",
    header: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """The good token but for what is said; `without` a claim."""
    kept = {name: value for name, value in {**CLAIMS, **claims}.items() if name != without}
    return jwt.encode(kept, key, algorithm, headers={**HEADER, **(header or {})})


def assembled(header: bytes, payload: bytes, signature: bytes = b"") -> str:
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (header, payload, signature)
    )


def _none(name: str) -> str:
    header = json.dumps({**HEADER, "alg": name}).encode()
    return assembled(header, json.dumps(CLAIMS).encode())


HEAD, BODY, SIGNATURE = GOOD.split(".")

# To HMAC a key and the key with zeros behind it are the same.
FORGED = {
    "alg none": _none("none"),
    "alg NONE": _none("NONE"),
    "alg none, a signature": ".".join([*_none("none").split(".")[:2], SIGNATURE]),
    "no alg": assembled(json.dumps(HEADER).encode(), json.dumps(CLAIMS).encode(), b"x"),
    "alg a number": assembled(b'{"alg": 5}', json.dumps(CLAIMS).encode(), b"x"),
    "another secret": signed(ring(OTHER_SECRET).current.signing),
    "the secret itself": signed(SECRET.encode()),
    "the key for another purpose": signed(KEY.deriving),
    "another algorithm of the same kind": signed(KEY.signing + bytes(32), "HS512"),
    "signed by a stranger": signed(STRANGER, "RS256"),
    "the stranger's key in the header": signed(STRANGER, "RS256", header={"jwk": STRANGERS_JWK}),
    "jku": signed(STRANGER, "RS256", header={"jku": "http://127.0.0.1:1/keys"}),
    "x5u": signed(STRANGER, "RS256", header={"x5u": "http://127.0.0.1:1/chain"}),
    "jku with an HMAC": signed(b"x" * 32, header={"jku": "http://127.0.0.1:1/keys"}),
    "kid of no key": signed(header={"kid": "0" * 16}),
    "kid a path": signed(b"x" * 32, header={"kid": "../../../dev/null"}),
    "no signature under our algorithm": _none("HS256"),
    "kid SQL": signed(b"x" * 32, header={"kid": "' UNION SELECT 'x' --"}),
    "kid of the other key": signed(header={"kid": ring(OTHER_SECRET).current.id}),
    "an ID token's kind": signed(header={"typ": "JWT"}),
    "a critical extension": signed(header={"crit": ["exp2"], "exp2": 1}),
    "another issuer": signed(iss="https://issuer.example"),
    "another audience": signed(aud="another-api"),
    "us among others": signed(aud=["taskflow-api", "another-api"]),
    "expired": signed(iat=NOW - timedelta(hours=1), exp=NOW - timedelta(minutes=1)),
    "exp a text": signed(exp="never"),
    "not yet": signed(nbf=NOW + timedelta(hours=2)),
    "of the future": signed(iat=NOW + timedelta(hours=2)),
    "a subject that is none": signed(sub="admin"),
    "a tenant that is SQL": signed(tenant="'; DROP TABLE jobs; --"),
    "no signature": f"{HEAD}.{BODY}.",
    "half a signature": GOOD[:-20],
    "another's signature": ".".join([HEAD, signed(sub=str(uuid4())).split(".")[1], SIGNATURE]),
    "a payload that is no JSON": assembled(base64.urlsafe_b64decode(HEAD + "=="), b"{", b"x"),
    "a payload that is deep": assembled(
        base64.urlsafe_b64decode(HEAD + "=="), b"[" * 3_000 + b"]" * 3_000, b"x"
    ),
    "a header that is no object": assembled(b"[]", b"{}", b"x"),
    "a header that is no UTF-8": assembled(b"\xff\xfe", b"{}", b"x"),
    "huge": signed(more="x" * 8_000),
    "huge and empty": "a" * 20_000 + "..",
    "nothing": "e30..",
} | {
    f"without {name}": signed(without=name)
    for name in ("iss", "aud", "exp", "iat", "jti", "sub", "sid", "tenant", "scope")
}  # fmt: skip


def test_what_was_signed_here_is_accepted() -> None:
    assert tokens(SECRET).read(GOOD) == ACCESS
    assert tokens(SECRET).read(signed()) == ACCESS


@pytest.mark.parametrize("name", FORGED)
def test_nothing_else_is(name: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        tokens(SECRET).read(FORGED[name])
    assert "Signature" not in str(refused.value)


@pytest.mark.parametrize("name", FORGED)
async def test_what_is_forged_is_a_401_before_anything_is_looked_up(
    api: httpx.AsyncClient, name: str
) -> None:
    """None of the servers behind this API is there."""
    del api.headers["X-API-Key"]
    answer = await api.get(ME, headers={"Authorization": f"Bearer {FORGED[name]}"})
    check_problem(answer, 401, "not_authenticated")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_a_database_that_is_away_is_a_503(api: httpx.AsyncClient) -> None:
    del api.headers["X-API-Key"]
    answer = await api.get(ME, headers={"Authorization": f"Bearer {GOOD}"})
    check_problem(answer, 503, "service_unavailable")
    assert answer.headers["Retry-After"]


def test_a_clock_may_be_a_little_off() -> None:
    now = datetime.now(UTC)
    late = signed(iat=now - timedelta(hours=1), exp=now - timedelta(seconds=1))
    early = signed(iat=now + timedelta(seconds=8))
    assert tokens(SECRET).read(late) == tokens(SECRET).read(early) == ACCESS


def test_the_previous_secret_is_accepted_and_signs_nothing() -> None:
    before = tokens(OTHER_SECRET).issue(ACCESS)
    rotated = tokens(SECRET, OTHER_SECRET)
    assert rotated.read(before) == ACCESS
    assert tokens(SECRET).read(rotated.issue(ACCESS)) == ACCESS
    with pytest.raises(InvalidToken):
        tokens(SECRET).read(before)


def settings_with(**changes: Any) -> ApiSettings:
    """What an API needs and no more."""
    return ApiSettings(
        _env_file=None,
        database_url="postgresql://127.0.0.1/x",
        amqp_url="amqp://127.0.0.1/x",
        redis_url="redis://127.0.0.1/0",
        s3_endpoint="http://127.0.0.1:1",
        s3_access_key="access",
        s3_secret_key="secret",
        **{"api_key": MADE_KEY, **changes},
    )


def test_without_a_secret_it_follows_from_the_api_key() -> None:
    derived = token_secret_of(settings_with())
    assert derived == token_secret_of(settings_with())
    assert len(derived) == 64
    assert MADE_KEY not in derived
    assert token_secret_of(settings_with(api_key=api_key.generate().text)) != derived
    assert tokens(derived).read(tokens(derived).issue(ACCESS)) == ACCESS
    # HKDF-SHA256 (RFC 5869) by hand: another release must not end what was signed by this one.
    pseudorandom = hmac.digest(bytes(32), MADE_KEY.encode(), "sha256")
    assert derived == hmac.digest(pseudorandom, b"taskflow token secret\x01", "sha256").hex()


def test_a_secret_of_its_own_counts_whatever_the_api_key_is() -> None:
    assert token_secret_of(settings_with(jwt_secret=SECRET)) == SECRET


@pytest.mark.parametrize(
    ("changes", "is_guessable"),
    [
        ({}, False),
        ({"api_key": "tf_live_0123456789abcdef"}, True),
        ({"api_key": "tf_live_0123456789abcdef", "jwt_secret": SECRET}, False),
    ],
)
def test_a_key_that_was_thought_up_is_no_good_secret(
    changes: dict[str, str], is_guessable: bool
) -> None:
    with capture_logs() as logged:
        token_secret_of(settings_with(**changes))
    assert [each["event"] for each in logged] == ["token_secret_guessable"] * is_guessable


def test_scopes_that_there_are_not_are_left_out() -> None:
    read = tokens(SECRET).read(signed(scope="jobs:read everything"))
    assert read.scopes == {Scope.JOBS_READ}


def test_a_token_lives_for_as_long_as_it_says() -> None:
    token = tokens(SECRET, life_seconds=900).issue(ACCESS)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 900
    assert UUID(claims["jti"]).version == 7


def test_no_secret_is_shown() -> None:
    assert repr(KEY.signing) not in repr(KEY)
    assert repr(KEY.deriving) not in repr(KEY)
