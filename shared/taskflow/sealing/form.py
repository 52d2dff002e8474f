"""What sealed texts look like, for who tells them apart without opening them."""

from typing import LiteralString

SEALED = "taskflow.sealed:1:"
"""Then the key's id, a colon and the content: in base64, or in an object of its own the bytes."""

PLAIN = "taskflow.plain:"
"""Before a text that begins like one of these and is none: whoever wrote it meant nothing by it."""


def sealed_by(text: str) -> str | None:
    """The id of the key that a stored text is sealed with; None if it isn't sealed."""
    return text[len(SEALED) :].partition(":")[0] if text.startswith(SEALED) else None


def json_sealed_by(stored_json: str | None) -> str | None:
    """The same of a JSON document as PostgreSQL writes it."""
    if stored_json is None or not stored_json.startswith('"'):
        return None
    return sealed_by(stored_json[1:])


def sealed_by_sql(column: LiteralString) -> LiteralString:
    """The same of a JSONB column, as an expression of SQL."""
    text = f"{column} #>> '{{}}'"
    return (
        f"CASE WHEN jsonb_typeof({column}) = 'string' AND starts_with({text}, '{SEALED}')"
        f" THEN split_part({text}, ':', 3) END"
    )
