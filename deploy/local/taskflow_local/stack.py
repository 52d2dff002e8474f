"""A stack: servers and services started, waited for, and stopped without a trace."""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from taskflow_local import signals
from taskflow_local.component import Component, Program
from taskflow_local.errors import StackError
from taskflow_local.leftovers import end_leftovers
from taskflow_local.ports import accepts_connections, require_free
from taskflow_local.supervisor import Supervisor

_POLL_SECONDS = 0.1
_LISTEN_SECONDS = 10
_LIVES = 2
_LOG_LINES_ON_FAILURE = 20
_LOG_TAIL_BYTES = 64 * 1024


class Stack:
    """Servers and the services that need them; data, logs and supervisord in one directory."""

    def __init__(
        self,
        directory: Path,
        servers: Sequence[Component] = (),
        services: Sequence[Component] = (),
    ) -> None:
        self.directory = directory
        self.servers = servers
        self.services = services
        self.supervisor = Supervisor(directory)

    def missing(self, components: Iterable[Component]) -> list[Component]:
        """Those of which some program does not run."""
        running = self.supervisor.running()
        return [
            component
            for component in components
            if not running.issuperset(program.name for program in component.programs())
        ]

    def require_free_ports(self, components: Iterable[Component]) -> None:
        """Pass when what does not run could listen on its ports.

        Raises:
            StackError: a line for each that is taken.
        """
        if not self.supervisor.is_running():
            end_leftovers(self.directory)
        running = self.supervisor.running()
        idle = [
            component
            for component in self.missing(components)
            if running.isdisjoint(program.name for program in component.programs())
        ]
        require_free(port for component in idle for port in component.ports())

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """If the block fails or is interrupted, stop every program that was started in it."""
        before = self.supervisor.running()
        try:
            yield
        except BaseException:
            with signals.ignored():
                if before:
                    self.supervisor.stop(self.supervisor.running() - before)
                else:
                    self.stop()
            raise

    def start(self, components: Sequence[Component]) -> list[str]:
        """Start what of these does not run, and wait until all of these are ready.

        Returns:
            Names of the components that were started.

        Raises:
            StackError: one does not become ready; the text ends with its log.
        """
        missing = self.missing(components)
        if missing:
            self.directory.mkdir(parents=True, exist_ok=True)
            for component in missing:
                component.prepare()
            self._make_known()
            for component in missing:
                self._start_programs(component)
        for component in components:
            self._wait_ready(component, is_new=component in missing)
        return [component.name for component in missing]

    def stop(self) -> bool:
        """Stop every process of this stack; False if there was none."""
        if not self.supervisor.is_running():
            return end_leftovers(self.directory)
        self._stop_together(self.services)
        self._stop_together(self.servers)
        self.supervisor.shutdown()
        end_leftovers(self.directory)
        return True

    def programs(self) -> list[Program]:
        """Every program, servers' first."""
        return [
            replace(program, environment={**program.environment, **_settings_of(component)})
            for component in (*self.servers, *self.services)
            for program in component.programs()
        ]

    def _make_known(self) -> None:
        if self.supervisor.is_running():
            self.supervisor.reload(self.programs())
        else:
            self.supervisor.launch(self.programs())

    def _start_programs(self, component: Component) -> None:
        for program in component.programs():
            if program.name in self.supervisor.running():
                continue
            self.supervisor.start(program.name)
            if program.listens_on is not None:
                self._wait_listening(program, program.listens_on)

    def _stop_together(self, components: Sequence[Component]) -> None:
        """Stop components side by side, within each the program that was started last first."""
        columns = [reversed(component.programs()) for component in components]
        for programs in itertools.zip_longest(*columns):
            self.supervisor.stop(program.name for program in programs if program is not None)

    def _wait_listening(self, program: Program, port: int) -> None:
        deadline = time.monotonic() + _LISTEN_SECONDS
        while not accepts_connections(port):
            if time.monotonic() > deadline:
                raise self._failure(program.name, f"does not listen on port {port}")
            time.sleep(_POLL_SECONDS)

    def _wait_ready(self, component: Component, *, is_new: bool) -> None:
        deadline = time.monotonic() + component.start_timeout_seconds
        lives: dict[str, set[int]] = {}
        while not (
            self._all_run(component)
            and component.is_ready()
            and (not is_new or self._all_stay_up(component, lives))
        ):
            if time.monotonic() > deadline:
                seconds = f"{component.start_timeout_seconds:.0f} seconds"
                raise self._failure(component.name, f"is not ready after {seconds}")
            time.sleep(_POLL_SECONDS)

    def _all_run(self, component: Component) -> bool:
        statuses = self.supervisor.statuses()
        for program in component.programs():
            state = statuses[program.name].state if program.name in statuses else "UNKNOWN"
            # EXITED lasts a moment: supervisord starts it again.
            if state not in {"STARTING", "RUNNING", "EXITED"}:
                raise self._failure(program.name, f"does not stay up (it is {state})")
            if state != "RUNNING":
                return False
        return True

    def _all_stay_up(self, component: Component, lives: dict[str, set[int]]) -> bool:
        """Whether all have run for long enough; `lives` are the pids that they were seen with."""
        statuses = self.supervisor.statuses()
        for program in component.programs():
            status = statuses[program.name]
            pids = lives.setdefault(program.name, set())
            if status.pid is not None:
                pids.add(status.pid)
            # A consumer may renew itself, and the second life is one that stays.
            if len(pids) > _LIVES:
                raise self._failure(program.name, "does not stay up (it ends again and again)")
            if (status.uptime_seconds or 0) < program.stays_up_seconds:
                return False
        return True

    def _failure(self, name: str, what: str) -> StackError:
        log = self.supervisor.files.log(name)
        return StackError(f"{name} {what}; the end of {log}:\n{_tail(log)}")


def _settings_of(component: Component) -> dict[str, str]:
    """A digest of all its settings, so that supervisord's file tells when one has changed."""
    digest = hashlib.sha256(repr(vars(component)).encode()).hexdigest()
    return {"TASKFLOW_COMPONENT_SETTINGS": digest[:16]}


def _tail(path: Path) -> str:
    if not path.exists():
        return "(empty)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES_ON_FAILURE:])
