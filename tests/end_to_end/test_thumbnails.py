"""The example: photographs in, thumbnails out, through the running services and the bucket."""

import asyncio
import io
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio
from PIL import Image

from taskflow_testing.job_client import JobClient
from taskflow_testing.object_store import TestBucket
from taskflow_testing.services import Services
from thumbnails.images import UnreadableImage, make_thumbnail

RED, BLUE = (220, 30, 30), (30, 30, 220)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def red_over_blue(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width, height // 2))
    return image


def lying_photograph() -> bytes:
    """A camera held upright: the pixels lie on their side, the orientation says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    exif[0x010F] = "a camera's maker"
    turned = red_over_blue(900, 1200).transpose(Image.Transpose.ROTATE_90)
    return encoded(turned, "JPEG", quality=95, exif=exif)


def logo_with_holes() -> bytes:
    image = Image.new("RGBA", (800, 400), (*RED, 255))
    image.paste((0, 0, 0, 0), (400, 0, 800, 400))
    return encoded(image, "PNG")


def print_colours() -> bytes:
    return encoded(Image.new("CMYK", (640, 480), (255, 255, 0, 0)), "JPEG", quality=95)


def damaged_photograph() -> bytes:
    whole = lying_photograph()
    return whole[: len(whole) // 3]


def is_near(colour: object, other: tuple[int, int, int]) -> bool:
    assert isinstance(colour, tuple)
    return all(abs(one - two) < 60 for one, two in zip(colour[:3], other, strict=True))


@dataclass(frozen=True)
class Bucket:
    """The bucket, as its owner uses it."""

    client: Minio
    name: str

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(
            bucket_name=self.name, object_name=key, data=io.BytesIO(data), length=len(data)
        )

    def image(self, key: str) -> Image.Image:
        with self.client.get_object(bucket_name=self.name, object_name=key) as response:
            return Image.open(io.BytesIO(response.read()))


@pytest.fixture
def bucket(s3: TestBucket) -> Bucket:
    client = Minio(
        endpoint=urlsplit(s3.endpoint).netloc,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        secure=False,
    )
    return Bucket(client, s3.bucket)


@pytest.fixture
def prefix() -> str:
    return f"photographs/{uuid.uuid4().hex}/"


async def test_a_folder_of_photographs_becomes_thumbnails(
    jobs: JobClient, bucket: Bucket, prefix: str
) -> None:
    for name, data in {
        "beach/upright.jpg": lying_photograph(),
        "logo.png": logo_with_holes(),
        "print.jpeg": print_colours(),
        "damaged.jpg": damaged_photograph(),
        "notes.txt": b"not a photograph at all",
    }.items():
        bucket.put(prefix + name, data)

    job = await jobs.submit("thumbnails", {"prefix": prefix, "width": 300})
    job = await jobs.completes(job, timeout=60)

    made = {each["source"].removeprefix(prefix): each for each in job["result"]["thumbnails"]}
    sizes = {name: (each["width"], each["height"]) for name, each in made.items()}
    assert sizes == {
        "beach/upright.jpg": (300, 400),
        "logo.png": (300, 150),
        "print.jpeg": (300, 225),
    }
    upright = bucket.image(made["beach/upright.jpg"]["key"])
    assert (upright.format, upright.mode, upright.size) == ("JPEG", "RGB", (300, 400))
    assert is_near(upright.getpixel((150, 100)), RED)
    assert is_near(upright.getpixel((150, 300)), BLUE)
    assert not upright.getexif()
    logo = bucket.image(made["logo.png"]["key"])
    assert (logo.format, logo.getpixel((290, 75))) == ("PNG", (0, 0, 0, 0))
    assert logo.getpixel((10, 75)) == (*RED, 255)
    printed = bucket.image(made["print.jpeg"]["key"])
    assert printed.mode == "RGB"
    assert is_near(printed.getpixel((100, 100)), (0, 0, 255))

    failed = {each["source"].removeprefix(prefix) for each in job["result"]["failed"]}
    assert failed == {"damaged.jpg", "notes.txt"}
    assert job["progress"] == {"percent": 100.0, "message": "5 of 5"}
    log = await jobs.log_has(job, "notes.txt")
    assert log.count("not readable") == 2


async def test_named_photographs_alone_are_made_into_thumbnails(
    jobs: JobClient, bucket: Bucket, prefix: str
) -> None:
    bucket.put(f"{prefix}one.png", encoded(red_over_blue(40, 40), "PNG"))
    bucket.put(f"{prefix}two.png", encoded(red_over_blue(40, 40), "PNG"))
    images = [f"{prefix}one.png", f"{prefix}missing.png"]
    job = await jobs.completes(await jobs.submit("thumbnails", {"images": images}), timeout=60)
    (made,) = job["result"]["thumbnails"]
    # Nothing is made larger than it was.
    assert (made["source"], made["width"], made["height"]) == (images[0], 40, 40)
    assert [each["source"] for each in job["result"]["failed"]] == images[1:]


async def test_a_folder_without_a_readable_photograph_fails_for_good(
    jobs: JobClient, bucket: Bucket, prefix: str
) -> None:
    bucket.put(f"{prefix}damaged.jpg", damaged_photograph())
    job = await jobs.submit("thumbnails", {"prefix": prefix})
    job = await jobs.reaches(job, "failed", timeout=60)
    assert job["attempt"] == 1
    assert job["error"]["message"] == "None of the 1 photographs could be read."
    await jobs.log_has(job, "damaged.jpg")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"prefix": "logs/"},
        {"images": ["artifacts/of/others.jpg"]},
        {"prefix": "photographs/a/", "images": ["photographs/a/b.jpg"]},
        {"prefix": "photographs/a/", "width": 0},
    ],
    ids=str,
)
async def test_a_payload_that_asks_for_anything_else_does_not_run(
    jobs: JobClient, payload: dict[str, object]
) -> None:
    answer = await jobs.http.post("/api/v1/jobs", json={"type": "thumbnails", "payload": payload})
    if answer.status_code == 422:
        return
    # What no JSON schema can say is found by the handler's own model.
    job = await jobs.reaches(answer.json(), "failed", timeout=60)
    assert job["attempt"] == 1


async def test_the_script_brings_a_folder_there_and_back(
    services: Services, tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    (folder / "day one").mkdir(parents=True)
    (folder / "day one" / "sea.jpg").write_bytes(lying_photograph())
    (folder / "logo.png").write_bytes(logo_with_holes())
    (folder / "broken.jpg").write_bytes(damaged_photograph())
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "thumbnails", str(folder), "--width", "100", "--out", "out"),
        cwd=tmp_path,
        env=services.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(script.communicate(), 60)
    said = output.decode()
    assert script.returncode == 0, said
    assert "broken.jpg" in said
    with Image.open(tmp_path / "out" / "day one" / "sea.jpg") as sea:
        assert sea.size == (100, 133)
    with Image.open(tmp_path / "out" / "logo.png") as logo:
        assert (logo.size, logo.mode) == ((100, 50), "RGBA")


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"", 100),
        (b"GIF89a", 100),
        (lying_photograph()[:-1000], 100),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), 100),
    ],
    ids=["empty", "header-alone", "cut-at-the-end", "bomb"],
)
def test_what_cannot_be_decoded_is_said(data: bytes, width: int) -> None:
    with pytest.raises(UnreadableImage):
        make_thumbnail(data, width)


@pytest.mark.parametrize(
    ("image", "kind", "suffix"),
    [
        (lambda: Image.new("P", (200, 100)), "GIF", ".jpg"),
        (lambda: Image.new("L", (200, 100)), "TIFF", ".jpg"),
        (lambda: Image.new("LA", (200, 100)), "PNG", ".png"),
        (lambda: Image.new("1", (200, 100)), "BMP", ".jpg"),
        (lambda: Image.new("RGB", (5000, 2)), "WEBP", ".jpg"),
    ],
)
def test_every_kind_of_image_is_taken(
    image: Callable[[], Image.Image], kind: str, suffix: str
) -> None:
    made = make_thumbnail(encoded(image(), kind), 50)
    assert (made.width, made.suffix) == (50, suffix)
    assert made.height >= 1
