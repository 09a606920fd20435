"""MAE (He et al. 2022, arXiv 2111.06377): see a quarter of the patches, draw the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from sartor.core.errors import SpecError, TrainingError
from sartor.core.spec import spec_kind
from sartor.models.vision.deit import ViT, ViTBlock
from sartor.pretraining.losses import masked_error
from sartor.pretraining.method import Encoding
from sartor.pretraining.trunk import Trunk
from sartor.training.plan import Batch, Context, Member, Modules

if TYPE_CHECKING:
    from sartor.cost.counters import Size


@spec_kind
@dataclass(frozen=True)
class MAE(Encoding):
    """A share ``hidden`` of the patches is left out before the first block; a small decoder draws them.

    ``width``, ``depth`` and ``heads`` are the decoder's. Vision Transformers only.
    """

    kind: ClassVar[str] = "mae"
    hidden: float = 0.75
    width: int = 512
    depth: int = 8
    heads: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.hidden < 1.0:
            raise SpecError(f"method.hidden is a share of the patches, not {self.hidden}")

    @property
    def views(self) -> int:
        """One."""
        return 1

    def check(self, spec: Any) -> None:
        """Raises TrainingError for other networks."""
        if not isinstance(spec, ViT):
            raise TrainingError(f"method mae: {spec.kind} networks have no patches to leave out; use a ViT")

    def members(self, backbone: Any, classes: int) -> dict[str, Member]:
        """The autoencoder."""
        self.check(backbone.spec)
        return {"model": Member(MaskedAutoencoder(self, backbone))}

    def terms(self, modules: Modules, batch: Batch, context: Context) -> Mapping[str, Tensor]:
        """The error on what was hidden."""
        images = batch["view0"]
        given, hidden = modules["model"](images)
        return {"masked_error": masked_error(given.float(), patches_of(images, patch_side(images, given)), hidden)}


class MaskedAutoencoder(nn.Module):
    """The encoder is the backbone, run from its first seam on the patches that are seen."""

    places: Tensor

    def __init__(self, method: MAE, backbone: Any) -> None:
        super().__init__()
        spec: ViT = backbone.spec
        self.share, self.trunk = method.hidden, Trunk(backbone)
        small = ViT(method.width, method.depth, method.heads, spec.patch, size=spec.size)
        self.embed = nn.Linear(spec.width, method.width)
        self.unseen = nn.Parameter(torch.zeros(1, 1, method.width))
        self.register_buffer("places", waves(spec.grid(spec.size), method.width), persistent=False)
        self.blocks = nn.Sequential(*(ViTBlock(small.block_parts(), small.heads) for _ in range(method.depth)))
        self.norm = nn.LayerNorm(method.width, 1e-6)
        self.draw = nn.Linear(method.width, spec.channels * spec.patch**2)
        for layer in (self.embed, self.draw, *self.blocks.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.unseen, 0.0, 0.02)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is drawn of every patch (n, length, pixels), and 1 for those that were hidden, else 0 (n, length)."""
        tokens = self.trunk.backbone.run(images, stop="stem")
        first, patches = tokens[:, :1], tokens[:, 1:]
        n, length, width = patches.shape
        seen = max(1, round(length * (1.0 - self.share)))
        order = torch.rand(n, length, device=images.device).argsort(1)
        chosen = order[:, :seen, None].expand(-1, -1, width)
        encoded = self.trunk.backbone.run(torch.cat([first, patches.gather(1, chosen)], 1), start="stem", stop="norm")
        x = self.embed(encoded)
        whole = torch.cat([x[:, 1:], self.unseen.to(x.dtype).expand(n, length - seen, -1)], 1)
        back = order.argsort(1)
        places: Any = self.places
        whole = whole.gather(1, back[..., None].expand(-1, -1, whole.shape[2])) + places
        whole = self.blocks(torch.cat([x[:, :1], whole], 1))
        return self.draw(self.norm(whole[:, 1:])), (back >= seen).float()


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Images (n, C, H, W) as patches (n, length, C * patch^2), row by row."""
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def patch_side(images: Tensor, given: Tensor) -> int:
    """The side of a patch, from the number of patches that were drawn."""
    return math.isqrt(images.shape[2] * images.shape[3] // given.shape[1])


def waves(grid: Size, width: int) -> Tensor:
    """Fixed positions (1, area, width): sines and cosines of the row and of the column."""
    frequencies = 1.0 / 10000.0 ** (torch.arange(width // 4) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1)[None]
