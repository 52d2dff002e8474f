"""What the load generator is asked for, and what it says: lines of JSON between two processes."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict


class Post(BaseModel):
    """One request's own part: its body, and headers on top of those that all have."""

    model_config = ConfigDict(frozen=True)

    body: str
    headers: Mapping[str, str] = {}


class Load(BaseModel):
    """POSTs, each of `posts` in its turn, again and again.

    Without a rate each connection sends its next request when it has the answer to the last one
    (a closed loop); with one they are due at even intervals, whatever the answers do (an open one).
    It ends with `requests` or after `seconds`, whichever comes first.
    """

    model_config = ConfigDict(frozen=True)

    port: int
    path: str
    posts: Sequence[Post]
    headers: Mapping[str, str] = {}
    with_idempotency_keys: bool = False
    connections: int
    requests: int
    seconds: float
    rate: float | None = None


class Sent(BaseModel):
    """What became of it. Times in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    began: float
    ended: float
    statuses: Mapping[int, int]
    cpu_seconds: float
    """What the generator itself has used."""
    due_at: Mapping[str, float] = {}
    """With a rate: when the POST of each job was due, by its id."""
    first_refusal: str = ""
    """The body of the first answer that was no 2xx."""

    @property
    def accepted(self) -> int:
        """How many POSTs were answered 2xx."""
        return sum(count for status, count in self.statuses.items() if status // 100 == 2)

    @property
    def seconds(self) -> float:
        """From the first POST to the last answer."""
        return self.ended - self.began

    @property
    def generator_cores(self) -> float:
        """How much of a core the generator used."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0
