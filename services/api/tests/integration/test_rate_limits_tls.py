"""Redis behind TLS: the limits have a connection of their own to it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trustme
from structlog.testing import capture_logs

from taskflow.redis_client import open_redis
from taskflow.tls import verified_redis
from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.shared_buckets import SharedBuckets, SharedBucketsAway
from taskflow_api.rate_limits.takes import Bucket, Take
from taskflow_testing.tls_proxy import TlsProxy


@asynccontextmanager
async def buckets_behind_tls(
    redis_url: str, signing: trustme.CA, trusted: trustme.CA, folder: Path
) -> AsyncIterator[SharedBuckets]:
    ca_file = folder / "authority.pem"
    trusted.cert_pem.write_to_path(str(ca_file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signing.issue_cert("127.0.0.1").configure_cert(tls)
    async with TlsProxy(redis_url, tls) as proxy:
        client = open_redis(verified_redis(proxy.url, str(ca_file)), timeout_seconds=1.0)
        buckets = SharedBuckets(client)
        yield buckets
        await buckets.close()
        await client.aclose()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy elsewhere makes nobody count alone."""
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)


async def test_it_is_counted_in_redis(redis_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    take = Take([Bucket(Policy("default", 2, 3_600), str(uuid4()))], 1)
    async with buckets_behind_tls(redis_url, authority, authority, tmp_path) as buckets:
        assert [(await buckets.take(take)).granted for _ in range(3)] == [True, True, False]


async def test_a_stranger_counts_nothing_and_the_log_names_the_setting(
    redis_url: str, tmp_path: Path
) -> None:
    take = Take([Bucket(Policy("default", 2, 3_600), str(uuid4()))], 1)
    async with buckets_behind_tls(redis_url, trustme.CA(), trustme.CA(), tmp_path) as buckets:
        with capture_logs() as logged, pytest.raises(SharedBucketsAway):
            await buckets.take(take)
    (line,) = [each for each in logged if each["event"] == "rate_limits_local"]
    assert line["error"].startswith("its certificate is not accepted: ")
    assert line["error"].endswith("(see TASKFLOW_TLS_CA_FILE)")
