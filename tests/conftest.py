"""One small job on difficult pictures, run once for all tests that look at what it leaves."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import sartor

SCRIPT, SPACED = "<script>alert(1)<", "zwei Wörter\nund eine Zeile"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Two classes with terrible names, told apart by the brighter side, among files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "photos of mine"
    rng = np.random.default_rng(0)
    for side, name in enumerate((SCRIPT, SPACED)):
        (folder / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 120, (12, 12, 3))
            pixels[:, 6 * side : 6 * side + 6] += 80
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"bild {number}\té.png")
    (folder / "empty class").mkdir()
    spoil(folder / SCRIPT, rng)
    return folder


def spoil(folder, rng):
    """Add four files that cannot be read, and odd ones that can."""
    picture = Image.fromarray(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8))
    picture.save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("not a picture")
    (folder / "nothing.jpg").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (12, 12)).astype(np.uint16)).save(folder / "deep.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)


def bomb():
    """A PNG of a thousand bytes that says it has 50,000 x 50,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def job(pictures, tmp_path_factory):
    """What ``fit`` returns for them within 3,000 parameters."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SARTOR_CACHE", str(tmp_path_factory.mktemp("cache")))
    out = tmp_path_factory.mktemp("runs") / "photos"
    result = sartor.fit(pictures, budget="params<3k", time=12, out=out, families=["resnet", "regnetx"])
    patch.undo()
    return result
