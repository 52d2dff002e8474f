"""What happens because time has passed, and the passing of it."""

from datetime import UTC, datetime

from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
)

from taskflow.jobs import dispatch, upkeep
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import WAITING, Priority
from taskflow_testing.job_machine.machine import (
    PICKS,
    JobMachine,
    Pick,
    is_early,
    is_pointed_at,
    is_undispatched,
    may_expire,
    runs,
    when_some,
)
from taskflow_testing.job_model import JobModel

LANE = Lane("default", Priority.MEDIUM)


class TimeRules(JobMachine):
    """The scheduler's writes, and times that move in the rows."""

    @when_some(lambda job: job.late and job.state in WAITING)
    @rule()
    def expire(self) -> None:
        expired = self.run(upkeep.expire(self.connection))
        assert set(expired) == {job.id for job in self.model.expire()}

    @when_some(is_undispatched)
    @rule()
    def dispatch_due(self) -> None:
        due = {pointer.job_id for pointer in self.run(dispatch.stamp_due(self.connection))}
        assert due == {job.id for job in self.model.stamp_due()}

    @when_some(lambda job: job.pointer_old)
    @rule()
    def republish_lost(self) -> None:
        work = dispatch.stamp_lost(
            self.connection, LANE, empty_at=datetime.now(UTC), lost_after_seconds=45
        )
        lost = {pointer.job_id for pointer in self.run(work)}
        assert lost == {job.id for job in self.model.stamp_lost()}

    @when_some(lambda job: bool(job.lease_over))
    @rule()
    def rescue(self) -> None:
        now = self.run(upkeep.database_time(self.connection))
        rescued = self.run(upkeep.rescue(self.connection, expired_before=now, with_pointers=True))
        lost = self.model.rescue()
        assert {job.job_id for job in rescued} == {job.id for job in lost}
        for job in lost:
            if not job.due:
                # Its wait is seconds long; the test may be slower.
                self.move(job, "run_at = now() + interval '1 h'")

    @when_some(is_pointed_at)
    @rule(pick=PICKS, current=st.booleans())
    def publishing_fails(self, pick: Pick, current: bool) -> None:
        job_id = self.pick(pick, is_pointed_at)
        job = self.model.jobs.get(job_id)
        if job is None or not job.pointer:
            return
        query = "SELECT pointer_at FROM jobs WHERE id = $1"
        stamp = self.run(self.connection.fetchval(query, job_id))
        stale = stamp.replace(year=stamp.year - 1, day=1)
        self.run(dispatch.unstamp(self.connection, [(job_id, stamp if current else stale)]))
        if current and job.state in {"queued", "retrying"}:
            job.unstamp()

    # What time does.

    @when_some(is_early)
    @rule(pick=PICKS)
    def becomes_due(self, pick: Pick) -> None:
        job = self.model.jobs.get(self.pick(pick, is_early))
        if job is not None and is_early(job):
            self.move(
                job,
                "run_at = now(),"
                " pointer_at = CASE WHEN pointer_at > now() THEN now() ELSE pointer_at END",
            )
            job.due = True

    @when_some(may_expire)
    @rule(pick=PICKS)
    def becomes_late(self, pick: Pick) -> None:
        job = self.model.jobs.get(self.pick(pick, may_expire))
        if job is not None and job.can_expire:
            self.move(job, "expires_at = now() - interval '1 s'")
            job.late = True

    @when_some(is_pointed_at)
    @rule(pick=PICKS)
    def pointer_grows_old(self, pick: Pick) -> None:
        job = self.model.jobs.get(self.pick(pick, is_pointed_at))
        if job is not None and is_pointed_at(job):
            self.move(job, "pointer_at = now() - interval '100 s'")
            job.pointer_old = True

    @when_some(runs)
    @rule(pick=PICKS)
    def lease_runs_out(self, pick: Pick) -> None:
        job = self.model.jobs.get(self.pick(pick, runs))
        if job is not None and runs(job):
            self.end_lease(job)

    def end_lease(self, job: JobModel) -> None:
        self.move(job, "lease_expires_at = now() - interval '1 s'")
        job.lease_over = True

    @precondition(lambda self: self.model.keys)
    @rule()
    def keys_grow_old(self) -> None:
        self.run(
            self.connection.execute(
                "UPDATE idempotency_keys SET created_at = now() - interval '25 h'"
            )
        )
        self.model.keys.clear()
