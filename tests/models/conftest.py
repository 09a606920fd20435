from dataclasses import replace

import pytest

SMALL = {
    "vit": {"width": 24, "depth": 3, "heads": 3, "size": (32, 48)},
    "levit": {"widths": (16, 24, 32), "depths": (2, 1, 1), "heads": (2, 3, 2), "key": 8, "size": (96, 112)},
    "residual-mlp": {"width": 16, "depth": 3, "size": (6, 4)},
    "swin": {"width": 12, "depths": (2, 2, 1), "heads": (1, 2, 3), "window": 3, "size": (44, 32)},
    "vit-resnas": {
        "widths": (12, 16, 20),
        "head_dims": (4, 6, 8),
        "heads": ((2, 3), (2,), (3, 1)),
        "hidden": ((16, 20), (24,), (20, 28)),
        "size": (56, 112),
    },
}


@pytest.fixture(scope="session")
def thin():
    """A network of the same blocks with a sixteenth of the widths and at most three a stage, for small images."""

    def width(value, factor=16, least=8):
        return max(least, value // factor)

    def thin_stage(stage):
        block = stage.block
        if getattr(block, "inner", 0):
            block = replace(block, inner=width(block.inner // block.groups, least=1) * block.groups)
        return replace(stage, width=width(stage.width), depth=min(3, stage.depth), block=block)

    def thin_plain(spec):
        units = tuple(replace(unit, width=width(unit.width)) for unit in spec.units)
        return spec.replace(units=units, size=(32, 32) if spec.size == (32, 32) else (64, 64))

    def thin_trees(spec):
        blocks = tuple(replace(b, inner=width(b.inner // b.groups, least=1) * b.groups) for b in spec.blocks)
        return spec.replace(widths=tuple(map(width, spec.widths)), blocks=blocks, size=(48, 48))

    def thin_spec(spec):
        if spec.kind == "dla":
            return thin_trees(spec)
        if spec.kind == "simplenet":
            return thin_plain(spec)
        if spec.kind == "fcn":
            return spec.replace(backbone=thin_spec(spec.backbone), classes=5)
        if spec.kind == "dense-unet":
            harmonic = {"widths": (12, 16, 20)} if spec.widths else {}
            stem = tuple((8, stride) for _, stride in spec.stem)
            return spec.replace(stem=stem, layers=(4, 2, 4), growths=(4, 6, 4), classes=5, size=(32, 48), **harmonic)
        if spec.kind in SMALL:
            return spec.replace(classes=10, **SMALL[spec.kind])
        halves = any(stage.block.kind == "harmonic" for stage in spec.stages)  # a 2x2 pooling wants even maps
        size = (16, 16) if max(spec.size) <= 32 else (64, 64) if halves else (48, 48)
        stem = replace(spec.stem, width=width(spec.stem.width))
        return spec.replace(stem=stem, stages=tuple(map(thin_stage, spec.stages)), classes=10, size=size)

    return thin_spec
