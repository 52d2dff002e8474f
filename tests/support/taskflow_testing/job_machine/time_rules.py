"""What happens because time has passed, and the passing of it."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
)

from taskflow.jobs import dispatch, upkeep
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import WAITING, Priority
from taskflow_testing.job_machine.machine import (
    BROKER_IS_THERE,
    PICKS,
    JobMachine,
    Pick,
    is_dispatchable,
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
    @rule(broker=BROKER_IS_THERE)
    def rescue(self, broker: bool) -> None:
        now = self.run(upkeep.database_time(self.connection))
        rescued = self.run(upkeep.rescue(self.connection, expired_before=now, with_pointers=broker))
        lost = self.model.rescue(with_pointers=broker)
        assert {job.job_id for job in rescued} == {job.id for job in lost}
        for job in lost:
            if not job.due:
                # Its wait is seconds long; the test may be slower.
                self.move(job, "run_at = now() + interval '1 h'")

    @when_some(is_pointed_at)
    @rule(pick=PICKS, current=st.booleans())
    def publishing_fails(self, pick: Pick, current: bool) -> None:
        job = self.pick_stamped(pick)
        if job is None:
            return
        stamp = self.stamp(job, current=current)
        self.run(dispatch.unstamp(self.connection, [(job.id, stamp)]))
        if current and is_dispatchable(job):
            job.unstamp()

    @when_some(is_pointed_at)
    @rule(pick=PICKS, current=st.booleans())
    def pointer_fell_to_a_frozen_worker(self, pick: Pick, current: bool) -> None:
        job = self.pick_stamped(pick)
        if job is None:
            return
        pointer = Pointer(job.id, LANE, "echo", self.stamp(job, current=current))
        again = self.run(dispatch.restamp(self.connection, [pointer]))
        assert [each.job_id for each in again] == [job.id] * (current and is_dispatchable(job))
        if again:
            job.stamp()

    @when_some(is_pointed_at)
    @rule(pick=PICKS, current=st.booleans(), has_header=st.sampled_from([True, True, False]))
    def pointer_found_no_lane(self, pick: Pick, current: bool, has_header: bool) -> None:
        job = self.pick_stamped(pick)
        if job is None:
            return
        # The header counts whole milliseconds.
        stamp = self.stamp(job, current=current)
        header = stamp.replace(microsecond=stamp.microsecond // 1000 * 1000)
        unrouted = [(job.id, header if has_header else None)]
        returned = self.run(dispatch.unstamp_unrouted(self.connection, unrouted))
        assert returned == ((current or not has_header) and is_dispatchable(job))
        if returned:
            job.unstamp()

    def pick_stamped(self, pick: Pick) -> JobModel | None:
        job = self.model.jobs.get(self.pick(pick, is_pointed_at))
        return job if job is not None and job.pointer else None

    def stamp(self, job: JobModel, *, current: bool) -> datetime:
        """The job's `pointer_at`, or one that was replaced long ago."""
        query = "SELECT pointer_at FROM jobs WHERE id = $1"
        stamp: datetime = self.run(self.connection.fetchval(query, job.id))
        return stamp if current else stamp - timedelta(days=365)

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
            self.let_expire(job)

    def let_expire(self, job: JobModel) -> None:
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
