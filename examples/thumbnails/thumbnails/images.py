"""From the bytes of a photograph to the bytes of a thumbnail; Pillow, and nothing of TaskFlow."""

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

JPEG_QUALITY = 85

# A damaged file can make a decoder raise nearly any of these.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


class UnreadableImage(Exception):
    """The bytes are no image that Pillow can read, or too large a one; the text says which."""


@dataclass(frozen=True)
class Thumbnail:
    """An encoded image; sizes in pixels."""

    data: bytes
    width: int
    height: int
    suffix: str
    content_type: str


def make_thumbnail(photograph: bytes, width: int) -> Thumbnail:
    """Scale a photograph down to `width` pixels, upright; a narrower one keeps its size.

    What is transparent stays so, as PNG; everything else becomes an RGB JPEG. No metadata is
    kept: it may tell where a photograph was taken.

    Raises:
        UnreadableImage: it can't be decoded.
    """
    with warnings.catch_warnings():
        # Pillow only warns of an image that takes gigabytes when it is decoded.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(photograph)) as image:
                # A JPEG can be decoded at an eighth of its size in an eighth of the time.
                image.draft(None, (2 * width, 2 * width))
                upright = ImageOps.exif_transpose(image)
                return _encode(_scale(_plain(upright), width))
        except UnidentifiedImageError:
            raise UnreadableImage("it is no image of a kind that is known") from None
        except (*_DAMAGED, Image.DecompressionBombWarning) as error:
            raise UnreadableImage(str(error) or type(error).__name__) from error


def _plain(image: Image.Image) -> Image.Image:
    """In RGB, or in RGBA where it has transparency; a palette, CMYK and grey come to these."""
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _scale(image: Image.Image, width: int) -> Image.Image:
    if image.width <= width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _encode(image: Image.Image) -> Thumbnail:
    encoded = io.BytesIO()
    if image.mode == "RGBA":
        suffix, content_type = ".png", "image/png"
        image.save(encoded, "PNG", optimize=True, exif=b"")
    else:
        suffix, content_type = ".jpg", "image/jpeg"
        image.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True, exif=b"")
    return Thumbnail(encoded.getvalue(), image.width, image.height, suffix, content_type)
