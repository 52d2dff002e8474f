"""The bucket with the photographs: any S3, through the `minio` client."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from minio import Minio
from minio.error import InvalidResponseError, S3Error

from taskflow.settings import ObjectStoreSettings

PHOTOGRAPHS = "photographs/"
"""Only what lies below it is read: the bucket also holds the logs and results of others."""


class PhotographMissing(Exception):
    """The bucket has no such object."""


class PhotographStore:
    """Reads and writes objects of one bucket; minio's and urllib3's errors pass through."""

    def __init__(self, settings: ObjectStoreSettings) -> None:
        url = urlsplit(settings.s3_endpoint)
        self._bucket = settings.s3_bucket
        self._client = Minio(
            endpoint=url.netloc,
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
            region=settings.s3_region,
            secure=url.scheme == "https",
        )

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of everything below `prefix`, in their order."""
        found = self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=True)
        return (item.object_name for item in found if item.object_name)

    def read(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            PhotographMissing: there is none.
        """
        try:
            response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        except (S3Error, InvalidResponseError) as error:
            # Servers that call the error text/xml are not understood by the client.
            if "NoSuchKey" in str(error):
                raise PhotographMissing(key) from None
            raise
        with response:
            return response.read()

    def upload(self, key: str, path: str) -> None:
        """Store a file as an object."""
        self._client.fput_object(bucket_name=self._bucket, object_name=key, file_path=path)

    def download(self, key: str, path: str) -> None:
        """Write an object to a file."""
        self._client.fget_object(bucket_name=self._bucket, object_name=key, file_path=path)
