from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import colours, encoded
from PIL import Image

from sartor.core.errors import SpecError
from sartor.data.preprocess import Preprocess


def test_json_round_trip() -> None:
    made = Preprocess(3, 224, 0.875, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    assert Preprocess.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": 2}, "channels"),
        ({"size": 0}, "size"),
        ({"crop_ratio": 1.5}, "crop_ratio"),
        ({"mean": [0.1]}, "mean must have 3"),
        ({"std": [0.1, 0.0, 0.1]}, "std"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"other": 1}, "other"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Preprocess.from_json({"kind": "image-preprocess", "channels": 3, "size": 8, **change})


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from([1.0, 0.875, 0.5]))
def test_shape_whatever_the_picture(width: int, height: int, channels: int, ratio: float) -> None:
    preprocess = Preprocess(channels, 16, ratio)
    found = preprocess.array(np.zeros((height, width, 3), np.uint8))
    assert found.shape == (channels, 16, 16)
    assert found.dtype == np.uint8


def test_a_square_of_the_right_side_keeps_its_pixels() -> None:
    image = colours(1, 16)[0]
    assert (Preprocess(3, 16).array(image) == image.transpose(2, 0, 1)).all()
    assert (Preprocess(3, 8, 0.5).array(image) == image[4:12, 4:12].transpose(2, 0, 1)).all()


def test_the_stored_square_serves_as_the_file_does() -> None:
    """What makes evaluation on stored pixels equal to evaluation on files."""
    preprocess = Preprocess(3, 14, 0.875)
    for shape in ((37, 20, 3), (20, 37, 3), (16, 16, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        stored = np.ascontiguousarray(preprocess.square(encoded(image)).transpose(1, 2, 0))
        assert (preprocess.array(stored) == preprocess.array(encoded(image))).all()


def test_against_resizing_then_cropping() -> None:
    """The centre square resized in one go is the short side resized, then the centre cut out, up to half a pixel."""
    image = np.asarray(Image.fromarray(colours(1, 6)[0]).resize((60, 40), Image.Resampling.BICUBIC))
    found = Preprocess(3, 20).array(image).astype(int)
    plain = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BICUBIC)).astype(int)[:, 5:25]
    assert np.abs(found - plain.transpose(2, 0, 1)).max() <= 2


def test_squashed_pictures_keep_their_edges() -> None:
    """The whole picture is resized: the coloured ends of an oblong one are there, and its centre square's are not."""
    wide = Image.new("RGB", (40, 10), (0, 0, 0))
    wide.paste((255, 0, 0), (0, 0, 10, 10))
    cropped, squashed = (Preprocess(3, 8, resize=resize).array(wide) for resize in ("crop", "squash"))
    assert cropped.max() == 0
    assert squashed.shape == (3, 8, 8)
    assert squashed[0, :, 0].min() > 200
    assert np.array_equal(squashed, np.asarray(wide.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1))


def test_grey_and_colour_are_converted() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (Preprocess(3, 8).array(grey) == grey).all()
    assert (Preprocess(1, 8).array(np.dstack([grey] * 3)) == grey).all()
    assert (Preprocess(1, 8).array(grey) == Preprocess(1, 8).array(grey[..., None])).all()


def test_crop_takes_tensors() -> None:
    torch = pytest.importorskip("torch")
    squares = torch.arange(2 * 16 * 16).reshape(1, 2, 16, 16)
    assert Preprocess(3, 8, 0.5).crop(squares).equal(squares[..., 4:12, 4:12])


def test_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(colours(1)[0]))
    program = (
        "import sys; from sartor.data.preprocess import Preprocess; "
        f"Preprocess(3, 8).array({str(tmp_path / 'a.png')!r}); print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
