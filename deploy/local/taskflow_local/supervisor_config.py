"""The configuration file of one supervisord."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskflow_local.component import Program


@dataclass(frozen=True)
class SupervisorFiles:
    """Where one supervisord keeps what is its own."""

    directory: Path
    socket: Path

    @property
    def config(self) -> Path:
        """Its configuration, which holds the servers' secrets: they travel in the environment."""
        return self.directory / "supervisord.conf"

    @property
    def pid(self) -> Path:
        """Its process id, while it runs."""
        return self.directory / "supervisord.pid"

    def log(self, name: str) -> Path:
        """What a program wrote, both streams together."""
        return self.directory / "log" / f"{name}.log"


def render(files: SupervisorFiles, programs: Sequence[Program]) -> str:
    """The whole file; every program waits until it is asked to start."""
    return "\n".join([_supervisord(files), *(_program(files, program) for program in programs)])


def program_sections(config: str) -> dict[str, str]:
    """A file's programs: name to settings, to compare one file with another."""
    blocks = (block.split("]\n", 1) for block in config.split("[program:")[1:])
    return {name: settings.strip() for name, settings in blocks}


def _supervisord(files: SupervisorFiles) -> str:
    # supervisord warns unless root is asked for by name.
    user = "user=root\n" if os.geteuid() == 0 else ""
    return (
        f"[unix_http_server]\nfile={_escape(files.socket)}\nchmod=0600\n\n"
        f"[supervisord]\nlogfile={_escape(files.log('supervisord'))}\nlogfile_maxbytes=5MB\n"
        f"logfile_backups=1\npidfile={_escape(files.pid)}\nnodaemon=false\numask=077\n{user}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )


def _program(files: SupervisorFiles, program: Program) -> str:
    command = shlex.join(str(part) for part in program.command)
    environment = ",".join(f'{key}="{value}"' for key, value in program.environment.items())
    return (
        f"[program:{program.name}]\n"
        f"command={_escape(command)}\n"
        f"directory={_escape(program.directory)}\n"
        f"environment={_escape(environment)}\n"
        "autostart=false\nautorestart=true\nstartsecs=1\nstartretries=3\n"
        f"stopsignal={program.stop_signal}\nstopwaitsecs={program.stop_wait_seconds}\n"
        # KILL gives a process no chance to end its children.
        f"stopasgroup={str(program.stop_signal == 'KILL').lower()}\nkillasgroup=true\n"
        f"redirect_stderr=true\nstdout_logfile={_escape(files.log(program.name))}\n"
        "stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=2\n"
    )


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")
