"""Members of a payload that its job type's schema marks secret: they come in, and stay in.

`writeOnly: true` and `format: password` mark them; a pydantic `SecretStr` has both. Not even who
sent one gets it back: who may read a job need not know what it signs in with, and its sender does.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from taskflow.jobs.schemas import JobView
from taskflow.log_setup import REDACTED
from taskflow_api.problems import pointer_to

_Place = tuple[str | int, ...]
_APPLY_TO_THE_SAME = ("allOf", "anyOf", "oneOf")
_MAY_APPLY_TO_THE_SAME = ("if", "then", "else")
_BY_MEMBER_TO_THE_SAME = ("dependentSchemas", "dependencies")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_TO_MEMBERS = ("additionalProperties", "unevaluatedProperties")
_FIRST_ITEMS = ("prefixItems", "items")
_TO_ITEMS = ("items", "contains", "additionalItems", "unevaluatedItems")
_UNKNOWN: Mapping[str, Any] = {"writeOnly": True}
"""In place of what a reference leads to that isn't followed: it may be marked."""


class SecretFields:
    """What a schema marks; where it leaves a choice, whatever any of its branches marks."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._has_any = _marks_anything(schema)

    def shown(self, view: JobView) -> JobView:
        """The job as it may be shown."""
        if not self._has_any:
            return view
        return view.model_copy(update={"payload": self.hidden_in(view.payload)})

    def hidden_in(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The payload with a mark in place of each secret."""
        hidden: dict[str, Any] = copy.deepcopy(dict(payload))
        for place in self._places(hidden):
            *way, last = place
            holder: Any = hidden
            for step in way:
                holder = holder[step]
            holder[last] = REDACTED
        return hidden

    def problems_of(self, payload: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Marks that were sent in place of secrets, as who writes back what was read would do."""
        if not self._has_any:
            return []
        return [
            (pointer_to("payload", *place), f"is the mark {REDACTED} of a value that isn't shown")
            for place in self._places(payload)
            if _at(payload, place) == REDACTED
        ]

    def _places(self, payload: Mapping[str, Any]) -> list[_Place]:
        if not self._has_any:
            return []
        schemas = self._applying([self._root])
        if any(_is_marked(schema) for schema in schemas):
            return [(name,) for name in payload]
        return list(self._within(payload, schemas, ()))

    def _within(
        self, value: Any, schemas: list[Mapping[str, Any]], place: _Place
    ) -> Iterator[_Place]:
        if isinstance(value, dict):
            members = [(name, item, _of_member(schemas, name)) for name, item in value.items()]
        elif isinstance(value, list):
            members = [(at, item, _of_item(schemas, at)) for at, item in enumerate(value)]
        else:
            return
        for step, item, found in members:
            applying = self._applying(found)
            if not applying or item is None:
                continue
            if any(_is_marked(schema) for schema in applying):
                yield (*place, step)
            else:
                yield from self._within(item, applying, (*place, step))

    def _applying(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
        """These and all that they refer to for the same value."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = list(schemas)
        while waiting:
            schema = waiting.pop()
            if not isinstance(schema, dict) or id(schema) in found:
                continue
            found[id(schema)] = schema
            for name in _APPLY_TO_THE_SAME:
                waiting += _list(schema.get(name))
            waiting += [schema.get(name) for name in _MAY_APPLY_TO_THE_SAME]
            for name in _BY_MEMBER_TO_THE_SAME:
                waiting += _dict(schema.get(name)).values()
            waiting += [self._referred(schema[name]) for name in _REFERENCES if name in schema]
        return list(found.values())

    def _referred(self, reference: Any) -> Any:
        """What a JSON pointer into the schema leads to, as pydantic writes them."""
        if reference != "#" and not str(reference).startswith("#/"):
            return _UNKNOWN
        target: Any = self._root
        for token in unquote(reference[1:]).split("/")[1:]:
            if not isinstance(target, dict):
                return _UNKNOWN
            target = target.get(token.replace("~1", "/").replace("~0", "~"))
        return _UNKNOWN if target is None else target


def _of_member(schemas: list[Mapping[str, Any]], name: str) -> list[Any]:
    found: list[Any] = []
    for schema in schemas:
        properties = _dict(schema.get("properties"))
        # Whether a pattern fits is left open: its regular expressions are another language's.
        found += _dict(schema.get("patternProperties")).values()
        if name in properties:
            found.append(properties[name])
        else:
            found += [schema.get(keyword) for keyword in _TO_MEMBERS]
    return found


def _of_item(schemas: list[Mapping[str, Any]], at: int) -> list[Any]:
    found: list[Any] = []
    for schema in schemas:
        first = next((_list(schema[name]) for name in _FIRST_ITEMS if name in schema), [])
        found += first[at : at + 1] or [schema.get(keyword) for keyword in _TO_ITEMS]
    return found


def _is_marked(schema: Mapping[str, Any]) -> bool:
    return schema.get("writeOnly") is True or schema.get("format") == "password"


def _marks_anything(schema: Any) -> bool:
    if isinstance(schema, dict):
        return _is_marked(schema) or any(_marks_anything(each) for each in schema.values())
    return isinstance(schema, list) and any(_marks_anything(each) for each in schema)


def _at(payload: Any, place: _Place) -> Any:
    for step in place:
        payload = payload[step]
    return payload


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


NO_SECRETS = SecretFields({})
