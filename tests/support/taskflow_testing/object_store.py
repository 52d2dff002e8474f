"""A bucket for each test worker."""

import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from minio import Minio
from minio.error import MinioException

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class TestBucket:
    """An empty bucket and the keys that open it."""

    __test__ = False

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str


def create_bucket(endpoint: str, access_key: str, secret_key: str) -> TestBucket:
    """Make an empty bucket."""
    bucket = TestBucket(endpoint, access_key, secret_key, f"taskflow-test-{uuid.uuid4().hex[:12]}")
    _client(bucket).make_bucket(bucket_name=bucket.bucket)
    return bucket


def delete_bucket(bucket: TestBucket) -> None:
    """Delete it with what is in it, an upload that a test left under way included."""
    client = _client(bucket)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for key in keys_in(bucket):
            client.remove_object(bucket_name=bucket.bucket, object_name=key)
        try:
            client.remove_bucket(bucket_name=bucket.bucket)
        except MinioException as error:
            if "BucketNotEmpty" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def keys_in(bucket: TestBucket) -> list[str]:
    """The keys of all its objects."""
    listed = _client(bucket).list_objects(bucket_name=bucket.bucket, recursive=True)
    return [item.object_name for item in listed if item.object_name is not None]


def objects_in(bucket: TestBucket) -> dict[str, bytes]:
    """The content of all its objects, by their keys."""
    client = _client(bucket)
    found = {}
    for key in keys_in(bucket):
        with client.get_object(bucket_name=bucket.bucket, object_name=key) as answer:
            found[key] = answer.read()
    return found


def _client(bucket: TestBucket) -> Minio:
    parts = urlsplit(bucket.endpoint)
    return Minio(
        endpoint=parts.netloc,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        secure=parts.scheme == "https",
        region="us-east-1",
    )
