"""`make load`: users who submit, repeat, poll, list, read logs and cancel.

Where and with which key: as for `make smoke`, from the environment or .env; `--host` wins. Beside
the requests, the table has a line for jobs: from the moment in which an echo may run to its end,
by the server's own times.
"""

import random
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from locust import FastHttpUser, between, constant_throughput, events, task
from pydantic import SecretStr

from taskflow.errors import ConfigurationError
from taskflow.settings import Settings, exit_with, load_settings

JOBS = "/api/v1/jobs"
PRIORITIES = ("low", "medium", "medium", "high", "urgent")
ENDED = {"completed", "failed", "cancelled", "expired"}
REMEMBERED_JOBS = 50
PAGES = 3

Job = dict[str, Any]


class LoadSettings(Settings):
    """Where the API is, and the key to it."""

    api_key: SecretStr
    api_url: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8000


class Client(FastHttpUser):
    """What all users have in common: the key, and their own jobs."""

    abstract = True
    api_key: str
    network_timeout = 30.0
    connection_timeout = 10.0

    def on_start(self) -> None:
        """Begin without jobs."""
        self.tag = f"load-{uuid.uuid4().hex[:8]}"
        self.waiting: deque[Job] = deque(maxlen=REMEMBERED_JOBS)
        self.ended: deque[Job] = deque(maxlen=REMEMBERED_JOBS)
        self.sent: deque[tuple[str, Job, str]] = deque(maxlen=REMEMBERED_JOBS)

    def call(
        self,
        method: str,
        path: str,
        name: str,
        expected: set[int],
        *,
        is_right: Callable[[Any], bool] = lambda _: True,
        **request: Any,
    ) -> Any:
        """Send a request; its content when that is what was expected, else None and a failure."""
        headers = {"X-API-Key": self.api_key, **request.pop("headers", {})}
        with self.client.request(
            method, path, name=name, headers=headers, catch_response=True, **request
        ) as answer:
            if answer.status_code not in expected:
                answer.failure(f"{answer.status_code or 'no answer'}: {(answer.text or '')[:200]}")
                return None
            is_json = "json" in answer.headers.get("Content-Type", "")
            content = answer.json() if is_json else answer.text
            if not is_right(content):
                answer.failure("the answer is not the one that was promised")
                return None
            answer.success()
            return content


class Sender(Client):
    """Submits work and looks after it."""

    weight = 4
    wait_time = between(0.1, 0.6)

    @task(10)
    def send_echo(self) -> None:
        """A job that takes no time."""
        self._send({"type": "echo", "payload": {"text": "x" * random.randint(1, 2_000)}})

    @task(3)
    def send_sleep(self) -> None:
        """A job that takes a while."""
        self._send({"type": "sleep", "payload": {"seconds": round(random.uniform(0.05, 1.0), 2)}})

    @task(1)
    def send_flaky(self) -> None:
        """A job that fails once."""
        self._send({"type": "flaky", "payload": {"fail_times": 1}})

    @task(1)
    def send_scheduled(self) -> None:
        """A job for later."""
        self._send({"type": "echo", "payload": {"text": "later"}, "delay_seconds": 5})

    @task(2)
    def repeat(self) -> None:
        """The same submission again, as after a lost answer: it must be the same job."""
        if self.sent:
            key, body, job_id = random.choice(self.sent)
            self.call(
                "POST",
                JOBS,
                f"{JOBS} (the same again)",
                {202},
                is_right=lambda job: job["id"] == job_id,
                json=body,
                headers={"Idempotency-Key": key},
            )

    @task(12)
    def poll(self) -> None:
        """Look at the job that has waited longest."""
        if not self.waiting:
            return
        job = self.waiting.popleft()
        found = self.call("GET", f"{JOBS}/{job['id']}", f"{JOBS}/[id]", {200})
        if found is None or found["state"] not in ENDED:
            self.waiting.append(job)
        else:
            self.ended.append(found)
            _report_end(found)

    @task(3)
    def read_log(self) -> None:
        """Read the log of a job that has ended."""
        if self.ended:
            job = random.choice(self.ended)
            self.call("GET", f"/api/v1/logs/{job['id']}", "/api/v1/logs/[id]", {200})

    @task(1)
    def read_history(self) -> None:
        """Read what happened to a job."""
        if self.ended:
            path, what = f"{JOBS}/{random.choice(self.ended)['id']}", f"{JOBS}/[id]"
            self.call("GET", f"{path}/attempts", f"{what}/attempts", {200})
            self.call("GET", f"{path}/events", f"{what}/events", {200})

    @task(1)
    def cancel(self) -> None:
        """Cancel a job; that it has ended by then is no fault."""
        if self.waiting:
            path = f"{JOBS}/{random.choice(self.waiting)['id']}/cancel"
            self.call("POST", path, f"{JOBS}/[id]/cancel", {200, 202, 409})

    def _send(self, body: Job) -> None:
        key = str(uuid.uuid4())
        body = {**body, "priority": random.choice(PRIORITIES), "tags": [self.tag]}
        job = self.call("POST", JOBS, JOBS, {202}, json=body, headers={"Idempotency-Key": key})
        if job is not None:
            self.sent.append((key, body, job["id"]))
            self.waiting.append(job)


class Onlooker(Client):
    """Has a dashboard open."""

    weight = 1
    wait_time = constant_throughput(1)

    @task(5)
    def list_pages(self) -> None:
        """Page through a filtered list."""
        query: dict[str, Any] = {"limit": 50, "state": random.choice(sorted(ENDED))}
        for _ in range(PAGES):
            page = self.call("GET", JOBS, JOBS, {200}, params=query)
            if page is None or not page["has_more"]:
                return
            query["cursor"] = page["next_cursor"]

    @task(2)
    def look_at_counts(self) -> None:
        """How many jobs are in which state."""
        self.call("GET", f"{JOBS}/stats", f"{JOBS}/stats", {200})

    @task(1)
    def look_at_workers(self) -> None:
        """Who runs them."""
        self.call("GET", "/api/v1/workers", "/api/v1/workers", {200})


def _report_end(job: Job) -> None:
    """Enter a completed job in the table, as if it were a request of that length."""
    if job["state"] != "completed" or job["type"] != "echo":
        return
    began_at = max(_seconds(job["created_at"]), _seconds(job["run_at"]))
    milliseconds = (_seconds(job["finished_at"]) - began_at) * 1000
    events.request.fire(
        request_type="job",
        name="echo, from due to completed",
        response_time=milliseconds,
        response_length=0,
        exception=None,
        context={},
    )


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


try:
    _settings = load_settings(LoadSettings)
except ConfigurationError as error:
    exit_with(error)
Client.api_key = _settings.api_key.get_secret_value()
Client.host = _settings.api_url or f"http://{_settings.api_host}:{_settings.api_port}"
