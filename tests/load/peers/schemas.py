"""What is posted and what is answered, in Pydantic, as FastAPI's documentation has it."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Echo(BaseModel):
    """What to say."""

    text: str


class Submission(BaseModel):
    """The body of a POST."""

    type: Literal["echo"]
    payload: Echo


class JobView(BaseModel):
    """The answer: 202 and the job."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    type: str
    payload: dict[str, Any]
    state: str
    attempt: int
    created_at: datetime


class Deferred(BaseModel):
    """The answer where the library keeps the job: it gives back no more than a number."""

    id: int
    type: str
    payload: Echo
    state: str = "todo"


class Accepted(BaseModel):
    """The answer where no row is read back."""

    id: uuid.UUID
    type: str
    payload: Echo
    state: str = "queued"
