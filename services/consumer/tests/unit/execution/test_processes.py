"""Jobs in processes of their own: real processes, really killed."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import textwrap
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal

import pytest

from taskflow.jobs.outcomes import OutcomeKind
from taskflow.sdk.registry import Registry
from taskflow_consumer.isolation import processes
from taskflow_consumer.isolation.child import Errand
from taskflow_consumer.isolation.ending import Raised
from taskflow_consumer.isolation.services import LoopServices
from taskflow_consumer.middleware.stop import Stop, StopReason

from .harness import Harness, until


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def _pids(harness: Harness, job: Any) -> tuple[int, int]:
    lines = await until(lambda: harness.lines(job))
    return lines[0].fields["pid"], lines[0].fields["grandchild"]


async def test_a_def_handler_runs_in_the_main_thread_of_another_process(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.sum", {"numbers": [1, 2, 3]})
    outcome = await harness.run(executor, job)
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    result = json.loads(outcome.result_json or "")
    assert result["sum"] == 6
    assert result["main"] is True
    assert result["pid"] != os.getpid()
    assert not _is_alive(result["pid"])


async def test_its_log_and_logging_and_that_of_its_threads_reach_the_attempts_log(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.sum", {"numbers": [4]})
    await harness.run(executor, job)
    seen = {(line.level, line.message, line.logger) for line in harness.lines(job)}
    assert ("info", "adding", "job") in seen
    assert ("warning", "by logging", "sample") in seen
    assert ("error", "by a thread", "sample") in seen
    (adding,) = [line for line in harness.lines(job) if line.message == "adding"]
    assert adding.fields["count"] == 1
    assert "SyncJobContext" in adding.fields["self"]


async def test_an_async_handler_has_a_loop_of_its_own_and_reports_progress(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.async", {"numbers": [5, 6]}, number=3)
    outcome = await harness.run(executor, job)
    assert outcome.result_json is not None
    assert '"sum":11' in outcome.result_json
    assert '"attempt":3' in outcome.result_json
    assert harness.progress.reports[-1] == (75.0, None)


async def test_artifacts_and_checkpoints_go_through_the_parent(
    harness: Harness, isolated_jobs: Registry, tmp_path: Path
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.services", {"folder": str(tmp_path)}, checkpoint="page 7")
    outcome = await harness.run(executor, job)
    assert outcome.kind is OutcomeKind.COMPLETED, (outcome, harness.text(job))
    result = json.loads(outcome.result_json or "")
    assert result["round_trip"] is True
    assert result["file"] == "from a file"
    assert result["missing"] == "ObjectMissing"
    assert result["before"] == "page 7"
    assert result["checkpoint"] == {"seen": 3}
    assert harness.artifacts.objects[result["key"]][1] == "image/x-test"
    stored = [data for data, _ in harness.artifacts.objects.values()]
    assert outcome.artifact_bytes == sum(map(len, stored)) > 100_000
    assert harness.checkpoints.saved == ['{"seen":3}']


async def test_many_calls_at_a_time_get_each_its_own_answer(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    outcome = await harness.run(executor, harness.claim("isolated.services_async"))
    assert outcome.result_json == '{"right":[' + ",".join(["true"] * 20) + "]}"
    assert harness.checkpoints.saved == ["20"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"how": "exit", "code": 7}, "ended by itself with exit code 7"),
        ({"how": "exit", "code": 0}, "ended by itself with exit code 0"),
        ({"how": "segfault"}, "was killed by SIGSEGV"),
        ({"how": "kill"}, "was killed by SIGKILL (out of memory?)"),
        ({"how": "signal", "code": 35}, "was killed by signal 35"),
        ({"how": "kill_with_heir"}, "was killed by SIGKILL (out of memory?)"),
        ({"how": "closed_pipe"}, "ended by itself with exit code 1"),
        ({"how": "nonsense"}, "sent what its consumer can't understand"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['how']}-{value.get('code')}",
)
async def test_a_child_that_dies_is_a_retryable_failure(
    harness: Harness,
    isolated_jobs: Registry,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    said: str,
) -> None:
    # Nobody has to wait for those who hold on to a dead child's pipe.
    monkeypatch.setattr(processes, "LAST_WORDS_SECONDS", 60)
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.die", how)
    outcome = await harness.run(executor, job)
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.type == "worker_process_died"
    assert said in outcome.error.message
    assert harness.lines(job)[0].message == "last words"
    # The consumer lives on.
    after = await harness.run(executor, harness.claim("isolated.sum", {"numbers": [1]}))
    assert after.kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            {"how": "exit"},
            (OutcomeKind.RETRYABLE, "SystemExit", "The handler raised SystemExit: 3"),
        ),
        ({"how": "retry"}, (OutcomeKind.RETRYABLE, "Retry", "busy")),
        ({"how": "fail"}, (OutcomeKind.FAILED, "Fail", "never")),
        ({"how": "?"}, (OutcomeKind.RETRYABLE, "LookupError", "?")),
        ({"how": "surrogate"}, (OutcomeKind.RETRYABLE, "ValueError", "half \ufffd and \ufffd")),
        ({"how": "nan"}, (OutcomeKind.FAILED, "result_not_json", None)),
        ({"how": "large"}, (OutcomeKind.FAILED, "result_too_large", None)),
        ([1], (OutcomeKind.FAILED, "invalid_payload", None)),
    ],
)
async def test_what_a_child_raises_is_judged_like_any_other(
    harness: Harness,
    isolated_jobs: Registry,
    payload: object,
    expected: tuple[OutcomeKind, str, str | None],
) -> None:
    kind, error_type, message = expected
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.raise", payload)
    outcome = await harness.run(executor, job)
    assert outcome.kind is kind
    assert outcome.error is not None
    assert outcome.error.type == error_type
    assert message is None or outcome.error.message == message
    if error_type == "Retry":
        assert outcome.delay_seconds == 12
    if error_type == "LookupError":
        assert "isolated_sample_jobs.py" in harness.text(job)


async def test_an_exit_in_a_task_of_a_handlers_ends_its_attempt(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    outcome = await harness.run(executor, harness.claim("isolated.exit_in_task"))
    assert outcome.error is not None
    assert outcome.error.type == "SystemExit"


@pytest.mark.parametrize("hold_the_gil", [False, True])
async def test_a_time_out_kills_the_child_and_its_children(
    harness: Harness, isolated_jobs: Registry, hold_the_gil: bool
) -> None:
    executor = harness.executor(isolated_jobs)
    await harness.chains[-1].warm_up()
    payload = {"seconds": 300, "hold_the_gil": hold_the_gil}
    job = harness.claim("isolated.sleep", payload, timeout_seconds=3)
    started = time.monotonic()
    executor.start(job)
    pid, grandchild = await _pids(harness, job)
    outcome = await harness.outcome(job)
    assert time.monotonic() - started < 12
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.RETRYABLE, "timeout")
    await until(lambda: not _is_alive(pid) and not _is_alive(grandchild))
    await until(lambda: not executor.in_hand)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (StopReason.CANCEL_REQUESTED, OutcomeKind.CANCELLED),
        (StopReason.SHUTDOWN, OutcomeKind.RELEASED),
        (StopReason.LEASE_LOST, None),
    ],
)
async def test_a_stop_kills_the_child_and_its_children(
    harness: Harness, isolated_jobs: Registry, reason: StopReason, kind: OutcomeKind | None
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.sleep", {"seconds": 300})
    executor.start(job)
    pid, grandchild = await _pids(harness, job)
    assert executor.cancel(job.attempt.job_id, 1, reason)
    await until(lambda: not executor.in_hand)
    assert not _is_alive(pid)
    await until(lambda: not _is_alive(grandchild))
    assert [outcome.kind for outcome in harness.recorder.of(job)] == ([kind] if kind else [])


async def test_a_job_that_is_stopped_before_its_child_is_up_leaves_no_child(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    await harness.run(executor, harness.claim("isolated.sum", {"numbers": []}))
    jobs = [harness.claim("isolated.sleep", {"seconds": 300}) for _ in range(4)]
    for turns, job in enumerate(jobs):
        executor.start(job)
        for _ in range(turns):
            await asyncio.sleep(0)
        executor.cancel(job.attempt.job_id, 1, StopReason.CANCEL_REQUESTED)
    await until(lambda: not executor.in_hand)
    await until(lambda: not _children_of(_fork_server_pid()))


def _fork_server_pid() -> int:
    server: Any = forkserver._forkserver
    return int(server._forkserver_pid)


def _children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_a_child_that_returned_but_does_not_end_is_not_waited_for(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    started = time.monotonic()
    outcome = await harness.run(executor, harness.claim("isolated.stubborn"))
    assert outcome.result_json == '"returned"'
    assert time.monotonic() - started < 6


async def test_a_child_may_log_and_report_as_fast_as_it_likes(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.chatty", {"lines": 20_000})
    outcome = await harness.run(executor, job, timeout=60)
    assert outcome.result_json == "20000"
    numbers = [line.fields["number"] for line in harness.lines(job) if line.message == "line"]
    assert numbers == list(range(20_000))
    (huge,) = [line for line in harness.lines(job) if line.message == "huge"]
    assert "too much" in huge.fields["fields_left_out"]
    assert len(harness.progress.reports) < 200
    assert harness.progress.reports[-1][0] == pytest.approx(100 * 19_999 / 20_000)


async def test_sigterm_is_the_parents_affair_but_no_subprocess_is_made_deaf_to_it(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    outcome = await harness.run(executor, harness.claim("isolated.sigterm"))
    assert outcome.result_json == f'"survived; subprocess: {-signal.SIGTERM}"'


async def test_a_sigterm_for_the_whole_process_group_leaves_the_jobs_alone(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim("isolated.sleep", {"seconds": 300})
    executor.start(job)
    pid, _ = await _pids(harness, job)
    server = _fork_server_pid()
    for each in (server, pid):
        os.kill(each, signal.SIGTERM)
    after = await harness.run(executor, harness.claim("isolated.sum", {"numbers": [2]}))
    assert after.kind is OutcomeKind.COMPLETED
    assert _fork_server_pid() == server
    assert _is_alive(pid)
    assert harness.recorder.of(job) == []


async def test_after_the_death_of_the_fork_server_the_next_job_gets_a_new_one(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    await harness.chains[-1].warm_up()
    os.kill(_fork_server_pid(), signal.SIGKILL)
    outcome = await harness.run(executor, harness.claim("isolated.sum", {"numbers": [2]}))
    assert outcome.kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
async def test_children_can_be_spawned_where_there_is_no_fork_server(
    harness: Harness, isolated_jobs: Registry, start_method: Literal["spawn", "forkserver"]
) -> None:
    job = harness.claim("isolated.raise", {"how": "exit", "code": 4})
    errand = Errand(
        module=isolated_jobs.module_of(job.type),
        job_type=job.type,
        job_id=str(job.attempt.job_id),
        attempt=1,
        payload_json=job.payload_json,
        checkpoint_json=None,
        result_max_bytes=1000,
        memory_mib=None,
        log_level=logging.INFO,
    )
    services = LoopServices(
        job,
        log=harness.logs.open(job),
        stop=Stop(),
        artifacts=harness.artifacts,
        checkpoints=harness.checkpoints,
        progress=harness.progress,
    )
    children = processes.Processes(["isolated_sample_jobs"], start_method)
    await children.warm_up()
    ending = await children.call(errand, services)
    assert isinstance(ending, Raised)
    assert ending.error.message == "The handler raised SystemExit: 4"


async def test_a_process_that_can_not_be_started_is_a_retryable_failure(
    harness: Harness, isolated_jobs: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(_: processes.Processes, *connections: socket.socket) -> Any:
        for connection in connections:
            connection.close()
        raise OSError("too many open files")

    monkeypatch.setattr(processes.Processes, "_launch", launch)
    executor = harness.executor(isolated_jobs)
    outcome = await harness.run(executor, harness.claim("isolated.sum", {"numbers": []}))
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.type == "worker_process_not_started"
    assert "too many open files" in outcome.error.message


@pytest.mark.parametrize("holds_the_gil", [False, True])
async def test_a_child_does_not_outlive_its_consumer(tmp_path: Path, holds_the_gil: bool) -> None:
    """The consumer here is a process of its own, killed with -9 while its job runs."""
    script = tmp_path / "consumer.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, sys
            from taskflow.sdk.registry import Registry
            from services_under_test import Harness

            async def main():
                harness = Harness()
                registry = Registry.from_modules(["isolated_sample_jobs"])
                executor = harness.executor(registry)
                payload = {"seconds": 300, "hold_the_gil": sys.argv[1] == "True"}
                job = harness.claim("isolated.sleep", payload)
                executor.start(job)
                while not harness.lines(job):
                    await asyncio.sleep(0.05)
                fields = harness.lines(job)[0].fields
                print(fields["pid"], fields["grandchild"], flush=True)
                await asyncio.sleep(300)

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    here = Path(__file__).parent
    (tmp_path / "services_under_test.py").write_text((here / "harness.py").read_text())
    consumer = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(holds_the_gil),
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{here / 'importable'}:{os.environ.get('PYTHONPATH', '')}",
        },
    )
    assert consumer.stdout is not None
    pid, grandchild = map(int, (await consumer.stdout.readline()).split())
    assert _is_alive(pid)
    consumer.kill()
    await consumer.wait()
    await until(lambda: not _is_alive(pid) and not _is_alive(grandchild))


@pytest.mark.parametrize("name", ["isolated.hungry", "isolated.hungry_async"])
async def test_a_job_that_takes_more_memory_than_its_type_allows_fails_for_good(
    harness: Harness, isolated_jobs: Registry, name: str
) -> None:
    executor = harness.executor(isolated_jobs)
    job = harness.claim(name, {"mebibytes": 256})
    outcome = await harness.run(executor, job)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.FAILED, "memory_limit")
    assert "128 MiB" in outcome.error.message
    assert "MemoryError" in harness.text(job)
    assert "isolated_sample_jobs.py" in harness.text(job)

    outcome = await harness.run(executor, harness.claim(name, {"mebibytes": 16}))
    assert outcome.kind is OutcomeKind.COMPLETED, outcome


async def test_the_least_memory_that_can_be_asked_for_is_enough_to_run(
    harness: Harness, isolated_jobs: Registry
) -> None:
    executor = harness.executor(isolated_jobs)
    outcome = await harness.run(executor, harness.claim("isolated.modest"))
    assert outcome.kind is OutcomeKind.COMPLETED, outcome


async def test_no_line_that_a_job_logs_can_fail_it(
    harness: Harness, isolated_jobs: Registry
) -> None:
    job = harness.claim("isolated.odd_lines")
    outcome = await harness.run(harness.executor(isolated_jobs), job)
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    large, nested, _ = harness.lines(job)
    assert large.fields["number"] == hex(10**5000)
    assert "fields_left_out" in nested.fields


async def test_errors_of_files_are_what_they_are_without_isolation(
    harness: Harness, isolated_jobs: Registry, tmp_path: Path
) -> None:
    job = harness.claim(
        "isolated.missing_files", {"missing": str(tmp_path / "none"), "folder": str(tmp_path)}
    )
    outcome = await harness.run(harness.executor(isolated_jobs), job)
    assert json.loads(outcome.result_json or "") == [
        f"FileNotFoundError {tmp_path / 'none'}",
        f"IsADirectoryError {tmp_path}",
    ]
