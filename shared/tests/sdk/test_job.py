"""Declaring jobs: what the decorator makes of a function, and what it refuses."""

import dataclasses
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal, Optional
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from taskflow import Backoff, Fail, JobContext, Retry, SyncJobContext, job
from taskflow.errors import ConfigurationError
from taskflow.sdk.errors import InvalidPayload


class Thumbnail(BaseModel):
    image: str
    width: int = 320


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


class Point(TypedDict):
    x: int


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
CONTEXT: Any = object()


def test_a_declared_function_stays_callable_and_knows_its_job_type() -> None:
    @job("media.thumbnail-1_x", queue="media", timeout_seconds=60, max_attempts=5)
    def thumbnail(payload: Thumbnail, ctx: JobContext) -> dict[str, int]:
        """Make it small.

        In detail.
        """
        return {"width": payload.width}

    assert thumbnail(Thumbnail(image="cat.jpg"), CONTEXT) == {"width": 320}
    declared = thumbnail.job_type
    assert (declared.name, declared.queue) == ("media.thumbnail-1_x", "media")
    assert (declared.timeout_seconds, declared.max_attempts) == (60, 5)
    assert declared.isolation is None
    assert declared.backoff == Backoff()
    assert declared.description == "Make it small."
    assert not declared.is_async
    assert declared.where.endswith(
        "test_job.test_a_declared_function_stays_callable_and_knows_its_job_type.<locals>.thumbnail"
    )
    assert declared.payload_schema["required"] == ["image"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        declared.name = "other"  # type: ignore[misc]


async def test_an_async_function_stays_one() -> None:
    @job("a", description="given", isolation="process", backoff=Backoff(base_seconds=3))
    async def work(payload: Point) -> int:
        """Not this."""
        return payload["x"]

    assert inspect.iscoroutinefunction(work)
    assert await work({"x": 4}) == 4
    assert work.job_type.is_async
    assert work.job_type.description == "given"
    assert work.job_type.backoff.base_seconds == 3


def _shapes() -> list[tuple[Callable[..., Any], str, Any, bool]]:  # noqa: C901
    def nothing() -> None: ...
    def payload_only(payload: Thumbnail) -> None: ...
    def any_name(anything: Size) -> None: ...
    def plain_dict(payload: dict) -> None: ...  # type: ignore[type-arg]
    def typed_dict(payload: Point) -> None: ...
    def without_annotation(payload) -> None: ...  # type: ignore[no-untyped-def]
    def with_any(payload: Any) -> None: ...
    def both(payload: Size, ctx: JobContext) -> None: ...
    def both_sync(payload: Size, ctx: SyncJobContext) -> None: ...
    def both_bare(payload, ctx) -> None: ...  # type: ignore[no-untyped-def]
    def context_only(ctx: JobContext) -> None: ...
    def context_only_bare(ctx) -> None: ...  # type: ignore[no-untyped-def]
    def context_by_type(payload: Size, somehow: JobContext) -> None: ...
    def optional_context(payload: Size, ctx: JobContext | None = None) -> None: ...
    def old_optional(payload: Size, ctx: Optional[SyncJobContext] = None) -> None: ...  # noqa: UP045
    def positional(payload: Size, /, ctx: JobContext) -> None: ...
    def union(payload: Pet) -> None: ...
    def a_payload_called_ctx(ctx: Size) -> None: ...

    size, thumbnail = {"width": 2}, {"image": "i"}
    return [
        (nothing, "{}", None, False),
        (nothing, '{"left": "over"}', None, False),
        (payload_only, '{"image": "i"}', Thumbnail(**thumbnail), False),
        (any_name, '{"width": 2}', Size(**size), False),
        (plain_dict, '{"a": [1]}', {"a": [1]}, False),
        (typed_dict, '{"x": 1}', {"x": 1}, False),
        (without_annotation, '{"a": 1}', {"a": 1}, False),
        (with_any, '{"a": 1}', {"a": 1}, False),
        (both, '{"width": 2}', Size(**size), True),
        (both_sync, '{"width": 2}', Size(**size), True),
        (both_bare, '{"a": 1}', {"a": 1}, True),
        (context_only, "{}", None, True),
        (context_only_bare, "{}", None, True),
        (context_by_type, '{"width": 2}', Size(**size), True),
        (optional_context, '{"width": 2}', Size(**size), True),
        (old_optional, '{"width": 2}', Size(**size), True),
        (positional, '{"width": 2}', Size(**size), True),
        (union, '{"kind": "dog"}', Dog(kind="dog"), False),
        (a_payload_called_ctx, '{"width": 2}', Size(**size), False),
    ]


@pytest.mark.parametrize(("function", "payload_json", "payload", "takes_context"), _shapes())
def test_the_shapes_that_a_handler_may_have(
    function: Callable[..., Any], payload_json: str, payload: Any, takes_context: bool
) -> None:
    declared = job("shape")(_copy(function)).job_type
    expected = () if payload is None else (payload,)
    given = declared.arguments(payload_json, CONTEXT)
    assert given == ((*expected, CONTEXT) if takes_context else expected)
    assert declared.payload_schema.get("type", "object") == "object"


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that no other case has declared already."""

    @functools.wraps(function)
    def copied(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return copied


def _refused() -> list[tuple[Callable[..., Any], str]]:  # noqa: C901
    def three(payload: Size, ctx: JobContext, more: int) -> None: ...
    def swapped(ctx: JobContext, payload: Size) -> None: ...
    def two_payloads(one: Size, two: Size) -> None: ...
    def second_by_another_name(payload, other) -> None: ...  # type: ignore[no-untyped-def]
    def variadic(*args: Any) -> None: ...
    def keywords(**kwargs: Any) -> None: ...
    def keyword_only(*, payload: Size) -> None: ...
    def extra_default(payload: Size, ctx: JobContext, times: int = 3) -> None: ...
    def list_payload(payload: list[int]) -> None: ...
    def text_payload(payload: str) -> None: ...
    def number_payload(payload: int) -> None: ...
    def schemaless(payload: Callable[[], int]) -> None: ...
    def foreign(payload: Iterator[object]) -> None: ...
    def unknown(payload: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
    async def blocking_in_loop(payload: Size, ctx: SyncJobContext) -> None: ...
    def generator(payload: Size) -> Iterator[int]:
        yield 1

    async def async_generator(payload: Size) -> AsyncIterator[int]:
        yield 1

    class Instance:
        def __call__(self, payload: Size) -> None: ...

    shape = "a handler takes (), (payload), (ctx: JobContext) or (payload, ctx: JobContext)"
    return [
        (three, shape),
        (swapped, shape),
        (two_payloads, shape),
        (second_by_another_name, shape),
        (variadic, shape),
        (keywords, shape),
        (keyword_only, shape),
        (extra_default, shape),
        (list_payload, "a payload is a JSON object"),
        (text_payload, "a payload is a JSON object"),
        (number_payload, "a payload is a JSON object"),
        (schemaless, "has no JSON schema"),
        (foreign, "has no JSON schema"),
        (unknown, "annotations can't be read (name 'Nowhere' is not defined"),
        (blocking_in_loop, "a SyncJobContext would block the loop"),
        (generator, "can't yield"),
        (async_generator, "can't yield"),
        (Instance(), "only a plain function"),
        (functools.partial(three, more=1), "only a plain function"),
        (Instance, "only a plain function"),
    ]


@pytest.mark.parametrize(("function", "said"), _refused())
def test_a_function_that_can_not_be_a_handler_is_refused_by_name(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        job("refused")(function)
    line = str(refused.value)
    assert said in line
    assert "\n" not in line
    if inspect.isfunction(function):
        assert f"test_job._refused.<locals>.{function.__name__}: " in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": ""}, "'' is not a job type's name"),
        ({"name": "-x"}, "'-x' is not a job type's name"),
        ({"name": "a b"}, "'a b' is not a job type's name"),
        ({"name": "a\n"}, "is not a job type's name"),
        ({"name": "ä"}, "'ä' is not a job type's name"),
        ({"name": "x" * 129}, "is not a job type's name"),
        ({"name": 5}, "5 is not a job type's name"),
        ({"queue": "a.b"}, "'a.b' is not a queue's name"),
        ({"queue": ""}, "'' is not a queue's name"),
        ({"queue": "x" * 65}, "is not a queue's name"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": -1}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": 10**400}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": True}, "timeout_seconds must be above 0"),
        ({"timeout_seconds": "60"}, "timeout_seconds must be above 0"),
        ({"max_attempts": 0}, "max_attempts must be 1 to 1000"),
        ({"max_attempts": 1001}, "max_attempts must be 1 to 1000"),
        ({"max_attempts": 2.0}, "max_attempts must be 1 to 1000"),
        ({"max_attempts": True}, "max_attempts must be 1 to 1000"),
        ({"isolation": "thread"}, "isolation is 'process' or None"),
        ({"memory_mib": 512}, "memory_mib needs isolation='process'"),
        ({"isolation": "process", "memory_mib": 63}, "memory_mib must be 64 to"),
        ({"isolation": "process", "memory_mib": 100.5}, "memory_mib must be 64 to"),
        ({"backoff": Backoff(cap_seconds=1e300)}, "cap_seconds is at most"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    def work() -> None: ...

    arguments = {"name": "fine", **settings}
    with pytest.raises(ConfigurationError) as refused:
        job(arguments.pop("name"), **arguments)(work)
    assert said in str(refused.value)
    assert "<locals>.work: " in str(refused.value)


@pytest.mark.parametrize("name", ["a", "0", "A.b-c_d", "x" * 128])
def test_names_within_the_rule_are_taken(name: str) -> None:
    def work() -> None: ...

    assert job(name)(work).job_type.name == name


def test_one_function_is_one_job() -> None:
    def work() -> None: ...

    job("first")(work)
    with pytest.raises(ConfigurationError, match="it is a job already"):
        job("second")(work)


def test_a_handler_without_payload_takes_an_empty_object_by_its_schema() -> None:
    @job("none")
    def work() -> None: ...

    assert work.job_type.payload_schema == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_an_invalid_payload_names_each_field_and_no_value() -> None:
    @job("many")
    def work(payload: Thumbnail) -> None: ...

    with pytest.raises(InvalidPayload) as refused:
        work.job_type.arguments('{"image": 5, "width": "secret"}', CONTEXT)
    assert str(refused.value) == (
        "/image: Input should be a valid string;"
        " /width: Input should be a valid integer, unable to parse string as an integer"
    )


def test_of_very_many_problems_the_first_are_told() -> None:
    class Numbers(BaseModel):
        numbers: list[int]

    @job("many")
    def work(payload: Numbers) -> None: ...

    with pytest.raises(InvalidPayload) as refused:
        work.job_type.arguments('{"numbers": [' + ",".join(['"x"'] * 500) + "]}", CONTEXT)
    assert "/numbers/9: " in str(refused.value)
    assert "/numbers/10: " not in str(refused.value)
    assert str(refused.value).endswith("; and 490 more")


@pytest.mark.parametrize("delay", [-0.1, float("nan"), float("inf"), 1e300])
def test_a_retry_takes_a_delay_that_a_database_can_hold(delay: float) -> None:
    with pytest.raises(ValueError, match="delay_seconds must be within"):
        Retry("busy", delay_seconds=delay)


def test_retry_and_fail_are_ordinary_exceptions() -> None:
    assert Retry("busy").delay_seconds is None
    assert Retry("busy", 0).delay_seconds == 0
    assert str(Retry("busy", delay_seconds=3)) == "busy"
    assert str(Fail("no")) == "no"
    assert not isinstance(Fail("no"), Retry)
    assert str(uuid4())
