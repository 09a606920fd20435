"""Small pictures with masks in every layout: squares of a class's colour on a background."""

import numpy as np
from PIL import Image


def scene(rng, size=(24, 32), classes=3):
    """A picture whose background is class 0 and which has one square of every other class, and its mask."""
    mask = np.zeros(size, np.uint8)
    for label in range(1, classes):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        mask[y : y + 8, x : x + 8] = label
    image = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
    for label in range(1, classes):
        image[mask == label, (label - 1) % 3] += 180
    return image, mask


def write_scenes(root, counts, layout="annot", size=(24, 32), void=0, suffix=".png"):
    """Write so many scenes for each split in a layout; the first ``void`` columns get the value 11."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for i in range(count):
            image, mask = scene(rng, size)
            mask[:, :void] = 11
            inside = {
                "annot": (f"{split}/{split}_{i}{suffix}", f"{split}annot/{split}_{i}.png"),
                "two": (f"images/{split}/{split}_{i}{suffix}", f"masks/{split}/{split}_{i}.png"),
                "inside": (f"{split}/images/{i}{suffix}", f"{split}/masks/{i}.png"),
                "flat": (f"images/{split}_{i}{suffix}", f"masks/{split}_{i}.png"),
                "beside": (f"{split}/{i % 2}/{i}{suffix}", f"{split}/{i % 2}/{i}_mask.png"),
            }[layout]
            for name, array in zip(inside, (image, mask), strict=True):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


COUNTS = {"train": 12, "val": 4, "test": 4}
