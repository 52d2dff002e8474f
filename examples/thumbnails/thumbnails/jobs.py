"""The job: TASKFLOW_HANDLERS=thumbnails.jobs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from taskflow import Fail, SyncJobContext, job
from taskflow.settings import ObjectStoreSettings, load_settings
from thumbnails.images import UnreadableImage, make_thumbnail
from thumbnails.store import PHOTOGRAPHS, PhotographMissing, PhotographStore

Key = Annotated[str, Field(pattern=rf"^{PHOTOGRAPHS}.+", max_length=1000)]


class Photographs(BaseModel):
    """Which photographs, as keys or as the folder that holds them, and how wide they become."""

    model_config = ConfigDict(extra="forbid")

    images: list[Key] = Field(default_factory=list, max_length=10_000)
    prefix: Key | None = None
    width: int = Field(320, ge=16, le=4096, description="In pixels.")

    @model_validator(mode="after")
    def _images_or_prefix(self) -> "Photographs":
        if bool(self.images) == (self.prefix is not None):
            raise ValueError("give either images or a prefix")
        return self


class Made(BaseModel):
    """A thumbnail; sizes in pixels and bytes."""

    source: str
    key: str
    width: int
    height: int
    bytes: int


class Failed(BaseModel):
    """A photograph that could not be read, and why."""

    source: str
    error: str


class ArtifactNotNamed(Exception):
    """A key of S3 may hold what the name of an artifact must not."""


class Result(BaseModel):
    """What became of each photograph."""

    thumbnails: list[Made]
    failed: list[Failed]


# To decode and scale is work for a processor core, and a decoder can crash on a damaged file: in
# a process of its own it disturbs no other job, and a time-out or a cancel ends it at once.
@job("thumbnails", queue="media", timeout_seconds=600, isolation="process")
def make_thumbnails(payload: Photographs, ctx: SyncJobContext) -> Result:
    """Make thumbnails of photographs in S3; each becomes an artifact of the job."""
    store = PhotographStore(load_settings(ObjectStoreSettings))
    keys = payload.images or list(store.keys(payload.prefix or ""))
    if not keys:
        raise Fail(f"There is nothing below {payload.prefix!r}.")
    result = Result(thumbnails=[], failed=[])
    for number, key in enumerate(keys, start=1):
        try:
            made = _make_one(store, key, payload.width, ctx)
        except (UnreadableImage, PhotographMissing, ArtifactNotNamed) as error:
            ctx.log.warning("not readable", source=key, error=str(error))
            result.failed.append(Failed(source=key, error=f"{type(error).__name__}: {error}"))
        else:
            ctx.log.info("made", **made.model_dump())
            result.thumbnails.append(made)
        ctx.progress(100 * number / len(keys), f"{number} of {len(keys)}")
    if not result.thumbnails:
        raise Fail(f"None of the {len(keys)} photographs could be read.")
    return result


def _make_one(store: PhotographStore, key: str, width: int, ctx: SyncJobContext) -> Made:
    thumbnail = make_thumbnail(store.read(key), width)
    name = key.removeprefix(PHOTOGRAPHS)
    if not name.lower().endswith(thumbnail.suffix):
        name += thumbnail.suffix
    try:
        artifact = ctx.artifacts.put(name, thumbnail.data, thumbnail.content_type)
    except ValueError as error:
        raise ArtifactNotNamed(str(error)) from error
    return Made(
        source=key,
        key=artifact,
        width=thumbnail.width,
        height=thumbnail.height,
        bytes=len(thumbnail.data),
    )
