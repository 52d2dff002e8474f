"""`python -m thumbnails FOLDER`: upload it, have its thumbnails made, download them."""

import argparse
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from taskflow.errors import ConfigurationError
from taskflow.settings import ObjectStoreSettings, exit_with, load_settings
from thumbnails.store import PHOTOGRAPHS, PhotographStore

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
ENDED = {"completed", "failed", "cancelled", "expired"}
POLL_SECONDS = 0.5


class Settings(ObjectStoreSettings):
    """Where the API and the bucket are, and the keys to both."""

    api_key: SecretStr
    api_host: str = "127.0.0.1"
    api_port: int = 8000


def main() -> int:
    """Make thumbnails of a folder's photographs; the exit code."""
    arguments = _arguments()
    settings = load_settings(Settings)
    store = PhotographStore(settings)
    prefix = f"{PHOTOGRAPHS}{arguments.folder.resolve().name}-{uuid.uuid4().hex[:8]}/"
    for path in _photographs(arguments.folder):
        store.upload(prefix + path.relative_to(arguments.folder).as_posix(), str(path))
        _say(f"uploaded {path}")
    with httpx.Client(
        base_url=f"http://{settings.api_host}:{settings.api_port}",
        headers={"X-API-Key": settings.api_key.get_secret_value()},
    ) as api:
        job = _run(api, prefix, arguments.width)
    if job["state"] != "completed":
        _say(f"{job['state']}: {job['error']['message']}  (log: {job['links']['logs']})")
        return 1
    for made in job["result"]["thumbnails"]:
        target = arguments.out / made["key"].partition(prefix.removeprefix(PHOTOGRAPHS))[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(made["key"], str(target))
        _say(f"{target}  {made['width']}x{made['height']}, {made['bytes']} bytes")
    for failed in job["result"]["failed"]:
        _say(f"{failed['source']}: {failed['error']}")
    return 0


def _run(api: httpx.Client, prefix: str, width: int) -> dict[str, Any]:
    """Submit the job and wait for its end; the job."""
    answer = api.post(
        "/api/v1/jobs",
        json={"type": "thumbnails", "payload": {"prefix": prefix, "width": width}},
        # Sent twice by an impatient proxy, it would still be one job.
        headers={"Idempotency-Key": prefix},
    )
    said: dict[str, Any] | None = None
    while True:
        if answer.is_error:
            sys.exit(f"{answer.status_code}: {answer.json()['detail']}")
        job: dict[str, Any] = answer.json()
        if job["progress"] != said:
            said = job["progress"]
            _say(f"{job['state']}: {said['message']}" if said else job["state"])
        if job["state"] in ENDED:
            return job
        time.sleep(POLL_SECONDS)
        answer = api.get(job["links"]["self"])


def _photographs(folder: Path) -> Iterator[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        sys.exit(f"{folder} has no photographs ({' '.join(sorted(SUFFIXES))})")
    yield from found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m thumbnails", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=320, help="in pixels (320)")
    parser.add_argument("--out", type=Path, default=Path("thumbnails"), help="(./thumbnails)")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigurationError as error:
        exit_with(error)
    except (httpx.TransportError, HTTPError) as error:
        sys.exit(f"the API or S3 does not answer ({error}); `make up` starts them")
