"""From a file, its bytes, a Pillow image or an array to an upright 8-bit picture, safely.

The content decides the format, never the name. Only formats that Pillow reads by itself are tried (no PostScript).
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sartor.data.source import BadImage, Pixels

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte at three bytes a pixel; beyond it Pillow warns too
MAX_BYTES = 512 * 2**20  # of one file
_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_GREY = ("L", "LA", "1")
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # keys of Image.info that may turn it
_ORIENTATION = 0x0112


def decode(raw: Any) -> Image.Image:
    """An upright picture of mode "L" or "RGB".

    ``raw`` is a path, bytes, a Pillow image, or an array HW or HWC (uint8 with 1 to 4 channels, or uint16 HW). EXIF
    orientation is applied; of an animation the first frame is taken; transparency is laid over white; 16-bit grey
    is scaled so that 65535 becomes 255; CMYK and palettes become RGB. Raises BadImage with a short reason for
    anything else, and for pictures of more than ``MAX_PIXELS`` pixels before their pixels are allocated.
    """
    if isinstance(raw, BadImage):
        raise raw
    with quiet():
        try:
            if isinstance(raw, np.ndarray):
                return _eight_bit(_from_array(raw))
            if isinstance(raw, Image.Image):
                return _finish(raw)
            if isinstance(raw, bytes | bytearray | memoryview):
                return _open(BytesIO(raw), len(raw))
            with open(raw, "rb") as file:
                return _open(file, _checked_size(file))
        except BadImage:
            raise
        except FileNotFoundError:
            raise BadImage("no such file") from None
        except UnidentifiedImageError:
            raise BadImage("not an image of a known format") from None
        except Image.DecompressionBombError:
            raise BadImage(_TOO_LARGE) from None
        except MemoryError:
            raise BadImage("does not fit in memory") from None
        except Exception as error:  # on damaged files Pillow's readers raise almost anything
            raise BadImage(_reason(error)) from None


class _Quiet:
    """Whoever is inside hears no warnings; counted, because ``catch_warnings`` by itself mixes up threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[None] | None = None

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filters is not None:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """No warning of Pillow's escapes from here; entering again inside costs next to nothing."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _checked_size(file: IO[bytes]) -> int:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a regular file")
    return status.st_size


def _open(file: IO[bytes], size: int) -> Image.Image:
    if size == 0:
        raise BadImage("empty file")
    if size > MAX_BYTES:
        raise BadImage(f"file of {size:,} bytes; at most {MAX_BYTES:,} are read")
    return _finish(Image.open(file, formats=_formats()))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(_TOO_LARGE)
    if width * height == 0:
        raise BadImage("no pixels")


def _finish(picture: Image.Image) -> Image.Image:
    _check_pixels(picture.width, picture.height)
    picture.load()
    return _eight_bit(_upright(picture))


def _upright(picture: Image.Image) -> Image.Image:
    if not any(key in picture.info for key in _ORIENTED):
        return picture
    try:
        turned = picture.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # a damaged EXIF block does not spoil the picture
        return picture
    return ImageOps.exif_transpose(picture) if turned else picture


def _eight_bit(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode.startswith(("I", "F")):
        return Image.fromarray(_grey_levels(np.asarray(picture)))
    if mode in _ALPHA or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        picture = Image.new("RGBA", picture.size, "white")
        picture.alpha_composite(coloured)
    target = "L" if mode in _GREY else "RGB"
    return picture if picture.mode == target else picture.convert(target)


def _grey_levels(values: np.ndarray[Any, Any]) -> Pixels:
    """8-bit grey of 16-bit (0 to 65535) or floating-point (0 to 1, or 0 to 255) grey."""
    if values.dtype.kind == "f":
        top = 1.0 if values.size and np.nanmax(values) <= 1.0 else 255.0
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
            raise BadImage("floating-point pixels outside 0 to 1 and 0 to 255")
        return np.rint(values * (255.0 / top)).astype(np.uint8)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("grey levels outside 0 to 65535")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not ((array.ndim == 3 and array.shape[2] in (2, 3, 4)) or array.ndim == 2):
        raise BadImage(f"an array of shape {array.shape} is not an image; give height x width (x channels)")
    _check_pixels(array.shape[1], array.shape[0])
    if array.dtype == np.uint16 and array.ndim == 2:
        return Image.fromarray(_grey_levels(array))
    if array.dtype != np.uint8:
        raise BadImage(f"an array of {array.dtype} is not an image; give uint8")
    return Image.fromarray(np.ascontiguousarray(array))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if isinstance(error, OSError | SyntaxError) and text else f"{type(error).__name__}: {text}")[:120]
