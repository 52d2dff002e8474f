"""The doctor's look at servers, its report and its command."""

import json

import pytest

from taskflow.__main__ import main
from taskflow.doctor import servers
from taskflow.doctor.diagnosis import Level, exit_code, fail, ok, unseen, warn
from taskflow.doctor.report import as_json, as_text
from taskflow.settings import ObjectStoreSettings
from taskflow_testing.object_store import TestBucket, keys_in

NOWHERE = "127.0.0.1:1"


def object_store_settings(s3: TestBucket, **changes: str) -> ObjectStoreSettings:
    fields = {
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_bucket": s3.bucket,
    }
    return ObjectStoreSettings.model_validate(fields | changes)


async def test_the_object_store_is_written_to_and_left_as_it_was(s3: TestBucket) -> None:
    assert (await servers.check_object_store(object_store_settings(s3))).level is Level.OK
    assert [key for key in keys_in(s3) if key.startswith("doctor/")] == []
    missing = object_store_settings(s3, s3_bucket="taskflow-is-not-there")
    diagnosis = await servers.check_object_store(missing)
    assert diagnosis.level is Level.FAIL
    assert "there is no bucket" in diagnosis.text
    # Looking has not made it.
    assert (await servers.check_object_store(missing)).level is Level.FAIL


async def test_redis_answers_or_does_not(redis_url: str) -> None:
    assert (await servers.check_redis(redis_url)).level is Level.OK
    assert (await servers.check_redis(f"redis://{NOWHERE}/0")).level is Level.FAIL


DIAGNOSES = [ok("a", "well"), warn("b", "odd", "Look."), fail("c", "broken", "Mend.", ["this"])]


def test_the_exit_code_tells_broken_from_not_seen() -> None:
    assert exit_code(DIAGNOSES[:2]) == 0
    assert exit_code(DIAGNOSES) == 1
    assert exit_code([unseen("d", "dark", "Light."), DIAGNOSES[0]]) == 2
    assert exit_code([unseen("d", "dark", "Light."), DIAGNOSES[2]]) == 1


def test_the_report_says_what_to_do_below_what_is_wrong() -> None:
    lines = as_text(DIAGNOSES).splitlines()
    assert [line.split() for line in lines] == [
        ["ok", "a", "well"],
        ["WARN", "b", "odd"],
        [">", "Look."],
        ["FAIL", "c", "broken"],
        ["-", "this"],
        [">", "Mend."],
        [],
        ["1", "broken,", "1", "to", "look", "at."],
    ]
    assert as_text(DIAGNOSES[:1]).endswith("All is well.")
    assert json.loads(as_json(DIAGNOSES))["checks"][2]["details"] == ["this"]


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"TASKFLOW_{name.upper()}", value)


def test_without_settings_it_could_not_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main(["doctor"]) == 2
    assert "TASKFLOW_DATABASE_URL: is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--jobs", "-1", "a whole number from 0 to 1000000000"),
        ("--objects", "many", "a whole number from 0"),
        ("--timeout", "0", "above 0 and at most 86400 seconds"),
        ("--timeout", "soon", "above 0"),
    ],
)
def test_a_number_that_will_not_do_is_told_its_bounds(
    capsys: pytest.CaptureFixture[str], option: str, value: str, says: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", f"{option}={value}"])
    assert left.value.code == 2
    assert f"{option}: must be {says}" in capsys.readouterr().err


def test_every_server_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(str(tmp_path))
    environment(
        monkeypatch,
        database_url=f"postgresql://nobody@{NOWHERE}/none",
        amqp_url=f"amqp://{NOWHERE}/",
        redis_url=f"redis://{NOWHERE}/0",
        s3_endpoint=f"http://{NOWHERE}",
        s3_access_key="none",
        s3_secret_key="none",
    )
    assert main(["doctor", "--json"]) == 1
    levels = {
        check["subject"]: check["level"] for check in json.loads(capsys.readouterr().out)["checks"]
    }
    assert levels == {
        "settings": "warn",
        "TLS": "ok",
        "PostgreSQL": "fail",
        "RabbitMQ": "fail",
        "S3": "fail",
        "Redis": "fail",
        "invariants": "unseen",
    }
