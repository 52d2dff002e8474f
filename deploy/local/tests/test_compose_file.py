"""deploy/compose.yaml against the settings, the Dockerfile, and what a container may do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskflow import settings
from taskflow_api.lifespan import RELAY_STOP_SECONDS
from taskflow_api.server import DRAIN_SECONDS, GRACE_SECONDS
from taskflow_local import docker_stack
from taskflow_local.local_stack import API_GRACE_SECONDS, build_stack
from taskflow_local.rabbitmq import RabbitMQ
from taskflow_local.stack_settings import StackSettings, load_stack_settings

CHECKOUT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "deploy" / "compose.yaml").read_text())
DOCKERFILE = (CHECKOUT / "deploy" / "docker" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILT = {name: service for name, service in SERVICES.items() if "build" in service}
LASTING = {name: each for name, each in SERVICES.items() if each["restart"] != "no"}
SETTINGS: dict[str, list[type[settings.Settings]]] = {
    "api": [settings.ApiSettings],
    "consumer": [settings.ConsumerSettings],
    "scheduler": [settings.SchedulerSettings],
    "migrate": [settings.MigrationSettings, settings.BrokerSettings],
}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    # Root only where the image leaves no choice, and there without any capability.
    assert (service.get("user") == "root") is (name == "minio")
    assert "user" in service or name in BUILT
    for volume in service.get("volumes", []):
        assert "docker.sock" not in str(volume)
        if not isinstance(volume, str) and volume["type"] == "bind":
            assert volume["read_only"] is True


def test_the_services_are_those_that_the_commands_know() -> None:
    assert set(LASTING) == {*docker_stack.SERVERS, *docker_stack.SERVICES}
    assert set(SERVICES) - set(LASTING) == set(docker_stack.ONE_SHOTS)
    assert SERVICES["scheduler"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", sorted(LASTING))
def test_what_stays_is_checked_and_comes_back(name: str) -> None:
    assert LASTING[name]["restart"] == "unless-stopped"
    assert LASTING[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_service_waits_for_the_work_of_one_shots_and_for_healthy_servers(name: str) -> None:
    def needed(service: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for other, how in SERVICES[service].get("depends_on", {}).items():
            found |= {other: how["condition"]} | needed(other)
        return found

    conditions = needed(name)
    assert {"postgres", "rabbitmq", "postgres-setup"} <= set(conditions)
    for other, condition in conditions.items():
        ends = other in docker_stack.ONE_SHOTS
        assert condition == ("service_completed_successfully" if ends else "service_healthy")


def test_every_port_is_on_loopback_and_moved_by_the_variable_that_a_message_names() -> None:
    published = [text for service in SERVICES.values() for text in service.get("ports", [])]
    variables = {}
    for text in published:
        found = re.fullmatch(r"127\.0\.0\.1:\$\{(TASKFLOW_[A-Z0-9_]+_PORT):-(\d+)\}:\d+", text)
        assert found, text
        variables[found[1]] = int(found[2])
    checked = docker_stack.published_ports(example_settings(), SERVICES)
    assert {port.variable: port.number for port in checked} == variables


def example_settings() -> StackSettings:
    example = (CHECKOUT / ".env.example").read_text()
    ports = dict(re.findall(r"^(TASKFLOW_[A-Z0-9_]+_PORT)=(\d+)$", example, re.MULTILINE))
    secrets = {
        f"TASKFLOW_{name.upper()}": "x"
        for name in StackSettings.model_fields
        if name.endswith(("_password", "_key", "_bucket"))
    }
    return load_stack_settings(ports | secrets)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_service_gets_every_setting_of_its_own_and_no_other(name: str) -> None:
    wanted = {
        f"TASKFLOW_{field.upper()}" for process in SETTINGS[name] for field in process.model_fields
    }
    given = {each for each in SERVICES[name]["environment"] if each.startswith("TASKFLOW_")}
    assert given == wanted


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_inside_servers_have_their_services_names(name: str) -> None:
    environment = SERVICES[name]["environment"]
    for variable in environment:
        if variable.endswith(("_URL", "_ENDPOINT")) and environment[variable]:
            found = re.search(r"(?:@|//)([a-z]+):\d+", environment[variable])
            assert found, variable
            assert found[1] in docker_stack.SERVERS


def test_rabbitmq_has_the_users_and_rights_of_the_stack_without_docker(tmp_path: Path) -> None:
    script = SERVICES["rabbitmq"]["command"][-1].replace("$$", "$")
    (text,) = re.findall(r"<<JSON\n(.+?)\nJSON$", script, re.DOTALL | re.MULTILINE)
    # Nothing in it but the passwords means anything to the shell.
    assert not re.search(r"\\|`|\$[^T\"]", text)
    found = json.loads(text)
    servers = build_stack(tmp_path, example_settings()).servers
    (rabbitmq,) = [server for server in servers if isinstance(server, RabbitMQ)]
    wanted = rabbitmq.definitions()
    for name in ("vhosts", "permissions"):
        assert found[name] == wanted[name]
    for user, other in zip(found["users"], wanted["users"], strict=True):
        service = user["name"].removeprefix("taskflow").removeprefix("_").upper()
        variable = f"TASKFLOW_RABBITMQ_{service}_PASSWORD".replace("__", "_")
        assert user["password"] == f"${variable}"
        assert variable in SERVICES["rabbitmq"]["environment"]
        assert (user["name"], user["tags"]) == (other["name"], other["tags"])


def test_the_consumer_gets_its_default_grace_and_more() -> None:
    default = settings.ConsumerSettings.model_fields["shutdown_grace_seconds"].default
    found = re.search(r":-(\d+)s\}", SERVICES["consumer"]["stop_grace_period"])
    assert found
    assert int(found[1]) == default + 15


def test_the_api_gets_the_time_that_it_gives_its_requests_and_pointers() -> None:
    assert DRAIN_SECONDS + GRACE_SECONDS + RELAY_STOP_SECONDS < API_GRACE_SECONDS
    assert SERVICES["api"]["stop_grace_period"] == f"{API_GRACE_SECONDS + 15}s"


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_built_image_is_a_target(name: str) -> None:
    assert BUILT[name]["build"]["target"] == name
    assert re.search(rf"^FROM runtime AS {name}$", DOCKERFILE, re.MULTILINE)


def test_every_image_has_a_tag_that_says_a_version() -> None:
    from_compose = [service["image"] for service in SERVICES.values() if "image" in service]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    named = re.findall(r"(?:^FROM |--from=)(\S+)", DOCKERFILE, re.MULTILINE)
    for image in [*from_compose, *(each for each in named if each not in stages)]:
        assert re.search(r":[^:/]*\d[^:/]*$", image), image


def test_what_is_named_is_there() -> None:
    volumes = {
        volume.split(":")[0] if isinstance(volume, str) else volume["source"]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) or volume["type"] == "volume"
    }
    assert volumes == set(COMPOSE["volumes"])
    (bind,) = [each for each in SERVICES["consumer"]["volumes"] if each["type"] == "bind"]
    folder = re.sub(r"\$\{[A-Z_]+:-(.*)\}", r"\1", bind["source"])
    assert (CHECKOUT / "deploy" / folder).is_dir()
