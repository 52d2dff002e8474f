import json
from pathlib import Path
from uuid import UUID

from taskflow_chaos.effects import read_effects
from taskflow_chaos.service_logs import ServiceLogs

ID = "01890000-0000-7000-8000-000000000001"


def line(what: str, at: float, pid: int) -> str:
    return json.dumps({"what": what, "job_id": ID, "attempt": 1, "pid": pid, "at": at}) + "\n"


def test_effects_of_all_processes_come_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(line("began", 1.0, 1) + line("done", 3.0, 1))
    (tmp_path / "2.jsonl").write_text(line("began", 2.0, 2))
    effects = read_effects(tmp_path)
    assert [(each.what, each.pid) for each in effects] == [("began", 1), ("began", 2), ("done", 1)]
    assert effects[0].job_id == UUID(ID)


def test_a_line_whose_writer_died_is_no_effect(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(line("began", 1.0, 1) + line("done", 3.0, 1)[:-5])
    assert [each.what for each in read_effects(tmp_path)] == ["began"]


def test_events_are_counted_over_all_logs(tmp_path: Path) -> None:
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    first.write_text('{"event": "republished", "count": 3}\n{"event": "other"}\nTraceback (most\n')
    second.write_text('{"event": "republished", "count": 4}\n{"event": "repub')
    logs = ServiceLogs([first, second, tmp_path / "none.log"])
    assert len(logs.events("republished")) == 2
    assert logs.sum("republished", "count") == 7


def test_errors_are_lines_of_that_level_and_tracebacks(tmp_path: Path) -> None:
    log = tmp_path / "api-1.log"
    log.write_text(
        '{"event": "fine", "level": "info"}\n{"event": "bad", "level": "error"}\nTraceback\n'
        '{"event": "away", "level": "error", "logger": "aiormq.connection"}\n'
    )
    errors = ServiceLogs([log]).errors()
    assert errors == ['api-1: {"event": "bad", "level": "error"}', "api-1: Traceback"]
