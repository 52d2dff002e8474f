"""Configuration files that the components write, and what they say about themselves."""

import base64
import hashlib
import json
import os
import pwd
from pathlib import Path

import pytest

from taskflow_local import unprivileged
from taskflow_local.component import Component, Program
from taskflow_local.errors import StackError
from taskflow_local.postgres import Login, Postgres
from taskflow_local.rabbitmq import RabbitMQ
from taskflow_local.redis import Redis
from taskflow_local.s3 import S3
from taskflow_local.services import Service
from taskflow_local.supervisor_config import SupervisorFiles, program_sections, render

SECRET = "secret-word"


def broker(directory: Path, *, throwaway: bool = False) -> RabbitMQ:
    return RabbitMQ(
        directory,
        5001,
        management_port=5002,
        prometheus_port=5003,
        epmd_port=5004,
        distribution_port=5005,
        user="someone",
        password=SECRET,
        virtual_host="somewhere",
        throwaway=throwaway,
    )


def test_rabbitmq_knows_one_user_whose_password_is_the_one_given(tmp_path: Path) -> None:
    broker(tmp_path).prepare()
    definitions = json.loads((tmp_path / "definitions.json").read_text())
    (user,) = definitions["users"]
    assert user["name"] == "someone"
    salted = base64.b64decode(user["password_hash"])
    assert salted[4:] == hashlib.sha256(salted[:4] + SECRET.encode()).digest()
    assert definitions["vhosts"] == [{"name": "somewhere"}]
    assert definitions["permissions"][0]["vhost"] == "somewhere"


def test_rabbitmq_listens_on_loopback_alone(tmp_path: Path) -> None:
    broker(tmp_path).prepare()
    config = dict(
        line.split(" = ", 1) for line in (tmp_path / "rabbitmq.conf").read_text().splitlines()
    )
    assert config["listeners.tcp.local"] == "127.0.0.1:5001"
    assert config["management.tcp.ip"] == config["prometheus.tcp.ip"] == "127.0.0.1"
    epmd, server = broker(tmp_path).programs()
    assert epmd.environment["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert "{127,0,0,1}" in server.environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]


def test_rabbitmq_keeps_its_cookie_and_hides_its_files(tmp_path: Path) -> None:
    broker(tmp_path).prepare()
    cookie = tmp_path / "home" / ".erlang.cookie"
    before = cookie.read_text()
    broker(tmp_path).prepare()
    assert cookie.read_text() == before
    assert cookie.stat().st_mode & 0o777 == 0o400
    assert (tmp_path / "definitions.json").stat().st_mode & 0o777 == 0o600


def test_rabbitmq_is_killed_only_where_its_data_is_thrown_away(tmp_path: Path) -> None:
    assert broker(tmp_path).programs()[-1].stop_signal == "TERM"
    assert broker(tmp_path, throwaway=True).programs()[-1].stop_signal == "KILL"


@pytest.mark.parametrize(("throwaway", "save"), [(True, 'save ""'), (False, "save 60 1")])
def test_redis_saves_what_is_not_thrown_away_and_is_bounded(
    tmp_path: Path, throwaway: bool, save: str
) -> None:
    Redis(tmp_path, 5001, SECRET, throwaway=throwaway).prepare()
    lines = (tmp_path / "redis.conf").read_text().splitlines()
    assert {"bind 127.0.0.1", "port 5001", f"requirepass {SECRET}", save} <= set(lines)
    assert {"maxmemory 256mb", "maxmemory-policy volatile-lru"} <= set(lines)


def test_no_component_shows_its_secret(tmp_path: Path) -> None:
    components: list[Component] = [
        Postgres(
            tmp_path, 5001, "someone", SECRET, "thing", [Login("service", SECRET, ["nobody"])]
        ),
        Service("api", "taskflow_api", tmp_path, environment={"URL": SECRET}),
        broker(tmp_path),
        Redis(tmp_path, 5001, SECRET),
        S3(tmp_path, 5001, "key", SECRET, "bucket"),
    ]
    for component in components:
        assert SECRET not in repr(component)
        for program in component.programs():
            assert SECRET not in " ".join(str(part) for part in program.command)


def test_a_program_keeps_its_words_and_its_percent_signs(tmp_path: Path) -> None:
    files = SupervisorFiles(tmp_path, tmp_path / "socket")
    program = Program("one", ["/bin/echo", "two words", "100%"], tmp_path, {"SHARE": "5%"})
    config = render(files, [program])
    assert "command=/bin/echo 'two words' 100%%\n" in config
    assert 'environment=SHARE="5%%"\n' in config


def test_a_killed_program_takes_its_children_along(tmp_path: Path) -> None:
    files = SupervisorFiles(tmp_path, tmp_path / "socket")
    gentle = Program("gentle", ["/bin/true"], tmp_path)
    killed = Program("killed", ["/bin/true"], tmp_path, stop_signal="KILL")
    sections = program_sections(render(files, [gentle, killed]))
    assert "stopasgroup=false" in sections["gentle"]
    assert "stopasgroup=true" in sections["killed"]


def test_an_ordinary_user_runs_programs_as_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    identity = unprivileged.identity_for([tmp_path])
    assert identity.uid == 1234
    assert identity.prefix == ()


@pytest.mark.parametrize(("mode", "needs_capability"), [(0o755, False), (0o700, True)])
def test_root_gives_a_capability_only_where_a_folder_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, needs_capability: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    closed = tmp_path / "closed"
    closed.mkdir(mode=mode)
    reachable = Path("/").joinpath("usr", "bin", "env")
    paths = [closed / "data"] if needs_capability else [reachable]
    identity = unprivileged.identity_for(paths)
    assert identity.uid == pwd.getpwnam("nobody").pw_uid
    assert f"--reuid={identity.uid}" in identity.prefix
    assert ("--ambient-caps=+dac_override" in identity.prefix) is needs_capability


def test_root_without_setpriv_is_told_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="util-linux"):
        unprivileged.identity_for([tmp_path])
