"""ImageNet-21K Pretraining for the Masses (Ridnik et al. 2021, arXiv 2104.10972): its tree, its loss, its claim."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.core.rng import seed_of
from sartor.core.spec import Json, digest
from sartor.data.hierarchy import Hierarchy, read_hierarchy
from sartor.data.label_tree import LabelTree, label_tree
from sartor.data.preprocess import Preprocess
from sartor.data.source import Indices
from sartor.models.anynet import AnyNet, Stage, Stem
from sartor.models.network import build
from sartor.models.vision.resnet import Basic
from sartor.reproduce.cifar import DATA, SIDE, CifarSubset, Examples, PooledImages
from sartor.reproduce.reproduction import Conditions, Part, Reproduction, Result
from sartor.reproduce.statistics import Estimate, difference
from sartor.reproduce.trials import gathered
from sartor.search.design_space_training import opened
from sartor.training.augment.pipeline import Augment
from sartor.training.classification import plan_for, spec_for
from sartor.training.loop import run
from sartor.training.losses.classification import CrossEntropy
from sartor.training.losses.semantic import MultiLabel, SemanticCrossEntropy, SemanticSoftmax, semantic_distance
from sartor.training.optimisers import SGD, Adam
from sartor.training.plan import Numerics
from sartor.training.recipe import Recipe
from sartor.training.schedules import Cosine, OneCycle

FINE = {  # CIFAR-10's classes in their order, as WordNet's synsets
    "airplane": "n02691156", "automobile": "n02958343", "bird": "n01503061", "cat": "n02121620", "deer": "n02430045",
    "dog": "n02084071", "frog": "n01639765", "horse": "n02374451", "ship": "n04194289", "truck": "n04490091",
}  # fmt: skip
COARSE = {  # where branches meet above them: craft, motor vehicle, vertebrate, carnivore, ungulate
    "n03125870": ("airplane", "ship"), "n03791235": ("automobile", "truck"), "n01471682": ("bird", "frog"),
    "n02075296": ("cat", "dog"), "n02370806": ("deer", "horse"),
}  # fmt: skip
LOSSES = ("semantic softmax", "single-label softmax", "multi-label")
SPLIT = CifarSubset(700, 200)  # of each class 500 images to pretrain on, 200 to transfer to, 200 to test
PRETRAINED, EPOCHS, TUNED = 500, 20, 5
EVERY = 3  # of the pretraining images, every third has the coarse class as its label
EXPECTED = 0.01
PLAIN = Preprocess(3, SIDE)  # the paper does not normalise by mean and deviation
# Classes of ImageNet-21K-P by depth, and the weights of the levels that the loss uses.
DEPTHS = [296, 1275, 2095, 2609, 2190, 1289, 694, 337, 214, 156, 60, 6]
WEIGHTS = [1, 1.0271, 1.1628, 1.4852, 2.2687, 4.0715, 7.6489, 14.5162, 20, 20, 20]
_SUN = "n09450163"  # the one class that the public list of pairs lacks
_TOY = LabelTree(tuple("0123456789"), (-1, -1, 0, 0, 1, 2, 2, 4, 5, 5), 10)


@dataclass(frozen=True)
class Pretraining:
    """One pretraining with one loss and its transfer."""

    loss: str
    seed: int
    subset: CifarSubset
    pretrained: int
    epochs: float
    tuned: float

    @property
    def name(self) -> str:
        """Differs for whatever else differs."""
        values = [self.loss, self.subset.train, self.subset.test, self.pretrained, self.epochs, self.tuned]
        return f"{self.loss.replace(' ', '-')}-{self.seed}-{digest(values, 8)}"


def hierarchy_file() -> str:
    """WordNet's synsets above CIFAR-10's classes, as lines of child and parent."""
    return str(files("sartor.reproduce").joinpath("cifar10.tsv"))


def loss_of(name: str) -> SemanticSoftmax | MultiLabel | CrossEntropy:
    """A loss by its name in the tables."""
    if name == "semantic softmax":
        return SemanticSoftmax(hierarchy_file())
    return MultiLabel(hierarchy_file()) if name == "multi-label" else CrossEntropy(0.2)


def network(classes: int) -> AnyNet:
    """A ResNet of three blocks, 16, 48 and 128 wide, for 16x16 images."""
    stages = tuple(Stage(Basic(), 1, width, 1 if n == 0 else 2) for n, width in enumerate((16, 48, 128)))
    return AnyNet(Stem(16), stages, classes=classes, size=(SIDE, SIDE))


def pretraining_recipe(loss: str, epochs: float) -> Recipe:
    """The paper's Adam and one cycle at ten times its learning rate, from random weights; shifts and flips."""
    return Recipe(
        name="pretraining", epochs=epochs, batch=40, optimiser=Adam(), lr=3e-3, lr_scaling="none",
        schedule=OneCycle(0.1, 20.0), weight_decay=1e-4, loss=loss_of(loss),
        augment=Augment(crop="pad", pad=2, flip=0.5),
    )  # fmt: skip


