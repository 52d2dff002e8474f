"""What is submitted, and what has to come back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskflow_bench.load import Post

TEXT = "x" * 100


@dataclass(frozen=True)
class Work:
    """Posts, each in its turn; `text` is that of every job's result (None: it has none)."""

    posts: Sequence[Post]
    text: str | None


def post(
    type_: str,
    payload: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Post:
    """A submission; `members` are the job's others, as `queue`."""
    job = {"type": type_, "payload": payload, **members}
    return Post(body=json.dumps(job, separators=(",", ":")), headers=headers or {})


ECHO = Work([post("echo", {"text": TEXT})], TEXT)
"""What every contestant does."""
