"""Sweeps: a population drawn, evaluated and collected as a table describes (after pycls's, without its cluster).

A sweep's folder holds ``configs.jsonl``, one file per evaluated configuration below ``records/``, and what
``collect`` makes of them, ``records.jsonl``. Each step may be repeated: it continues where the last one ended.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sartor.core.errors import DataError, RunError, SpecError, unknown
from sartor.core.files import write_atomic, write_json
from sartor.core.genes import Choice, Gene, Int, Real, Repeat, frozen
from sartor.core.space import Config, Space
from sartor.core.spec import canonical
from sartor.models.vision.regnet import STEMS
from sartor.search.design_space import BASE, Setting, anynet_space, between, population, regnet_space
from sartor.search.design_space_analysis import AnalysisOptions

Settings = Mapping[str, Any]
Evaluator = Callable[[Any, Settings], Mapping[str, Any]]
"""From a spec and training settings to measurements, ``error`` among them. Sent to workers, so it must pickle."""


@dataclass(frozen=True)
class Sweep:
    """A population of ``configs`` configurations of a space and how it is evaluated and analysed.

    ``genes`` are drawn beside those of the space and describe the training: their values, and ``settings`` for what
    is not drawn, go to the evaluator.
    """

    name: str
    space: Space
    configs: int
    genes: tuple[Gene, ...] = ()
    draws: int = 1_000_000
    seed: int = 0
    settings: Settings = field(default_factory=dict)
    retries: int = 3
    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    description: str = ""

    @property
    def drawn(self) -> Space:
        """The space with the genes of the training."""
        return replace(self.space, genes=(*self.space.genes, *self.genes))


def read_sweep(path: Path) -> Sweep:
    """The sweep a TOML file describes, or a YAML file of pycls's sweeps. Raises SpecError or DataError."""
    try:
        text = path.read_text()
        if path.suffix in (".yaml", ".yml"):
            from sartor.search.design_space_pycls import sweep_from_yaml

            return sweep_from_yaml(text)
        return sweep_from_table(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"sweep {path}: {error}") from None


def sweep_from_table(table: Mapping[str, Any]) -> Sweep:
    """The sweep of a table with the keys of ``Sweep``, ``[network]``, ``[genes]`` and ``[analysis]``.

    ``[network]`` has a ``space`` (regnet or anynet_a to anynet_e), what its networks share (``image`` as channels,
    height and width, ``classes``, ``stem``, ``stem_width``, ``block``, ``se``, ``strides``), ``ranges`` of its genes,
    their ``orders``, the number of ``stages`` (regnet: a range) and ranges of counted ``complexity``. ``[genes]``
    holds further genes, those of the training. Raises SpecError for anything else.
    """
    rest = _checked("sweep", table, {f.name for f in fields(Sweep)} - {"space"} | {"network"})
    space = _space(rest.pop("network", {}))
    genes = tuple(gene(name, values) for name, values in rest.pop("genes", {}).items())
    analysis = _checked("sweep analysis", rest.pop("analysis", {}), {f.name for f in fields(AnalysisOptions)})
    analysis = {key: tuple(v) if isinstance(v, list) else v for key, v in analysis.items()}
    if "name" not in rest or "configs" not in rest:
        raise SpecError("sweep: needs a name and the number of configs")
    return Sweep(space=space, genes=genes, analysis=AnalysisOptions(**analysis), **rest)


def gene(name: str, table: Mapping[str, Any]) -> Gene:
    """A gene from its table: ``values`` (and ``weights``), or ``low``, ``high``, ``quantum`` and ``law``.

    ``length`` and ``order`` make a list of it.
    """
    rest = _checked(f"gene {name}", table, {"values", "weights", "low", "high", "quantum", "law", "length", "order"})
    length, order = rest.pop("length", None), rest.pop("order", "free")
    try:
        if "values" in rest:
            item: Choice | Real = Choice(name, **{key: frozen(value) for key, value in rest.items()})
        else:
            whole = all(isinstance(rest.get(key, 1), int) for key in ("low", "high", "quantum"))
            item = Int(name, **rest) if whole else Real(name, **rest)
    except TypeError:
        raise SpecError(f"gene {name}: needs either values, or low and high (and a quantum, if not whole)") from None
    return Repeat(item, length, order) if length else item