def tuning_recipe(epochs: float) -> Recipe:
    """A short training of all weights with a new classifier."""
    return Recipe(
        name="tuning", epochs=epochs, batch=40, optimiser=SGD(), lr=0.02, lr_scaling="none", schedule=Cosine(),
        weight_decay=1e-4, augment=Augment(crop="pad", pad=2, flip=0.5),
    )  # fmt: skip


@lru_cache(maxsize=2)
def parts_of(subset: CifarSubset, pretrained: int) -> tuple[PooledImages, PooledImages]:
    """The task to pretrain on, with coarse labels for every third image, and the one to transfer to."""
    whole = opened(subset)
    train, test = whole.split("train"), whole.split("test")
    rank = np.empty(len(train), np.int64)
    for label in range(len(FINE)):
        own = np.flatnonzero(train.labels == label)
        rank[own] = np.arange(len(own))
    first = np.flatnonzero(rank < pretrained)
    labels = train.labels[first].copy()
    vague = rank[first] % EVERY == 0
    labels[vague] = coarse_of()[labels[vague]]
    names = (*FINE.values(), *COARSE)
    mark = hashlib.sha256(labels.tobytes()).hexdigest()[:12] + whole.fingerprint[:12]
    pretraining = PooledImages(names, {"train": Examples(train.images[first], labels), "test": test}, mark, PLAIN)
    rest = np.flatnonzero(rank >= pretrained)
    transfer = PooledImages(
        tuple(FINE), {"train": Examples(train.images[rest], train.labels[rest]), "test": test}, mark, PLAIN
    )
    return pretraining, transfer


def coarse_of() -> Indices:
    """The index of the coarse class of each fine one."""
    above = {name: len(FINE) + n for n, names in enumerate(COARSE.values()) for name in names}
    return np.array([above[name] for name in FINE])


def measured(job: Pretraining) -> Json:
    """Pretrain, then judge: the ten classes as they are, a linear probe, and a short tuning of all weights."""
    pretraining, transfer = parts_of(job.subset, job.pretrained)
    recipe = pretraining_recipe(job.loss, job.epochs)
    spec = spec_for(recipe, network(len(pretraining.classes)), pretraining.classes)
    backbone = _trained(build_seeded(spec, job.seed), recipe, pretraining, job.seed)
    test = pretraining.split("test")
    fine = _logits(backbone, test.images)[:, : len(FINE)].argmax(1).numpy()
    states = {name: _states(backbone, transfer.split(name).images) for name in ("train", "test")}
    tuned = _trained(with_new_head(backbone, job.seed), tuning_recipe(job.tuned), transfer, job.seed)
    return {
        "loss": job.loss,
        "seed": job.seed,
        "fine": float((fine == test.labels).mean()),
        "probe": probed(states["train"], transfer.split("train").labels, states["test"], test.labels),
        "tuned": float((_logits(tuned, test.images).argmax(1).numpy() == test.labels).mean()),
    }


def build_seeded(spec: Any, seed: int) -> nn.Module:
    """The network with initial weights of the seed; those before the classifier do not depend on the outputs."""
    torch.manual_seed(seed_of(seed, "weights"))
    seeded: nn.Module = build(spec)
    return seeded


def with_new_head(backbone: nn.Module, seed: int) -> nn.Module:
    """A network for the ten classes with the backbone's weights and a random classifier."""
    fresh = build_seeded(network(len(FINE)), seed)
    roles = backbone.roles()  # type: ignore[operator]
    heads = {name.rpartition(".")[0] for name, role in roles.items() if role.kind == "readout"}
    state = {name: t for name, t in backbone.state_dict().items() if name.rpartition(".")[0] not in heads}
    fresh.load_state_dict(state, strict=False)
    return fresh


