"""supervisord's XML-RPC interface over its socket file."""

import contextlib
import http.client
import socket
import xmlrpc.client  # nosec B411 # only our own supervisord answers
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 60


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        with contextlib.ExitStack() as closed_on_failure:
            self.sock = closed_on_failure.enter_context(socket.socket(socket.AF_UNIX))
            self.sock.settimeout(_TIMEOUT_SECONDS)
            self.sock.connect(str(self._path))
            closed_on_failure.pop_all()


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> _Connection:
        connection = _Connection(self._path)
        # Where the base class looks for what it has to close.
        self._connection = (host, connection)
        return connection


def call(path: Path, method: str, *arguments: object) -> Any:
    """Call one method of the supervisor that listens on the socket file `path`.

    Raises:
        OSError: nobody listens there.
        xmlrpc.client.Fault: supervisord refuses.
    """
    proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path))
    with proxy:
        return getattr(proxy.supervisor, method)(*arguments)
