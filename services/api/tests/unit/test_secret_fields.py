"""What a schema marks secret, wherever it says so."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from taskflow.log_setup import REDACTED
from taskflow_api.secret_fields import NO_SECRETS, SecretFields

SECRET = {"type": "string", "writeOnly": True}


class Account(BaseModel):
    user: str
    password: SecretStr


class Letter(BaseModel):
    to: str
    smtp: Account | None = None
    others: list[Account] = []
    headers: dict[str, SecretStr] = {}


def test_what_pydantic_calls_secret_is_hidden() -> None:
    payload = {
        "to": "ada",
        "smtp": {"user": "u", "password": "canary"},
        "others": [{"user": "v", "password": "canary"}],
        "headers": {"a": "canary", "b": "canary"},
    }
    secrets = SecretFields(Letter.model_json_schema())
    assert secrets.hidden_in(payload) == {
        "to": "ada",
        "smtp": {"user": "u", "password": REDACTED},
        "others": [{"user": "v", "password": REDACTED}],
        "headers": {"a": REDACTED, "b": REDACTED},
    }
    assert payload["headers"] == {"a": "canary", "b": "canary"}
    assert secrets.hidden_in({"to": "ada", "smtp": None}) == {"to": "ada", "smtp": None}


@pytest.mark.parametrize(
    ("schema", "payload", "shown"),
    [
        (
            {"properties": {"p": {"format": "password"}}},
            {"p": "x", "q": "y"},
            {"p": REDACTED, "q": "y"},
        ),
        ({"properties": {"p": SECRET}}, {"p": {"deep": ["x"]}}, {"p": REDACTED}),
        ({"properties": {"p": {"writeOnly": False}}}, {"p": "x"}, {"p": "x"}),
        (
            {"properties": {"writeOnly": {"type": "boolean"}}},
            {"writeOnly": True},
            {"writeOnly": True},
        ),
        (
            {"additionalProperties": SECRET, "properties": {"a": {}}},
            {"a": 1, "b": 2},
            {"a": 1, "b": REDACTED},
        ),
        ({"patternProperties": {"^x-": SECRET}}, {"x-a": 1}, {"x-a": REDACTED}),
        ({"properties": {"l": {"items": SECRET}}}, {"l": ["x", "y"]}, {"l": [REDACTED, REDACTED]}),
        (
            {"properties": {"l": {"prefixItems": [{}, SECRET]}}},
            {"l": [1, 2, 3]},
            {"l": [1, REDACTED, 3]},
        ),
        ({"anyOf": [{"properties": {"p": SECRET}}, {}]}, {"p": "x"}, {"p": REDACTED}),
        (
            {"allOf": [{"oneOf": [{"if": {}, "then": {"properties": {"p": SECRET}}}]}]},
            {"p": 1},
            {"p": REDACTED},
        ),
        (
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"properties": {"p": SECRET}}}},
            {"p": 1},
            {"p": REDACTED},
        ),
        (
            {"properties": {"p": SECRET, "next": {"$ref": "#"}}},
            {"next": {"next": {"p": 1}}},
            {"next": {"next": {"p": REDACTED}}},
        ),
        ({"$ref": "#", "properties": {"p": SECRET}}, {"p": 1}, {"p": REDACTED}),
        ({"writeOnly": True}, {"a": 1, "b": {"c": 2}}, {"a": REDACTED, "b": REDACTED}),
        (
            {"properties": {"p": {"$dynamicRef": "#/$defs/a"}}, "$defs": {"a": SECRET}},
            {"p": 1, "q": 2},
            {"p": REDACTED, "q": 2},
        ),
        (
            {"dependencies": {"a": ["p"], "p": {"properties": {"p": SECRET}}}},
            {"a": 1, "p": 2},
            {"a": 1, "p": REDACTED},
        ),
        (
            {"properties": {"l": {"items": [{}, SECRET], "additionalItems": SECRET}}},
            {"l": [1, 2, 3]},
            {"l": [1, REDACTED, REDACTED]},
        ),
        (
            {"properties": {"p": {"$ref": "#/$defs/a"}, "q": SECRET}, "$defs": {"a": True}},
            {"p": 1, "q": 2},
            {"p": 1, "q": REDACTED},
        ),
        ({"properties": {"p": SECRET}}, {"p": None}, {"p": None}),
        ({"properties": {"~/": SECRET}}, {"~/": 1}, {"~/": REDACTED}),
        (
            {"properties": True, "items": 5, "anyOf": {}, "q": [{"format": "password"}]},
            {"p": 1},
            {"p": 1},
        ),
    ],
)
def test_wherever_a_schema_says_so(
    schema: dict[str, Any], payload: dict[str, Any], shown: dict[str, Any]
) -> None:
    assert SecretFields(schema).hidden_in(payload) == shown


@pytest.mark.parametrize(
    "reference",
    ["https://elsewhere/x", "other", "#anchor", "#/$defs/none", "#/$defs/a/allOf/0", "", 5],
)
def test_what_is_referred_to_by_other_means_may_be_marked(reference: object) -> None:
    schema = {"properties": {"p": {"$ref": reference}}, "$defs": {"a": {"allOf": [SECRET]}}}
    assert SecretFields(schema).hidden_in({"p": 1, "q": 2}) == {"p": REDACTED, "q": 2}
    nothing_marked = {"properties": {"p": {"$ref": reference}}}
    assert SecretFields(nothing_marked).hidden_in({"p": 1}) == {"p": 1}


class Unread(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it was looked through")

    def __deepcopy__(self, memo: object) -> "Unread":
        raise AssertionError("it was copied")


@pytest.mark.parametrize(
    "data", [{}, True, {"$ref": "#/$defs/any"}, {"items": {"type": "integer"}}]
)
def test_what_can_hold_no_secret_takes_no_time(data: object) -> None:
    schema = {
        "properties": {"data": data, "deep": {"properties": {"p": SECRET}}},
        "$defs": {"any": {}},
    }
    payload: dict[str, Any] = {"data": Unread([1]), "deep": {"p": "x", "q": Unread([1])}}
    secrets = SecretFields(schema)
    assert secrets.problems_of(payload) == []
    hidden = secrets.hidden_in(payload)
    assert hidden["deep"]["p"] == REDACTED
    assert hidden["data"] is payload["data"]
    assert payload["deep"]["p"] == "x"


def test_a_mark_is_no_value() -> None:
    secrets = SecretFields({"properties": {"a/b": SECRET, "note": {"type": "string"}}})
    assert secrets.problems_of({"a/b": "x", "note": REDACTED}) == []
    ((pointer, detail),) = secrets.problems_of({"a/b": REDACTED})
    assert pointer == "/payload/a~1b"
    assert "isn't shown" in detail
    assert NO_SECRETS.problems_of({"a/b": REDACTED}) == []
