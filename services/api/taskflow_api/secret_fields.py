"""Members of a payload that its job type's schema marks secret: they come in, and stay in.

`writeOnly: true` and `format: password` mark them; a pydantic `SecretStr` has both. Not even who
sent one gets it back: who may read a job need not know what it signs in with, and its sender does.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_TO_PARTS = ("properties", "patternProperties", *_TO_MEMBERS, "prefixItems", *_TO_ITEMS)
_UNKNOWN: Mapping[str, Any] = {"writeOnly": True}
"""In place of what a reference leads to that isn't followed: it may be marked."""


@dataclass(frozen=True, slots=True)
class _Applying:
    """The schemas for one value: whether one marks it, and those that may mark what is in it."""

    is_marked: bool
    schemas: Sequence[Mapping[str, Any]]


class SecretFields:
    """What a schema marks; where it leaves a choice, whatever any of its branches marks."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._has_any = _marks_anything(schema)
        # By the schemas' identities, of which there are as many as the root has.
        self._known: dict[tuple[int, ...], _Applying] = {}

    def shown(self, view: JobView) -> JobView:
        """The job as it may be shown."""
        if not self._has_any:
            return view
        return view.model_copy(update={"payload": self.hidden_in(view.payload)})

    def payload_shown(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload as it may be shown."""
        return self.hidden_in(payload) if self._has_any else payload

    def hidden_in(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The payload with a mark in place of each secret."""
        hidden = dict(payload)
        copied: dict[_Place, Any] = {(): hidden}
        for place in self._places(payload):
            for depth in range(1, len(place)):
                way = place[:depth]
                if way not in copied:
                    holder = copied[way[:-1]]
                    copied[way] = holder[way[-1]] = copy.copy(holder[way[-1]])
            copied[place[:-1]][place[-1]] = REDACTED
        return hidden

    def problems_of(self, payload: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Marks that were sent in place of secrets, as who writes back what was read would do."""
        return [
            (pointer_to("payload", *place), f"is the mark {REDACTED} of a value that isn't shown")
            for place in self._places(payload)
            if _at(payload, place) == REDACTED
        ]

    def _places(self, payload: Mapping[str, Any]) -> Iterable[_Place]:
        if not self._has_any:
            return []
        applying = self._applying([self._root])
        if applying.is_marked:
            return [(name,) for name in payload]
        return self._within(payload, applying.schemas, ())

    def _within(
        self, value: Any, schemas: Sequence[Mapping[str, Any]], place: _Place
    ) -> Iterator[_Place]:
        if not schemas:
            return
        steps: Iterable[tuple[str | int, Any]] = ()
        if isinstance(value, dict):
            steps = value.items()
        elif isinstance(value, list):
            steps = enumerate(value)
        for step, item in steps:
            if item is None:
                continue
            applying = self._applying(_for_part(schemas, step))
            if applying.is_marked:
                yield (*place, step)
            else:
                yield from self._within(item, applying.schemas, (*place, step))

    def _applying(self, schemas: Iterable[Any]) -> _Applying:
        """These and all that they refer to for the same value."""
        named = [schema for schema in schemas if isinstance(schema, dict)]
        key = tuple(map(id, named))
        if key not in self._known:
            found = self._expanded(named)
            self._known[key] = _Applying(
                any(map(_is_marked, found)), [each for each in found if _may_mark_parts(each)]
            )
        return self._known[key]

    def _expanded(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
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


def _for_part(schemas: Iterable[Mapping[str, Any]], step: str | int) -> list[Any]:
    return _of_member(schemas, step) if isinstance(step, str) else _of_item(schemas, step)


def _of_member(schemas: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
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


def _of_item(schemas: Iterable[Mapping[str, Any]], at: int) -> list[Any]:
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


def _may_mark_parts(schema: Mapping[str, Any]) -> bool:
    return any(_may_mark(schema[keyword]) for keyword in _TO_PARTS if keyword in schema)


def _may_mark(schema: Any) -> bool:
    if isinstance(schema, dict):
        refers = any(name in schema for name in _REFERENCES)
        return refers or _is_marked(schema) or any(map(_may_mark, schema.values()))
    return isinstance(schema, list) and any(map(_may_mark, schema))


def _at(payload: Any, place: _Place) -> Any:
    for step in place:
        payload = payload[step]
    return payload


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


NO_SECRETS = SecretFields({})
