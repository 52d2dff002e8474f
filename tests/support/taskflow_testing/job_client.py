"""Jobs through HTTP, as a client sees them."""

from typing import Any

import httpx

from taskflow_testing.waiting import eventually

Job = dict[str, Any]

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


class JobClient:
    """Submits jobs and waits for what becomes of them."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def submit(self, job_type: str, payload: Job | None = None, **fields: Any) -> Job:
        """Submit a job that is to be accepted; it as the API answered."""
        answer = await self.http.post(
            "/api/v1/jobs", json={"type": job_type, "payload": payload or {}, **fields}
        )
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def get(self, job: Job) -> Job:
        """The job as it stands now."""
        return await self._json(f"/api/v1/jobs/{job['id']}")

    async def reaches(self, job: Job, *states: str, timeout: float = 30.0) -> Job:
        """The job once it is in one of `states` (time in seconds).

        Raises:
            AssertionError: it does not get there in time, or ends otherwise.
        """

        async def look() -> Job | None:
            found = await self.get(job)
            if found["state"] in states:
                return found
            assert found["state"] not in ENDED, f"{found}\n{await self.log(job)}"
            return None

        return await eventually(look, timeout=timeout, pause=0.05)

    async def completes(self, job: Job, timeout: float = 30.0) -> Job:
        """The job once it is completed."""
        return await self.reaches(job, "completed", timeout=timeout)

    async def attempts(self, job: Job) -> list[Job]:
        """Its attempts, in their order."""
        return list((await self._json(f"/api/v1/jobs/{job['id']}/attempts"))["items"])

    async def events(self, job: Job) -> list[Job]:
        """Its history, in its order."""
        return list((await self._json(f"/api/v1/jobs/{job['id']}/events"))["items"])

    async def log(self, job: Job, **query: Any) -> str:
        """Its log as text."""
        answer = await self.http.get(f"/api/v1/logs/{job['id']}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def log_has(self, job: Job, text: str, timeout: float = 15.0, **query: Any) -> str:
        """Its log once `text` is in it."""

        async def look() -> str | None:
            log = await self.log(job, **query)
            return log if text in log else None

        return await eventually(look, timeout=timeout, pause=0.1)

    async def _json(self, path: str) -> Job:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())
