from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import colours, encoded, png_claiming
from PIL import Image

from sartor.data.decode import MAX_PIXELS, decode, quiet
from sartor.data.source import BadImage

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    image = colours(1)[0]
    assert (np.asarray(decode(encoded(image, kind))) == image).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind: str) -> None:
    image = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    assert np.abs(np.asarray(decode(encoded(image, kind))).astype(int) - image).max() <= 12


def test_all_kinds_of_raw_agree(tmp_path: Path) -> None:
    image = colours(1)[0]
    file = tmp_path / "picture.txt"  # the content decides
    file.write_bytes(encoded(image))
    for raw in (file, str(file), file.read_bytes(), Image.fromarray(image), image):
        assert (np.asarray(decode(raw)) == image).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a viewer undoes
    stored = Image.fromarray(upright)
    if turns[orientation] is not None:
        stored = stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
        found = np.asarray(decode(saved(stored, kind, exif=exif, **options)))
        assert found.shape == upright.shape, kind
        assert np.abs(found.astype(int) - upright).max() < 40, kind


def test_damaged_exif_does_not_spoil_a_picture() -> None:
    content = encoded(colours(1)[0], "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff broken")
    assert decode(content).size == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    found = decode(encoded(RAMP, kind))
    assert found.mode == "L"
    assert (np.asarray(found) == np.rint(RAMP / 257.0)).all()
    assert (np.asarray(decode(RAMP)) == np.asarray(found)).all()


def test_sixteen_bit_grey_turned_by_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = np.asarray(decode(encoded(RAMP[:4], "PNG", exif=exif)))
    assert found.shape == (8, 4)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_grey(top: float) -> None:
    values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    assert (np.asarray(decode(encoded(values, "TIFF"))) == np.rint(values * (255 / top))).all()


@pytest.mark.parametrize("value", [-1.0, 300.0, np.nan, np.inf])
def test_floating_point_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(BadImage, match="floating-point"):
        decode(encoded(np.full((4, 4), value, np.float32), "TIFF"))


def test_cmyk_becomes_rgb() -> None:
    found = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).reshape(-1, 3).mean(0) - (255, 0, 0)).max() < 8


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    assert (np.asarray(decode(saved(clear))) == 255).all()
    assert decode(saved(half)).mode == "L"
    assert np.abs(np.asarray(decode(saved(half))).astype(int) - 127).max() <= 1


def test_palette_with_transparency_bytes_lies_over_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    found = np.asarray(decode(saved(palette, transparency=bytes([0, 255]))))
    assert found[0, 0].tolist() == [200, 0, 0]
    assert (found[1:] == 255).all()


def test_colour_key_transparency_lies_over_white() -> None:
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    assert (np.asarray(decode(saved(picture, transparency=(1, 2, 3)))) == 255).all()


def test_one_bit_and_grey_stay_grey() -> None:
    assert decode(saved(Image.new("1", (4, 4), 1))).mode == "L"
    assert decode(saved(Image.new("L", (4, 4), 7))).mode == "L"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    found = np.asarray(decode(saved(frames[0], kind, save_all=True, append_images=frames[1:])))
    assert np.abs(found.astype(int) - (255, 0, 0)).max() < 12


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"I am no picture\n" * 20, "not an image"),
    "bomb": (png_claiming(50_000, 50_000), f"more than {MAX_PIXELS:,} pixels"),
    "above the limit, below Pillow's": (png_claiming(10_000, 9_000), f"more than {MAX_PIXELS:,} pixels"),
    "truncated JPEG": (encoded(colours(1, 64)[0], "JPEG")[:2000], "truncated"),
    "truncated PNG": (encoded(colours(1, 64)[0])[:600], "."),
    "header only": (encoded(colours(1)[0], "JPEG")[:30], "."),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_short_reason(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    for raw in (content, file):
        with pytest.raises(BadImage, match=reason) as caught:
            decode(raw)
        assert 0 < len(str(caught.value)) <= 120
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="no such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(BadImage, match=r"Is a directory|Permission"):
        decode(tmp_path)
    with pytest.raises(BadImage, match="not a regular file"):
        decode(os.devnull)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4), np.uint8)],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(BadImage):
        decode(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_random_damage_gives_a_picture_or_a_reason(kind: str) -> None:
    whole = encoded(colours(1, 24)[0], kind)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(0, 256)
        with suppress(BadImage):
            assert decode(bytes(damaged)).mode in ("L", "RGB")


BOMBS = {
    "PNG": png_claiming(50_000, 50_000),
    "WebP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (49_999).to_bytes(3, "little") * 2,
    "GIF": b"GIF89a" + (50_000).to_bytes(2, "little") * 2 + b"\0\0\0,\0\0\0\0" + b"\x50\xc3" * 2 + b"\0\2\2\x4c\1\0;",
    "BMP": b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + (50_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_takes_no_memory(kind: str) -> None:
    """In a process that may have 200 MB more than it needs to import Pillow, where the bomb would take 2.5 GB."""
    pytest.importorskip("resource")
    program = f"""
        import resource
        from sartor.data.decode import decode
        from sartor.data.source import BadImage
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
        try:
            decode({BOMBS[kind]!r})
        except BadImage as reason:
            print(reason)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("the size of a process is read from /proc")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"more than {MAX_PIXELS:,} pixels"
    assert done.stderr == ""


def test_no_warning_escapes_and_filters_come_back() -> None:
    before = list(warnings.filters)
    with pytest.raises(BadImage):
        decode(png_claiming(10_000, 9_000))  # Pillow warns of it
    assert warnings.filters == before


def test_quiet_is_undone_when_threads_overlap() -> None:
    before = list(warnings.filters)
    both, inside = threading.Barrier(2), threading.Event()

    def first() -> None:
        with quiet():
            both.wait()
            inside.wait()

    thread = threading.Thread(target=first)
    thread.start()
    both.wait()
    with quiet():
        inside.set()
        thread.join()
        warnings.warn("unheard", UserWarning, stacklevel=1)
    assert warnings.filters == before
