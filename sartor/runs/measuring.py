"""Cost of candidates on the driver's machine, between waves, with nothing else of the run working."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget
from sartor.core.candidate import Candidate
from sartor.core.cost import Cost, Quantity
from sartor.core.protocols import Task
from sartor.cost.meters import latency, peak_memory, storage
from sartor.runtime.choose import choose_engine
from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.export import export

SERVED = "served"
_IMAGES = 512  # images on which exported graphs and engines are compared


def served(run_folder: Path, candidate: Candidate, task: Any) -> Path:
    """The candidate as it would be shipped: exported, compared, with the engine that is fastest here; made once."""
    folder = run_folder / SERVED / candidate.id
    if not (folder / "config.json").is_file():
        assert candidate.artifact is not None
        classifier = ImageClassifier.open(run_folder / candidate.artifact.path, engine="eager")
        images = comparison_images(task)
        export(classifier, folder, images)
        choose_engine(folder, images)
    return folder


def comparison_images(task: Any, most: int = _IMAGES) -> Any:
    """Preprocessed images of ``valid``: uint8 [n, channels, size, size]."""
    import numpy as np

    return np.stack([task.preprocess.array(raw) for raw in task.serving(most, 0)])


def measure(
    run_folder: Path, candidates: Sequence[Candidate], quantities: Sequence[Quantity], task: Task
) -> list[Candidate]:
    """The candidates with the measured quantities added; what could not be measured stays absent.

    Latencies of all are taken in one process, in turn, once per batch size asked for.
    """
    folders = [served(run_folder, c, task) for c in candidates]
    openers = [partial(ImageClassifier.open, folder) for folder in folders]
    found = [Cost() for _ in candidates]
    raw = task.serving(64, 1)
    fields = {q.field for q in quantities}
    for batch in sorted({q.batch for q in quantities if q.field == "latency"}):
        found = [a | r.cost for a, r in zip(found, latency(openers, raw, batch=batch), strict=True)]
    for batch in sorted({q.batch for q in quantities if q.field == "peak_memory"}):
        found = [a | peak_memory(o, raw, batch=batch).cost for a, o in zip(found, openers, strict=True)]
    if "storage" in fields:
        files = [storage(f, ImageClassifier.open(f).files) for f in folders]
        found = [a | r.cost for a, r in zip(found, files, strict=True)]
    return [c.having(cost=c.cost | cost) for c, cost in zip(candidates, found, strict=True)]


def measured_quantities(budget: Budget, always: Sequence[str]) -> list[Quantity]:
    """The measured quantities a budget bounds, and those that are ``always`` wanted."""
    wanted = [*(Quantity(name) for name in always), *(b.quantity for b in budget.of("measured").bounds)]
    return list(dict.fromkeys(wanted))
