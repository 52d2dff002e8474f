"""Who is measured: how each is set up, started and asked what it has done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from taskflow_bench.errors import BenchBroke
from taskflow_local.ports import accepts_connections
from taskflow_local.services import is_green

TASKFLOW = "taskflow"
PROBE = "full-probe"

CONCURRENCY = 100
"""How many jobs a worker may have in hand at once, where it has a setting for that."""

_FINISHED = """
SELECT id::text AS id, finished_at, result->>'text' AS text FROM jobs WHERE state = 'completed'
"""
_PROCRASTINATE_FINISHED = """
SELECT e.job_id::text AS id, e.at AS finished_at, r.result->>'text' AS text
FROM procrastinate_events e JOIN results r ON r.job_id = e.job_id
WHERE e.type = 'succeeded'
"""


def _served(app: str) -> tuple[str, ...]:
    """An ASGI application on the port that is given, on the fastest of what uvicorn offers."""
    return ("uvicorn", app, "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop",
            "--http", "httptools", "--no-access-log", "--log-level", "warning")  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """Commands are modules with their arguments, for `python -m`; `{port}` is the API's."""

    name: str
    title: str
    api: Sequence[str]
    worker: Sequence[str]
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    path: str = "/jobs"
    schema: str | None = "jobs.sql"
    """A file among the peers that makes the tables; None: TaskFlow's migrations."""
    setup: Sequence[str] | None = None
    """What else makes tables, exchanges and queues."""
    finished: str = _FINISHED
    """The completed jobs: id, finished_at and the text that came back."""
    api_is_ready: Callable[[int], bool] = accepts_connections
    worker_is_ready: str = "SELECT true"
    """A question to the database, where a worker has to be known before a job is accepted."""


CONTESTANTS: Sequence[Contestant] = (
    Contestant(
        name="celery",
        title="FastAPI + Celery (RabbitMQ, acks_late, prefork 2)",
        api=_served("peers.celery_api:app"),
        worker=(
            "celery", "--app", "peers.celery_tasks", "worker", "--pool", "prefork",
            "--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "warning",
        ),
    ),
    Contestant(
        name="taskiq",
        title="FastAPI + Taskiq (aio-pika), one worker",
        api=_served("peers.taskiq_api:app"),
        worker=(
            "taskiq", "worker", "peers.taskiq_tasks:broker", "--workers", "1",
            "--max-async-tasks", str(CONCURRENCY), "--ack-type", "when_executed",
            "--log-level", "WARNING",
        ),
    ),
    Contestant(
        name="dramatiq",
        title="FastAPI + Dramatiq (RabbitMQ), one process",
        api=_served("peers.dramatiq_api:app"),
        worker=("dramatiq", "peers.dramatiq_tasks", "--processes", "1", "--threads", "8"),
    ),
    Contestant(
        name="procrastinate",
        title="Procrastinate (PostgreSQL only)",
        api=_served("peers.procrastinate_api:app"),
        worker=(
            "procrastinate", "--app", "peers.procrastinate_tasks.app", "--log-level", "warning",
            "worker",
            "--concurrency", str(CONCURRENCY),
        ),
        schema="results.sql",
        setup=("procrastinate", "--app", "peers.procrastinate_tasks.app", "schema", "--apply"),
        finished=_PROCRASTINATE_FINISHED,
    ),
    Contestant(
        name="lean-probe",
        title="lean probe: asyncpg and aio-pika, a statement per job, no ORM",
        api=_served("peers.lean_probe_api:app"),
        worker=("peers.lean_probe_worker",),
    ),
    Contestant(
        name=PROBE,
        title="full probe: group commit, pipelined confirms, batch claim and finish, no features",
        api=_served("peers.full_probe_api:app"),
        worker=("peers.full_probe_worker",),
    ),
    Contestant(
        name=TASKFLOW,
        title="TaskFlow, every feature on",
        api=("taskflow_api",),
        worker=("taskflow_consumer",),
        others={"scheduler": ("taskflow_scheduler",)},
        path="/api/v1/jobs",
        schema=None,
        setup=("taskflow.broker",),
        api_is_ready=is_green,
        worker_is_ready="SELECT EXISTS (SELECT FROM workers WHERE state = 'running')",
    ),
)  # fmt: skip


def chosen(names: Sequence[str]) -> list[Contestant]:
    """Those with these names, in the table's order; all of them without.

    Raises:
        BenchBroke: nobody has a name.
    """
    known = [each.name for each in CONTESTANTS]
    for name in names:
        if name not in known:
            raise BenchBroke(f"no contestant is called {name!r}; there are {', '.join(known)}")
    return [each for each in CONTESTANTS if not names or each.name in names]