def setup(sweep: Sweep, folder: Path, pool: Executor | None = None) -> list[Config]:
    """Draw the sweep's configurations and write them, numbered. Raises RunError if the folder holds others."""
    path = folder / "configs.jsonl"
    configs = population(sweep.drawn, sweep.configs, sweep.seed, draws=sweep.draws, pool=pool)
    text = "".join(canonical(dict(config)) + "\n" for config in configs)
    if path.exists() and path.read_text() != text:
        raise RunError(f"sweep folder {folder} holds other configurations; use another folder or remove it")
    write_atomic(path, text)
    return configs


def launch(
    sweep: Sweep,
    folder: Path,
    evaluate: Evaluator,
    pool: Executor | None = None,
    ended: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Evaluate every configuration that has no record yet, or a failed one; each record appears whole.

    An evaluation that raises is tried ``retries`` more times, then recorded as failed. ``ended`` is called with every
    record once it is written. Raises RunError before setup.
    """
    path = folder / "configs.jsonl"
    if not path.exists():
        raise RunError(f"sweep folder {folder} has no configurations; set the sweep up first")
    done = {record["index"] for record in _stored(folder) if "error" in record}
    configs = [sweep.drawn.config(json.loads(line)) for line in path.read_text().splitlines()]
    jobs = [(sweep, index, config, evaluate) for index, config in enumerate(configs) if index not in done]
    if pool is None:
        results: Iterator[dict[str, Any]] = map(_evaluated, jobs)
    else:
        results = (future.result() for future in as_completed([pool.submit(_evaluated, job) for job in jobs]))
    for record in results:
        write_json(folder / "records" / f"{record['index']:06}.json", record)
        if ended is not None:
            ended(record)


def collect(folder: Path) -> list[dict[str, Any]]:
    """All records so far in the order of their configurations, whatever finished first; written as one file too."""
    records = list(_stored(folder))
    write_atomic(folder / "records.jsonl", "".join(canonical(record) + "\n" for record in records))
    return records


def described(sweep: Sweep, index: int, config: Config) -> dict[str, Any]:
    """What a record says before its evaluation: the configuration, its counted cost and the shape of its network."""
    spec = sweep.space.spec(config)
    cost = sweep.space.counter(spec)
    return {
        "index": index,
        "config": dict(config),
        "complexity": {name: cost.value(name) for name in ("macs", "params", "activations")},
        "network": {
            "depths": [stage.depth for stage in spec.stages],
            "widths": [stage.width for stage in spec.stages],
            "total_depth": sum(stage.depth for stage in spec.stages),
        },
    }


def _evaluated(job: tuple[Sweep, int, Config, Evaluator]) -> dict[str, Any]:
    sweep, index, config, evaluate = job
    record, spec = described(sweep, index, config), sweep.space.spec(config)
    settings = {**sweep.settings, **{g.name: config[g.name] for g in sweep.genes}}
    for attempt in range(sweep.retries + 1):
        try:
            return {**record, **evaluate(spec, settings)}
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            if attempt == sweep.retries:
                break
    return {**record, "failed": failure}


def _stored(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "records").glob("*.json")):
        yield json.loads(path.read_text())


def _space(network: Mapping[str, Any]) -> Space:
    shared = {"image", "classes", "stem", "stem_width", "block", "se", "strides"}
    rest = _checked("sweep network", network, {"space", "ranges", "orders", "stages", "complexity", *shared})
    name, complexity = rest.pop("space", "regnet"), rest.pop("complexity", {})
    setting = _setting({key: rest.pop(key) for key in shared & rest.keys()})
    options = {key: frozen(value) for key, value in rest.items()}
    letter = name.removeprefix("anynet_").upper()
    try:
        space = regnet_space(setting, **options) if name == "regnet" else anynet_space(letter, setting, **options)
    except TypeError:
        raise SpecError(f"sweep network: {name} takes no {' or '.join(options)}") from None
    return space.within(*between({key: (float(low), float(high)) for key, (low, high) in complexity.items()}))


def _setting(shared: Mapping[str, Any]) -> Setting:
    channels, height, width = shared.get("image", (3, 224, 224))
    stem = shared.get("stem", "simple")
    if stem not in STEMS:
        raise SpecError(unknown("stem", stem, STEMS))
    base = BASE.replace(
        stem=STEMS[stem](shared.get("stem_width", 32)), channels=channels, size=(height, width),
        classes=shared.get("classes", 1000),
    )  # fmt: skip
    return Setting(base, shared.get("block", "x"), shared.get("se", 0.0), tuple(shared.get("strides", ())))


def _checked(what: str, table: Mapping[str, Any], valid: set[str]) -> dict[str, Any]:
    for key in table:
        if key not in valid:
            raise SpecError(unknown(f"key of {what}", key, valid))
    return dict(table)
