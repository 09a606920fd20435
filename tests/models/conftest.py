from dataclasses import replace

import pytest

from sartor.models.anynet import AnyNet


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

    def thin_spec(spec):
        if not isinstance(spec, AnyNet):
            return spec.replace(width=16, depth=3, size=(6, 4))
        size = (16, 16) if max(spec.size) <= 32 else (48, 48)
        stem = replace(spec.stem, width=width(spec.stem.width))
        return spec.replace(stem=stem, stages=tuple(map(thin_stage, spec.stages)), classes=10, size=size)

    return thin_spec
