"""``sartor space``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from sartor.core.errors import RunError, SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from sartor.core.budget import Budget
    from sartor.core.space import Config
    from sartor.search.design_space_analysis import Record
    from sartor.search.design_space_sweep import Sweep
    from sartor.search.design_space_training import OpenImages, TrainedError

_NETWORKS, _DRAWS = 50, 200_000
_STUDY = "study.json"  # how the networks of a folder are trained


@Parameter(name="*")
@dataclass(frozen=True)
class Drawn:
    """Which networks are drawn.

    Parameters
    ----------
    sample
        How many (default: 50, or what the sweep says).
    image
        Channels, height and width, such as 3,32,32 (default: what the data have, else 3,224,224).
    classes
        The number of classes (default: what the data have, else 1000).
    macs
        The range of multiply-adds, such as 100M-200M; an end of 0 is open.
    params
        The range of parameters.
    activations
        The range of activations.
    seed
        The seed of the draws and trainings (default: 0, or what the sweep says).
    """

    sample: int | None = None
    image: str = ""
    classes: int | None = None
    macs: str = ""
    params: str = ""
    activations: str = ""
    seed: int | None = None


def space(
    name: str, /, *, drawn: Drawn | None = None, data: str = "", epochs: float | None = None, out: Path | None = None
) -> None:
    """Sample a design space, count its networks and, with DATA, train each briefly and study their errors.

    Writes records.jsonl and a page with the distribution of errors, errors against genes and cost with bootstrapped
    best ranges, trends and the best networks. Each training is kept as it ends, so after a kill the same command goes
    on where it was.

    Parameters
    ----------
    name
        regnetx, regnety, anynet_a to anynet_e, a family such as resnet, or a sweep file (.toml, or pycls's .yaml).
    data
        As for `sartor fit`; without it the networks are only counted.
    epochs
        How long each trains (default: 10, or what the sweep says).
    out
        The folder (default: runs/space-NAME).
    """
    from rich.console import Console

    from sartor.core.files import write_atomic
    from sartor.core.spec import canonical
    from sartor.report.design_space_page import write_space_page
    from sartor.search.design_space_sweep import collect, described, setup

    drawn = drawn or Drawn()
    opener = _opener(data, drawn) if data else None
    sweep = _sweep(name, drawn, opener)
    if epochs is not None:
        sweep = replace(sweep, settings={**sweep.settings, "epochs": epochs})
    folder = out or Path("runs", f"space-{Path(name).stem}")
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    progress.print(f"drawing {sweep.configs} networks", markup=False)
    configs = setup(sweep, folder)
    if opener is None:
        records = [described(sweep, index, config) for index, config in enumerate(configs)]
        write_atomic(folder / "records.jsonl", "".join(canonical(record) + "\n" for record in records))
    else:
        _train(sweep, folder, _evaluator(sweep, configs, opener), progress)
        records = collect(folder)
    page = write_space_page(folder, sweep.name, _facts(sweep, folder, data), records, sweep.analysis)
    _show(records)
    progress.print(f"page  {page}", markup=False)


def _opener(data: str, drawn: Drawn) -> OpenImages:
    from sartor.search.design_space_training import OpenImages

    return OpenImages(data, drawn.seed or 0, _image(drawn.image)[1] if drawn.image else None)


def _sweep(name: str, drawn: Drawn, opener: OpenImages | None) -> Sweep:
    """The sweep of a file, or of a named space for the images."""
    from sartor.search.design_space_analysis import AnalysisOptions
    from sartor.search.design_space_named import named_space
    from sartor.search.design_space_sweep import Sweep, read_sweep

    given = {"--image": drawn.image, "--classes": drawn.classes, **_ranges(drawn)}
    changes = {"configs": drawn.sample, "seed": drawn.seed}
    if drawn.sample is not None and drawn.sample < 1:
        raise SpecError(f"--sample must be at least 1, not {drawn.sample}")
    if name.endswith((".toml", ".yaml", ".yml")):
        for option, value in given.items():
            if value:
                raise SpecError(f"{option}: a sweep file says that itself; change {name}")
        return replace(read_sweep(Path(name)), **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]
    image, classes = _subject(drawn, opener)
    complexity = {option.removeprefix("--"): _range(option, text) for option, text in _ranges(drawn).items() if text}
    found = named_space(name, image, classes, complexity)
    return Sweep(
        name, found, drawn.sample or _NETWORKS, draws=_DRAWS, seed=drawn.seed or 0, retries=0,
        analysis=AnalysisOptions(best=6),
    )  # fmt: skip


def _subject(drawn: Drawn, opener: OpenImages | None) -> tuple[tuple[int, int, int], int]:
    """The images and the number of classes: asked for, or the data's."""
    from sartor.search.design_space_training import opened

    wanted = _image(drawn.image) if drawn.image else None
    if opener is None:
        return wanted or (3, 224, 224), drawn.classes or 1000
    task: Any = opened(opener)
    image, classes = task.inputs.fields["image"].shape, len(task.classes)
    if wanted not in (None, image) or drawn.classes not in (None, classes):
        raise SpecError(
            f"{opener.data} has images of {','.join(map(str, image))} and {classes} classes; leave out --image and "
            "--classes, or give these (the size may be another square)"
        )
    return image, classes


def _ranges(drawn: Drawn) -> Mapping[str, str]:
    return {"--macs": drawn.macs, "--params": drawn.params, "--activations": drawn.activations}


def _image(text: str) -> tuple[int, int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise SpecError(f"--image {text!r} must be channels, height and width, such as 3,32,32")
    channels, height, width = map(int, parts)
    return channels, height, width


def _range(option: str, text: str) -> tuple[float, float]:
    """The ends of ``100M-200M`` or ``100M,200M``."""
    from sartor.core.cost import FIELDS
    from sartor.core.units import parse_amount

    parts = text.replace(",", "-").split("-")
    if len(parts) != 2:
        raise SpecError(f"{option} {text!r} must be two amounts, such as 100M-200M; an end of 0 is open")
    low, high = (parse_amount(part, FIELDS[option.removeprefix("--")], where=option) for part in parts)
    if high and low > high:
        raise SpecError(f"{option} {text!r}: the first amount must not be more than the second")
    return low, high


def _evaluator(sweep: Sweep, configs: Sequence[Config], opener: OpenImages) -> TrainedError:
    """How the networks are trained: the paper's short runs, with the crops and the batch that suit the data.

    Raises SpecError if the sweep's settings or networks do not fit.
    """
    from sartor.search.design_space_training import TrainedError, opened, with_settings
    from sartor.search.mirror import mirror_safe
    from sartor.training.quick import quick
    from sartor.training.recipe import recipe

    task: Any = opened(opener)
    spec, subject = sweep.space.spec(configs[0]), task.inputs.fields["image"].shape
    if ((spec.channels, *spec.size), spec.classes) != (subject, len(task.classes)):
        raise SpecError(
            f"sweep {sweep.name} is for images of {(spec.channels, *spec.size)} and {spec.classes} classes, but "
            f"{opener.data} has {subject} and {len(task.classes)}; change the sweep"
        )
    suited = quick(len(task.split("train")), task.preprocess.size, flip=mirror_safe(task, opener.seed))
    chosen = recipe("regnet-population").replace(size=0, batch=suited.batch, augment=suited.augment)
    drawn = {gene.name: configs[0][gene.name] for gene in sweep.genes}
    with_settings(chosen, {k: v for k, v in {**sweep.settings, **drawn}.items() if k != "seed"})
    return TrainedError(opener, chosen, sweep.seed)


def _train(sweep: Sweep, folder: Path, evaluate: TrainedError, console: Console) -> None:
    """Train what has no record yet. Raises RunError if the folder's networks were trained otherwise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sartor.core.files import write_json
    from sartor.core.machine import cores
    from sartor.search.design_space_sweep import launch
    from sartor.search.design_space_training import opened, training_workers

    study = {
        "data": opened(evaluate.opener).fingerprint, "recipe": evaluate.recipe.to_json(),
        "settings": dict(sweep.settings), "seed": evaluate.seed,
    }  # fmt: skip
    path = folder / _STUDY
    if path.exists() and json.loads(path.read_text()) != study:
        raise RunError(f"{folder}: its networks were trained on other data or otherwise; use another --out")
    write_json(path, study)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar, training_workers(min(cores(), sweep.configs)) as pool:
        done = sum("error" in json.loads(file.read_text()) for file in (folder / "records").glob("*.json"))
        training = bar.add_task("training", total=sweep.configs, completed=done)
        launch(sweep, folder, evaluate, pool, lambda record: bar.advance(training))


def _facts(sweep: Sweep, folder: Path, data: str) -> list[str]:
    """What the page says above its pictures."""
    bounds = [f"at least {bound}" for bound in _bounds(sweep.space.floor)]
    bounds += [f"at most {bound}" for bound in _bounds(sweep.space.budget)]
    facts = [", ".join([f"{sweep.configs} different networks drawn with seed {sweep.seed}", *bounds]) + "."]
    facts += [sweep.description] * bool(sweep.description)
    if data:
        recipe = json.loads((folder / _STUDY).read_text())["recipe"]
        epochs = sweep.settings.get("epochs", recipe["epochs"])
        facts.append(f"Trained on {data}, epochs each: {epochs:g}. Errors are those of the validation images.")
    return facts


def _bounds(budget: Budget) -> list[str]:
    from sartor.report.text import amount_text, label

    return [f"{amount_text(str(b.quantity), b.limit)} {label(str(b.quantity))}" for b in budget.bounds]


def _show(records: Sequence[Record]) -> None:
    """The page's table in the terminal."""
    from rich.console import Console
    from rich.table import Table

    from sartor.report.design_space_page import table_rows

    rows = table_rows(records)
    table = Table(box=None, pad_edge=False)
    for number, key in enumerate(rows[0]):
        table.add_column(key, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row.values())
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
