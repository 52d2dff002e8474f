"""The services' own logs, counted from the outside."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class ServiceLogs:
    """All lines of all lives of the services."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)

    def events(self, name: str) -> list[Line]:
        """The lines with this event name."""
        return [line for line in self._lines() if line.get("event") == name]

    def sum(self, name: str, field: str) -> int:
        """What a number adds up to, over the lines with this event name."""
        return sum(int(line[field]) for line in self.events(name))

    def errors(self) -> list[str]:
        """Lines of level `error`, and what is no line of JSON, such as a traceback of Python's.

        Those of the AMQP library's own are left out: a broker that is away fills pages with them.
        """
        return [
            f"{path.stem}: {text}"
            for path, text in self._texts()
            if ('"level": "error"' in text and '"logger": "aiormq' not in text)
            or not text.startswith("{")
        ]

    def _lines(self) -> Iterator[Line]:
        for _, text in self._texts():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # a traceback's, or one whose writer was killed
            if isinstance(line, dict):
                yield line

    def _texts(self) -> Iterator[tuple[Path, str]]:
        for path in self._paths:
            if path.exists():
                for text in path.read_text(errors="replace").splitlines():
                    if text:
                        yield path, text
