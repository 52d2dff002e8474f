"""How a handler wants to be called, read from its signature."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

from pydantic import TypeAdapter

from taskflow.errors import ConfigurationError
from taskflow.sdk.context import JobContext, SyncJobContext

_NO_PAYLOAD_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_NO_OBJECTS = frozenset({"array", "string", "integer", "number", "boolean", "null"})
_CONTEXTS = frozenset({JobContext, SyncJobContext})
_CONTEXT_NAMES = frozenset({"ctx", "context"})


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """What a handler takes: a payload or none, a context or none."""

    payload: TypeAdapter[Any] | None
    payload_schema: Mapping[str, Any]
    takes_context: bool


def read_signature(handler: Callable[..., Any]) -> HandlerSignature:
    """The handler's signature.

    Raises:
        ConfigurationError: it is not of a kind that a job can be called with.
    """
    if not inspect.isfunction(handler):
        raise ConfigurationError("only a plain function can be a job")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError("a job returns its result, it can't yield")
    try:
        hints = typing.get_type_hints(handler, include_extras=True)
    except Exception as error:  # evaluating an annotation runs code of the user's
        raise ConfigurationError(f"its annotations can't be read ({error})") from error
    payload, context = _parameters(handler, hints)
    if context is not None and inspect.iscoroutinefunction(handler):
        _refuse_blocking_context(hints.get(context))
    if payload is None:
        return HandlerSignature(None, _NO_PAYLOAD_SCHEMA, context is not None)
    adapter, schema = _payload_type(hints.get(payload, dict[str, Any]))
    return HandlerSignature(adapter, schema, context is not None)


def _parameters(
    handler: Callable[..., Any], hints: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """The names of the payload's and of the context's parameter."""
    parameters = list(inspect.signature(handler).parameters.values())
    positional = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) == len(parameters):
        match [(name, _is_context(name, hints)) for name in positional]:
            case []:
                return None, None
            case [(name, True)]:
                return None, name
            case [(name, False)]:
                return name, None
            case [(payload, False), (context, True)]:
                return payload, context
    raise ConfigurationError(
        "a handler takes (), (payload), (ctx: JobContext) or (payload, ctx: JobContext),"
        f" not {inspect.signature(handler)}"
    )


def _is_context(name: str, hints: Mapping[str, Any]) -> bool:
    return bool(_plain_types(hints[name]) & _CONTEXTS) if name in hints else name in _CONTEXT_NAMES


def _plain_types(hint: Any) -> frozenset[Any]:
    """The classes that `hint` stands for, `X | None` taken apart."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return frozenset(typing.get_args(hint)) - {NoneType}
    return frozenset({hint}) if isinstance(hint, type) else frozenset()


def _refuse_blocking_context(hint: Any) -> None:
    if SyncJobContext in _plain_types(hint):
        raise ConfigurationError(
            "an 'async def' handler takes a JobContext; a SyncJobContext would block the loop"
        )


def _payload_type(hint: Any) -> tuple[TypeAdapter[Any], Mapping[str, Any]]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(dict[str, Any] if hint is Any else hint)
        schema = adapter.json_schema()
    except Exception as error:  # building a schema runs hooks of the user's types
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"its payload's type {hint!r} has no JSON schema ({first_line})"
        ) from error
    if schema.get("type") in _NO_OBJECTS:
        raise ConfigurationError(
            "a payload is a JSON object: annotate it with a pydantic model, a dataclass, a"
            f" TypedDict or dict, not {hint!r}"
        )
    return adapter, schema
