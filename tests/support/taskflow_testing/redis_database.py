"""A numbered Redis database for each test worker."""

import random
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

# Kept while the database is in use, so that two workers, or two people's tests, never share one.
_CLAIM = "taskflow-test:claimed"
_CLAIM_SECONDS = 6 * 3600


def claim_database(server_url: str) -> str:
    """Find an empty numbered database and claim it; its URL.

    Raises LookupError when all are in use.
    """
    with redis.Redis.from_url(server_url) as server:
        count = int(server.config_get("databases")["databases"])
    for number in random.sample(range(1, count), count - 1):
        url = urlunsplit(urlsplit(server_url)._replace(path=f"/{number}"))
        with redis.Redis.from_url(url) as client:
            if client.set(_CLAIM, 1, nx=True, ex=_CLAIM_SECONDS):
                return url
    raise LookupError(f"all {count} databases of the test Redis are in use")


def content_of(url: str) -> dict[bytes, Any]:
    """The values of all its keys; of strings and hashes, raises LookupError for another type."""
    found: dict[bytes, Any] = {}
    with redis.Redis.from_url(url) as client:
        read = {b"string": client.get, b"hash": client.hgetall}
        for key in client.scan_iter():
            kind = client.type(key)
            # Some end by themselves.
            if kind != b"none":
                found[key] = read[kind](key)
    return found


def release_database(url: str) -> None:
    """Empty it, the claim included."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
