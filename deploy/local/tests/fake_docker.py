"""A docker command without an engine: it keeps containers in a file, as Compose would have them.

FAKE_DOCKER is the folder of its state, with the services of the Compose file in services.json.
FAKE_DOCKER_BROKEN names a service that ends at once, FAKE_DOCKER_SLOW one that does not become
healthy.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_DOCKER"])
STATE = FOLDER / "state.json"
JOURNAL = FOLDER / "journal"
BROKEN = os.environ.get("FAKE_DOCKER_BROKEN")
SLOW = os.environ.get("FAKE_DOCKER_SLOW")
API = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *arguments):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

State = dict[str, Any]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(arguments: list[str]) -> int:
    state: State = {"made": 0, "containers": {}}
    if STATE.exists():
        state = json.loads(STATE.read_text())
    match arguments:
        case ["compose", "version"]:
            return 1 if (FOLDER / "no-compose").exists() else 0
        case ["container", *rest]:
            ask(state["containers"], rest)
            return 0
        case ["compose", "--project-name", project, "--file", _, *rest]:
            if rest[:1] == ["--env-file"]:
                rest = rest[2:]
            with JOURNAL.open("a") as journal:
                journal.write(" ".join(rest) + "\n")
            done = compose(state, project, rest)
            STATE.write_text(json.dumps(state))
            return done
    raise SystemExit(f"not understood: {arguments}")


def ask(containers: State, arguments: list[str]) -> None:
    match arguments:
        case ["ls", *options]:
            (project,) = re.findall(r"compose\.project=(\S+)", " ".join(options))
            for name, each in containers.items():
                if each["project"] == project:
                    say(name)
        case ["inspect", *names]:
            say(json.dumps([containers[name]["inspected"] for name in names]))
        case ["logs", *_, name]:
            say(f"the last words of {name}")


def compose(state: State, project: str, arguments: list[str]) -> int:
    named = [word for word in arguments[1:] if not word.startswith("-")]
    match arguments[0]:
        case "up":
            return up(state, project, json.loads((FOLDER / "services.json").read_text()), named)
        case "rm":
            kept = set() if "--stop" in arguments else {"running", "restarting"}
            remove(
                state,
                project,
                lambda each: each["service"] in named and status(each) not in kept,
            )
        case "down":
            remove(state, project, lambda _: True)
            if "--volumes" in arguments:
                state["volumes_deleted"] = True
        case "ps" | "logs":
            say(f"{arguments[0]} of {' '.join(named)}".rstrip())
    return 0


def status(container: State) -> str:
    return str(container["inspected"]["State"]["Status"])


def remove(state: State, project: str, is_meant: Any) -> None:
    for name, each in list(state["containers"].items()):
        if each["project"] == project and is_meant(each):
            if each.get("pid"):
                os.kill(each["pid"], signal.SIGTERM)
            del state["containers"][name]


def up(state: State, project: str, services: State, named: Iterable[str]) -> int:
    for service in in_order(services, named):
        for number in range(1, services[service].get("deploy", {}).get("replicas", 1) + 1):
            name = f"{project}-{service}-{number}"
            if name not in state["containers"]:
                state["containers"][name] = container(state, project, service, name)
        is_one_shot = services[service].get("restart") == "no"
        if is_one_shot and service == BROKEN:
            sys.stderr.write(f'service "{service}" didn\'t complete successfully: exit 1\n')
            return 1
    return 0


def in_order(services: State, named: Iterable[str]) -> list[str]:
    ordered: list[str] = []
    for service in named:
        before = in_order(services, services[service].get("depends_on", {}))
        ordered += [each for each in (*before, service) if each not in ordered]
    return ordered


def container(state: State, project: str, service: str, name: str) -> State:
    state["made"] += 1
    one_shot = service in {"postgres-setup", "migrate"}
    found: State = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
    if one_shot:
        found = {"Status": "exited", "ExitCode": 0}
    if service == BROKEN:
        found |= {"Status": "exited" if one_shot else "restarting", "ExitCode": 1}
    if service == SLOW:
        found["Health"] = {"Status": "starting"}
    labels = {
        "com.docker.compose.service": service,
        "taskflow.settings": os.environ["TASKFLOW_SETTINGS_DIGEST"],
    }
    made: State = {
        "project": project,
        "service": service,
        "number": state["made"],
        "grace": os.environ["TASKFLOW_CONSUMER_STOP_GRACE_PERIOD"],
        "inspected": {
            "Name": f"/{name}",
            "State": found,
            "RestartCount": 3 if service == BROKEN else 0,
            "Config": {"Labels": labels},
        },
    }
    if service == "api" and service not in {BROKEN, SLOW}:
        port = os.environ["TASKFLOW_API_PORT"]
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-c", API, port]
        made["pid"] = subprocess.Popen(command, stdout=quiet, stderr=quiet).pid
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