def _trained(backbone: nn.Module, recipe: Recipe, task: PooledImages, seed: int) -> nn.Module:
    plan = plan_for(
        recipe, backbone, task.split("train"), task.preprocess, seed=seed, numerics=Numerics("float32", True),
        identity={"task": task.fingerprint}, classes=task.classes,
    )  # fmt: skip
    return run(plan).network


@torch.no_grad()
def _logits(backbone: nn.Module, images: np.ndarray) -> Tensor:
    return torch.cat([backbone(torch.from_numpy(part).float() / 255.0) for part in _pieces(images)])


@torch.no_grad()
def _states(backbone: nn.Module, images: np.ndarray) -> Tensor:
    """What crosses the last seam, which the classifier reads (n, width)."""
    seam = backbone.seams[-1].name  # type: ignore[union-attr,index]
    batches = (torch.from_numpy(part).float() / 255.0 for part in _pieces(images))
    return torch.cat([backbone.run(x, stop=seam) for x in batches])  # type: ignore[operator]


def _pieces(images: np.ndarray) -> list[np.ndarray]:
    return np.array_split(images, max(1, len(images) // 250))


def probed(train: Tensor, labels: Indices, test: Tensor, wanted: Indices, decay: float = 1e-3) -> float:
    """The accuracy of a logistic regression on standardised features (n, d), with L2 ``decay``."""
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = ((x - mean).div(deviation).double() for x in (train, test))
    target, weight = torch.from_numpy(labels), torch.zeros(train.shape[1] + 1, len(FINE), dtype=torch.float64)
    weight.requires_grad_()
    solver = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(train @ weight[1:] + weight[0], target) + decay * weight[1:].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    answers = (test @ weight[1:].detach() + weight[0].detach()).argmax(1).numpy()
    return float((answers == wanted).mean())


def pretraining(conditions: Conditions) -> Result:
    """The three losses on labels of two depths, and what their weights are worth elsewhere."""
    sizes = (CifarSubset(12, 4), 8, 1.0, 1.0) if conditions.quick else (SPLIT, PRETRAINED, EPOCHS, TUNED)
    seeds = range(1 if conditions.quick else conditions.seeds)
    jobs = [Pretraining(loss, seed, *sizes) for seed in seeds for loss in LOSSES]
    records = gathered({job.name: job for job in jobs}, measured, conditions, _line)
    found = {
        (loss, what): [records[job.name][what] for job in jobs if job.loss == loss]
        for loss in LOSSES
        for what in ("fine", "probe", "tuned")
    }
    gaps = {what: difference(found[LOSSES[0], what], found[LOSSES[1], what]) for what in ("probe", "tuned", "fine")}
    gap = gaps["probe"]
    reached = "is" if gap.mean >= EXPECTED else "is not"
    return Result(
        f"Semantic softmax less single-label softmax, in points (n = {gap.n}: mean ± deviation and 95 % interval): "
        f"linear probe {gap.text(1, 100)}, tuned {gaps['tuned'].text(1, 100)}, the ten classes right after pretraining "
        f"{gaps['fine'].text(1, 100)}. The rule is that the probe's mean is not below 0; the expected gain of a point "
        f"{reached} there.",
        passed=gap.mean >= 0,
        tables={
            "Accuracy % on the test images": [
                {
                    "loss": loss,
                    "ten classes after pretraining": Estimate.of(found[loss, "fine"]).text(1, 100),
                    "linear probe on other images": Estimate.of(found[loss, "probe"]).text(1, 100),
                    "tuned on other images": Estimate.of(found[loss, "tuned"]).text(1, 100),
                }
                for loss in LOSSES
            ]
        },
        data={"trials": list(records.values()), "differences": {what: g.to_json() for what, g in gaps.items()}},
    )


def _line(record: Json) -> str:
    shares = ", ".join(f"{what} {100 * record[what]:.1f} %" for what in ("fine", "probe", "tuned"))
    return f"{record['loss']}, seed {record['seed']}: {shares}"


def tree(conditions: Conditions) -> Result:
    """The levels of ImageNet-21K-P and what the loss must equal."""
    checks = {**_toy(), **_equalities(), **_cifar_tree(), **_imagenet()}
    wrong = [name for name, right in checks.items() if right is False]
    missing = [name for name, right in checks.items() if right is None]
    return Result(
        f"Wrong: {', '.join(wrong) or 'none'}."
        + (f" Not checked, as labels/ below {DATA} has no lists: {', '.join(missing)}." if missing else ""),
        passed=not wrong,
        tables={
            "Facts": [
                {"fact": name, "holds": {True: "yes", False: "no", None: "not checked"}[right]}
                for name, right in checks.items()
            ]
        },
        data={"wrong": wrong},
    )


def _toy() -> dict[str, bool | None]:
    levels, last = _TOY.levels(), _TOY.levels(include_last=True)
    return {
        "toy tree: levels [0, 1], [2, 3, 4], [5, 6, 7]": [levels.members(i).tolist() for i in range(3)]
        == [[0, 1], [2, 3, 4], [5, 6, 7]],
        "toy tree: weights 1, 1.25, 2, 5": last.weights.tolist() == [1, 1.25, 2, 5],
        "toy tree: classes of 8, 3, 7, 1 by level": levels.path[[8, 3, 7, 1]].tolist()
        == [[0, 2, 5], [0, 3, -1], [1, 4, 7], [1, -1, -1]],
    }


def _equalities() -> dict[str, bool | None]:
    torch.manual_seed(0)
    logits, label = torch.randn(6, 10, dtype=torch.float64), torch.tensor([8, 3, 7, 1, 0, 5])
    flat = LabelTree(tuple("0123456789"), (-1,) * 10, 10).levels(include_last=True)
    ours = SemanticCrossEntropy(flat, 0.2)(logits, {"label": label})
    plain = F.cross_entropy(logits, label, label_smoothing=0.2)
    levels = _TOY.levels()
    zero = SemanticCrossEntropy(levels, 0.0)(torch.zeros(6, 10, dtype=torch.float64), {"label": label})
    reached = (levels.path[label.numpy()] >= 0) * levels.weights * np.log(levels.sizes)
    return {
        "a flat tree gives smoothed cross-entropy": bool(abs(ours - plain) < 1e-12),
        "logits of 0 give the sum of W ln K over the levels reached": bool(abs(zero - reached.sum(1).mean()) < 1e-12),
        "a network is at distance 0 from itself": float(semantic_distance(logits, logits, levels)) == 0.0,
    }


def _cifar_tree() -> dict[str, bool | None]:
    given = read_hierarchy(hierarchy_file())
    found = label_tree(given, [*FINE.values(), *COARSE])
    right = all(found.parents[fine] == coarse for fine, coarse in enumerate(coarse_of().tolist()))
    return {"WordNet puts each of CIFAR-10's classes right below its coarse class": right}


def _imagenet() -> dict[str, bool | None]:
    names = {
        "ImageNet-21K-P: 12 depths of 296 to 6 classes": DEPTHS,
        "ImageNet-21K-P: weights 1 to 20 of 11 levels": WEIGHTS,
        "ImageNet-21K-P: a pug is a dog, eight classes up to an animal": None,
    }
    folder = Path(os.environ.get(DATA, "")).expanduser() / "labels"
    if not (folder / "imagenet21k_miil_synsets.txt").exists():
        return dict.fromkeys(names)
    given = read_hierarchy(folder / "imagenet_is_a.txt")
    classes = (folder / "imagenet21k_miil_synsets.txt").read_text().split()
    found = label_tree(Hierarchy({**given.parents, _SUN: ()}, {}), classes)
    pug = [classes[c] for c in found.chain(classes.index("n02110958"))]
    close = np.abs(found.levels().weights - np.array(WEIGHTS)).max() < 5e-5
    holds = [np.bincount(found.depths).tolist() == DEPTHS, bool(close), _is_pug(pug)]
    return dict(zip(names, holds, strict=True))


def _is_pug(chain: Sequence[str]) -> bool:
    return (len(chain), chain[1], chain[-1]) == (8, "n02084071", "n00015388")


REPRODUCTION = Reproduction(
    "imagenet21k",
    "ImageNet-21K Pretraining for the Masses",
    {
        "tree": Part("The tree of ImageNet-21K-P and equalities of the loss", tree, exact=True),
        "pretraining": Part("Labels of two depths: three losses and their transfer", pretraining),
    },
)
