"""What transformers have in common as modules: stem, blocks of attention and perceptron, neck, pool, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from sartor.core.errors import SpecError
from sartor.core.protocols import Role
from sartor.models.checkpointing import checkpointed
from sartor.models.stepwise import Stepwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sartor.models.tokens import TokenBlock

NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)


fx.wrap("demand_size")  # a trace keeps the call, for the size is known when it runs


def demand_size(x: Tensor, size: tuple[int, int], kind: str) -> Tensor:
    """The images ``x`` if they have the size that a network is built for; raises SpecError otherwise."""
    if tuple(x.shape[-2:]) != tuple(size):
        given, wanted = ("x".join(map(str, s)) for s in (x.shape[-2:], size))
        raise SpecError(f"{kind}: built for images of {wanted} and given {given}; replace the spec's size")
    return x


class TransformerBackbone(Stepwise):
    """A family registers its layers, says by ``_walk`` where its blocks are, and has a method ``_run_<step>`` for each
    step that is no block. Taps: ``stage1.1.attn``, ``stage1.1.mlp`` …, each branch before it is joined.
    """

    inputs: tuple[str, ...] = ()  # layers that read the image
    readouts: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()  # parameters by the last part of their name
    biases: tuple[str, ...] = ()  # parameters of more than one dimension that are added to what is attended

    def _walk(self, blocks: Mapping[str, str], neck: Sequence[str]) -> None:
        """Take up the blocks (seam -> module path) and the steps after them; give blocks their rate and factor."""
        self._blocks = dict(blocks)
        for index, name in enumerate(blocks):
            self._block(name).drop_rate = self.spec.drop_path * index / max(1, len(blocks) - 1)
            self._block(name).branch_scale = self.spec.branch_scale
        self.steps = ("stem", *blocks, *neck, "pool", "head")
        self.taps = tuple(f"{name}.{part}" for name in blocks for part in self._block(name).parts)

    def advance_tapped(self, step: str, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """A block's branches before they are joined, and its output."""
        block, x, branches = self._block(step), self._enter(step, x), dict[str, Tensor]()
        for part in block.parts:
            branch = branches[f"{step}.{part}"] = block.branch(part, x)
            x = block.join(part, x, branch)
        return branches, x

    def advance(self, step: str, x: Tensor) -> Tensor:
        """One step."""
        if step in self._blocks:
            block, x = self._block(step), self._enter(step, x)
            return checkpointed(block, x) if self.checkpointing and self.training else block(x)
        return getattr(self, f"_run_{step}")(x)  # type: ignore[no-any-return]

    def initialise(self) -> None:
        """Called when the weights are drawn, matrices with one deviation whatever their width.

        Inside a network wider than its base they start smaller, by the root of what the classifier's input is
        multiplied by; the classifier starts as it is (muP, table 8 of arXiv 2203.03466).
        """
        with torch.no_grad():
            for name, role in self.roles().items():
                weight = self.get_parameter(name)
                if role.kind == "hidden" and weight.ndim == 2:
                    weight.mul_(self.spec.readout_scale**0.5)

    def deploy(self) -> Any:
        """Itself, or with factors other than 1 a copy that has them in its weights."""
        spec = self.spec
        if spec.branch_scale == spec.readout_scale == 1.0:
            return self
        factors = {f"{name}.weight": spec.readout_scale for name in self.readouts}
        for name, path in self._blocks.items():
            block = self._block(name)
            for last in (list(layers)[-1] for part, layers in block.parts.items() if part not in block.replacing):
                factors |= dict.fromkeys((f"{path}.{last}.weight", f"{path}.{last}.bias"), spec.branch_scale)
        state = {name: tensor.detach() * factors.get(name, 1) for name, tensor in self.state_dict().items()}
        with torch.device("meta"):
            plain = spec.replace(branch_scale=1.0, readout_scale=1.0).build()
        plain.load_state_dict(state, assign=True)
        return plain.to(next(self.parameters()).device).train(self.training)

    def roles(self) -> dict[str, Role]:
        """The role of every parameter, for parametrisations and weight-decay groups; each branch counts."""
        owner: dict[str, int] = {}
        count = 0
        for name, path in self._blocks.items():
            block = self._block(name)
            for part, layers in block.parts.items():
                if part not in block.replacing:
                    for key, _ in block.named_parameters():
                        if key in layers or key.rpartition(".")[0] in layers:
                            owner[f"{path}.{key}"] = count
                    count += 1
        roles = {}
        for path, module in self.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                kind = self._kind(path, name.rpartition(".")[2], module, parameter)
                roles[name] = Role(kind, owner.get(name, -1), parameter[0].numel(), count)
        return roles

    def _kind(self, path: str, leaf: str, module: nn.Module, parameter: Tensor) -> Any:
        if isinstance(module, NORMS):
            return "norm"
        if leaf in self.embeddings:
            return "embedding"
        if parameter.ndim == 1 or leaf in self.biases:
            return "bias"
        return "input" if path in self.inputs else "readout" if path in self.readouts else "hidden"

    def _sized(self, images: Tensor) -> Tensor:
        """The images, if they have the size of the spec."""
        return demand_size(images, self.spec.size, self.spec.kind)

    def _scaled(self, x: Tensor) -> Tensor:
        """What a classifier reads, with its factor."""
        return x if self.spec.readout_scale == 1.0 else x * self.spec.readout_scale

    def _enter(self, step: str, x: Tensor) -> Tensor:
        """What a block gets of what crosses the seam before it."""
        return x

    def _block(self, name: str) -> TokenBlock:
        return cast("TokenBlock", self.get_submodule(self._blocks[name]))
