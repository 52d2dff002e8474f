"""Whose jobs run next where more wait than can run: arithmetic without a server."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from taskflow.jobs.lanes import Lane

Key = TypeVar("Key", Lane, UUID)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could be started; `has_pointer`: it is one of those whose pointers are in hand.

    Within a tenant and a lane candidates are given in the order in which they are to run.
    """

    job_id: UUID
    tenant_id: UUID
    lane: Lane
    has_pointer: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How many jobs of a tenant run, and how many may (0: any number)."""

    running: int
    most: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start; and of those with a pointer, which come again in a moment, and which are held.

    Held is what is left of tenants that have a quota of running jobs.
    """

    start: tuple[UUID, ...]
    give_way: tuple[UUID, ...]
    hold: tuple[UUID, ...]


def plan(
    candidates: Iterable[Candidate],
    standings: Mapping[UUID, Standing],
    *,
    slots: int,
    chance: Callable[[], float],
) -> Plan:
    """Fill each lane's part of `slots`, one by one by the tenant that has the fewest running.

    A lane's part is as many as it has pointers in hand. `chance` (0 to 1) decides between equals.
    """
    running = {tenant_id: standing.running for tenant_id, standing in standings.items()}

    def is_full(tenant_id: UUID) -> bool:
        return 0 < standings[tenant_id].most <= running[tenant_id]

    start: list[UUID] = []
    left: list[Candidate] = []
    for in_lane in _by(candidates, lambda each: each.lane).values():
        queues = _by(in_lane, lambda each: each.tenant_id)
        for _ in range(min(sum(each.has_pointer for each in in_lane), slots - len(start))):
            ready = [tenant_id for tenant_id, queue in queues.items() if queue]
            ready = [tenant_id for tenant_id in ready if not is_full(tenant_id)]
            if not ready:
                break
            chosen = min(ready, key=lambda tenant_id: (running[tenant_id], chance()))
            running[chosen] += 1
            start.append(queues[chosen].pop(0).job_id)
        left += [each for queue in queues.values() for each in queue if each.has_pointer]
    return Plan(
        tuple(start),
        give_way=tuple(each.job_id for each in left if not standings[each.tenant_id].most),
        hold=tuple(each.job_id for each in left if standings[each.tenant_id].most),
    )


def spared(give_way: int, *, missed: int, surplus: int, free: int) -> int:
    """How many of those that were to give way start all the same.

    `missed`: what was chosen and had been started by others. `surplus`: how many pointers, of those
    in hand and those that wait behind them, cannot have a slot; those of what was missed lead to
    nothing. `free`: the slots that are left.

    Who gives way costs two pointers for one start, its own and that of the job in its place. So no
    more than the surplus may, or slots would stay empty until they are back.
    """
    return max(0, min(give_way - max(surplus - missed, 0), free))


def _by(
    candidates: Iterable[Candidate], key: Callable[[Candidate], Key]
) -> dict[Key, list[Candidate]]:
    groups: defaultdict[Key, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[key(candidate)].append(candidate)
    return groups
