"""What the search may choose of a recipe: the ingredients a candidate is drawn with beside those of ``quick``.

The first network of every family trains by the default, so that nothing is lost where time is short. Further
candidates are twins of drawn networks: the same network by a recipe in which one or two ingredients are others, so
that halving compares recipes and not networks. What wins a short comparison need not win a long one; therefore all
values are mild.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sartor.core.errors import SartorError
from sartor.core.rng import generator
from sartor.training.optimisers import AdamW
from sartor.training.parametrization import DepthMup
from sartor.training.recipe import Recipe

Change = Callable[[Recipe, Any], Recipe]  # of a recipe, for images of (channels, height, width)
ATTENTION_LR, ATTENTION_DECAY, CLIP = 1e-3, 0.05, 1.0  # of AdamW, for batches of 128
BASE_DEPTH, BASE_WIDTH = 3, 88  # residual branches and last width of the network that the learning rate was found on
_COLOURFUL = 16  # pixels a side from which pictures are changed as photographs are


def _lr(factor: float) -> Change:
    return lambda recipe, image: recipe.replace(lr=factor * recipe.lr)


def _decay(factor: float) -> Change:
    return lambda recipe, image: recipe.replace(weight_decay=factor * recipe.weight_decay)


def _smoothing(value: float) -> Change:
    def changed(recipe: Recipe, image: Any) -> Recipe:
        loss: Any = recipe.loss
        return recipe.replace(loss=replace(loss, smoothing=value))

    return changed


def _augment(photographs: bool = False, **values: Any) -> Change:
    def changed(recipe: Recipe, image: Any) -> Recipe:
        if photographs and (image[0] != 3 or min(image[1:]) < _COLOURFUL):
            return recipe
        return recipe.replace(augment=replace(recipe.augment, **values))

    return changed


def _depth_mup(recipe: Recipe, image: Any) -> Recipe:
    return recipe.replace(parametrization=DepthMup(BASE_DEPTH, BASE_WIDTH))


INGREDIENTS: Mapping[str, Mapping[str, Change]] = {
    "learning rate": {"half": _lr(0.5), "two thirds": _lr(0.67), "half as much again": _lr(1.5)},
    "weight decay": {"half": _decay(0.5), "double": _decay(2.0)},
    "label smoothing": {"none": _smoothing(0.0), "0.1": _smoothing(0.1)},
    "random erasing": {"0.25": _augment(True, erase=0.25, erase_noise=False)},
    "mixing": {
        "mixup 0.1": _augment(mixup=0.1, mix_prob=0.5),
        "cutmix 1": _augment(True, cutmix=1.0, mix_prob=0.25),
    },
    "randaugment": {"light": _augment(True, rand="rand-m3-n1")},
    "parametrization": {"depth-mup": _depth_mup},
}


def default_recipe(recipe: Recipe, attention: bool) -> Recipe:
    """The recipe of a family's first network: for transformers, which SGD trains badly, with AdamW."""
    if not attention:
        return recipe
    return recipe.replace(
        optimiser=AdamW(), lr=ATTENTION_LR, lr_batch=128, lr_scaling="sqrt", weight_decay=ATTENTION_DECAY, clip=CLIP
    )


def drawn_recipe(recipe: Recipe, spec: Any, image: Any, seed: int, *names: str | int) -> tuple[Recipe, tuple[str, ...]]:
    """A recipe that differs in one or two ingredients that suit the network, and what they are, as they are written."""
    rng = generator(seed, "ingredients", *names)
    kinds, wanted, chosen = list(INGREDIENTS), int(rng.integers(1, 3)), list[str]()
    for index in rng.permutation(len(kinds)):
        values = list(INGREDIENTS[kinds[index]])
        value = values[int(rng.integers(len(values)))]
        changed = _changed(recipe, INGREDIENTS[kinds[index]][value], spec, image)
        if changed != recipe:
            recipe, chosen = changed, [*chosen, f"{kinds[index]} {value}"]
        if len(chosen) == wanted:
            break
    return recipe, tuple(chosen)


def _changed(recipe: Recipe, change: Change, spec: Any, image: Any) -> Recipe:
    """The recipe with a change, or as it is where the change does not suit it or the network."""
    try:
        changed = change(recipe, image)
        changed.parametrization.spec_for(spec)
    except SartorError:
        return recipe
    return changed
