"""What a scenario plays on: the cluster, the load, and where it says what happened."""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID

import httpx

from taskflow_chaos import history
from taskflow_chaos.client import Client
from taskflow_chaos.cluster import Cluster
from taskflow_chaos.effects import read_effects
from taskflow_chaos.history import Orphan
from taskflow_chaos.workload import PlannedJob

PER_SECOND = 25.0
"""How many jobs a second are submitted unless a scenario says otherwise: a quarter of what the
slots of four consumers bear, and what two cores do beside a worker that dies every four seconds and
is started again, so that a wait is the fault's and not the load's."""
_POLL_SECONDS = 0.2
_READ_SECONDS = 1.0
"""Between two looks at all that was ever taken."""
_PATIENCE_SECONDS = 60.0
_UNDISTURBED = frozenset({"200", "202", "409"})
"""What submissions and cancels are answered where nothing is wrong."""


def pace(jobs: int, seconds: float) -> float:
    """Jobs a second: as many as usual, or few enough for them to come for so long."""
    return min(PER_SECOND, jobs / seconds)


class Stage:
    """One run of a scenario, seen from within; `random` is the only source of chance."""

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        plan: Sequence[PlannedJob],
        seed: int,
        *,
        say: Callable[[str], None],
    ) -> None:
        """`say` shows a line to whoever watches."""
        self.cluster = cluster
        self.client = client
        self.plan = plan
        self.random = random.Random(seed)
        self.say = say
        self.faults: Counter[str] = Counter()
        self.failures: list[str] = []
        self.recovery_means = ""
        self.recoveries: list[float] = []
        self.states: dict[str, int] = {}
        self.figures: dict[str, float | int | str] = {}
        self.needless_republished: int | None = None
        """Pointers that were sent again though they were not lost; None: nothing tells."""

    @property
    def jobs(self) -> int:
        """How many jobs this run has."""
        return len(self.plan)

    def fault(self, name: str, count: int = 1) -> None:
        """Count a fault that was injected. A scenario without any has failed."""
        self.faults[name] += count

    def require(self, holds: bool, otherwise: str) -> None:
        """Fail the scenario with this text unless `holds`; it plays on."""
        if not holds:
            self.failures.append(otherwise)

    def recovered(self, seconds: Sequence[float], means: str, limit: float) -> None:
        """Keep recovery times, say what they measure, and require each within the limit.

        None at all fails as well: then nothing has met the fault.
        """
        self.recovery_means = means
        self.require(bool(seconds), f"{means}: there was nothing to measure")
        self.recoveries += seconds
        slow = [each for each in seconds if each > limit]
        worst = max(slow, default=0.0)
        self.require(
            not slow,
            f"{means}: {len(slow)} of {len(seconds)} took longer than {limit:g} s, the worst"
            f" {worst:.1f} s",
        )

    @contextlib.asynccontextmanager
    async def submissions(
        self, per_second: float = PER_SECOND, plan: Sequence[PlannedJob] | None = None
    ) -> AsyncIterator["asyncio.Task[None]"]:
        """Submit all jobs (or those of `plan`) during the block; returns with the last 202.

        Gives the task that does it, so that a fault can go on until it is `done()`.
        """
        jobs = self.plan if plan is None else plan
        submitting = asyncio.create_task(self.client.submit_all(jobs, per_second))
        try:
            yield submitting
            await submitting
            self.say(f"{len(jobs)} jobs accepted, {self.faults.total()} faults so far")
        finally:
            submitting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await submitting

    def parts(self, count: int) -> list[Sequence[PlannedJob]]:
        """The plan in so many parts of about the same size, for a fault that comes in rounds."""
        size = math.ceil(len(self.plan) / count)
        return [self.plan[number * size : (number + 1) * size] for number in range(count)]

    async def first_starts(self) -> dict[UUID, float]:
        """When the first attempt of each job began that has begun, by the handlers' notes."""
        effects = await asyncio.to_thread(read_effects, self.cluster.effects_folder)
        starts: dict[UUID, float] = {}
        for effect in effects:
            if effect.what == "began":
                starts.setdefault(effect.job_id, effect.at)
        return starts

    async def waits(self, since: float, accepted_before: float) -> list[float]:
        """Of the jobs that were accepted before a moment and that no consumer had taken at `since`:
        how many seconds after `since` each of them was taken."""
        claims = await self.first_claims()
        return [
            claims[each.job_id] - since
            for each in self.client.accepted
            # A job that was cancelled in time was never taken.
            if each.at < accepted_before and claims.get(each.job_id, 0.0) > since
        ]

    async def first_claims(self) -> dict[UUID, float]:
        """When a consumer first took each job that was taken. A worker that is killed at that
        moment takes it without beginning, and its job begins when the lease has run out."""
        connection = await self.cluster.connect()
        try:
            return await history.first_claims(connection)
        finally:
            await connection.close()

    async def all_taken(self, accepted_before: float, limit_seconds: float) -> bool:
        """Wait until a consumer has taken each job that was accepted before a moment and not
        cancelled in time; False: not within the limit."""
        due = {each.job_id for each in self.client.accepted if each.at < accepted_before}
        try:
            async with asyncio.timeout(limit_seconds):
                while due:
                    due -= (await self.first_claims()).keys()
                    due -= {
                        each.job_id
                        for each in self.client.cancels
                        if each.status_code == httpx.codes.OK
                    }
                    await asyncio.sleep(_READ_SECONDS)
        except TimeoutError:
            return False
        return True

    async def start_after(self, moment: float, limit_seconds: float) -> float | None:
        """When the first job began that was accepted after a moment; None: not within the limit."""
        try:
            async with asyncio.timeout(limit_seconds):
                while True:
                    starts = await self.first_starts()
                    accepted = [each for each in self.client.accepted if each.at > moment]
                    began = [starts[each.job_id] for each in accepted if each.job_id in starts]
                    if began:
                        return min(began)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return None

    async def require_start_after(self, moment: float, after: str, limit: float) -> None:
        """Hold the first job that began of those accepted after a moment, a fault's end, to a
        limit; `after` says what ended then."""
        began = await self.start_after(moment, _PATIENCE_SECONDS)
        self.require(began is not None, f"no job ran within {_PATIENCE_SECONDS:.0f} s of {after}")
        if began is not None:
            means = f"from {after} to the start of a job that was submitted since"
            self.recovered([began - moment], means, limit)

    def require_no_refusal(self) -> None:
        """Every submission and every cancel so far was answered as if nothing were wrong."""
        refused = self.client.statuses.keys() - _UNDISTURBED
        self.require(not refused, f"submissions did not go on: {dict(self.client.statuses)}")

    async def require_nothing_taken(self) -> None:
        """No attempt was called lost while its consumer lived. Ask when all jobs have ended."""
        connection = await self.cluster.connect()
        try:
            died = history.deaths(self.cluster.consumers)
            taken = await history.taken_from_living(connection, died)
        finally:
            await connection.close()
        self.require(
            not taken, f"{len(taken)} attempts were taken from living workers: {taken[:3]}"
        )

    async def ticks(self, seconds: float, count: int) -> AsyncIterator[int]:
        """Count to `count` at an even pace, the first one after `seconds`."""
        began = time.monotonic()
        for number in range(1, count + 1):
            await asyncio.sleep(began + number * seconds - time.monotonic())
            yield number

    async def all_ended(
        self, limit_seconds: float = 180.0, also: Mapping[str, int] | None = None
    ) -> None:
        """Wait until every job is in a terminal state. No fault comes after this.

        Fails the scenario if that takes too long, or if a job that nobody cancelled was not
        completed: the attempts of the suite's jobs are meant to last. `also` says how many jobs may
        end in each other state.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                self.states = await self.client.wait_all_ended()
        except TimeoutError:
            self.states = await self.client.count_by_state()
            self.failures.append(f"not all jobs ended within {limit_seconds:.0f} s: {self.states}")
            return
        self.say(f"all jobs ended: {self.states}")
        left = {state: count for state, count in self.states.items() if state != "completed"}
        cancelled = sum(job.cancel_after_seconds is not None for job in self.plan)
        may = {"cancelled": cancelled, **(also or {})}
        self.require(
            all(count <= may.get(state, 0) for state, count in left.items()),
            f"these jobs ended badly: {left}, of which {may} were to",
        )

    async def orphans(self) -> list[Orphan]:
        """Attempts that ended with a consumer that died. Ask when all jobs have ended."""
        connection = await self.cluster.connect()
        try:
            return await history.orphans(connection, history.deaths(self.cluster.consumers))
        finally:
            await connection.close()
