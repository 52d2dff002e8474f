"""Many jobs in one request: what clients send, and what they get."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict

from taskflow.jobs.schemas import JobRequest, JobView
from taskflow_api.problems import ItemProblem

MAX_JOBS = 1_000
"""How many jobs a batch may have."""


class BatchEnvelope(BaseModel):
    """A batch at whose jobs nobody has looked yet: each is refused by itself."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]
    atomic: Annotated[bool, Strict()] = False


class BatchRequest(BaseModel):
    """Jobs to run, each by itself or all together."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "jobs": [
                        {"type": "thumbnail", "payload": {"image": "cat.jpg"}},
                        {"type": "thumbnail", "payload": {"image": "dog.jpg"}, "priority": "high"},
                    ]
                },
                {"jobs": [{"type": "echo", "payload": {"text": "hello"}}], "atomic": True},
            ]
        },
    )

    jobs: Annotated[list[JobRequest], Field(min_length=1, max_length=MAX_JOBS)]
    atomic: bool = Field(
        False, description="All jobs in one transaction: if one is refused there is none."
    )


class BatchItem(BaseModel):
    """What became of one job of a batch; it has either a `job` or a `problem`."""

    status: int = Field(description="The status that its submission alone would be answered with.")
    replayed: bool = Field(
        False, description="It was accepted before, by the same Idempotency-Key; here it is again."
    )
    job: JobView | None = None
    problem: ItemProblem | None = None


class BatchView(BaseModel):
    """What became of the jobs of a batch."""

    accepted: int = Field(description="How many items have a job.")
    refused: int = Field(description="How many items have a problem.")
    items: list[BatchItem] = Field(description="One for each job, in their order.")
