import re
from itertools import product
from pathlib import Path

import asyncpg
import pytest

from taskflow.jobs.guards import from_states
from taskflow.jobs.states import (
    DISPATCHABLE,
    TERMINAL,
    TRANSITIONS,
    WAITING,
    JobEvent,
    JobState,
    Priority,
    is_legal,
    sources,
)
from taskflow.jobs.worker_state import WorkerState

EVENTS_AFTER_THE_END = {JobEvent.RETRY}


def test_every_event_has_its_transition() -> None:
    assert set(TRANSITIONS) == set(JobEvent)


def test_states_are_waiting_running_or_terminal() -> None:
    assert WAITING | TERMINAL | {JobState.RUNNING} == set(JobState)
    assert not WAITING & TERMINAL
    assert DISPATCHABLE <= WAITING


@pytest.mark.parametrize(
    ("event", "source", "target"), list(product(JobEvent, [None, *JobState], JobState))
)
def test_an_edge_is_legal_exactly_when_the_table_has_it(
    event: JobEvent, source: JobState | None, target: JobState
) -> None:
    transition = TRANSITIONS[event]
    if source is None:
        expected = event is JobEvent.SUBMIT and target in transition.targets
    else:
        expected = source in transition.sources and target in transition.targets
    assert is_legal(event, source, target) is expected


def test_nothing_but_a_retry_follows_a_terminal_state() -> None:
    for event in set(JobEvent) - EVENTS_AFTER_THE_END:
        assert not sources(event) & TERMINAL


def test_a_completed_job_stays_completed() -> None:
    assert not any(JobState.COMPLETED in sources(event) for event in JobEvent)


def test_every_state_is_reached_and_every_living_one_is_left() -> None:
    reached = {target for transition in TRANSITIONS.values() for target in transition.targets}
    left = {source for transition in TRANSITIONS.values() for source in transition.sources}
    assert reached == set(JobState)
    assert set(JobState) - TERMINAL <= left


def test_guards_are_sql_lists() -> None:
    assert from_states(JobEvent.CLAIM) == "('queued', 'retrying')"


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("job_state", JobState),
        ("job_event", JobEvent),
        ("job_priority", Priority),
        ("worker_state", WorkerState),
    ],
)
async def test_postgresql_has_the_same_members(
    clean_database: str, name: str, enum: type[JobState]
) -> None:
    connection = await asyncpg.connect(clean_database)
    try:
        rows = await connection.fetch(
            "SELECT enumlabel FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid"
            " WHERE typname = $1 ORDER BY enumsortorder",
            name,
        )
    finally:
        await connection.close()
    assert [row["enumlabel"] for row in rows] == [str(member) for member in enum]


def test_the_diagram_in_the_docs_has_exactly_the_legal_edges() -> None:
    page = Path(__file__).parents[3] / "docs" / "states.md"
    diagram = page.read_text().split("<!-- states -->")[1]
    drawn = {
        (event, source, target)
        for source, target, events in re.findall(r"(\S+) --> (\S+): (.+)", diagram)
        for event in events.split(", ")
    }
    legal = {
        (event.value, source.value if source else "[*]", target.value)
        for event, source, target in product(JobEvent, [None, *JobState], JobState)
        if is_legal(event, source, target)
    }
    assert drawn == legal
