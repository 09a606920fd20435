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
from sartor.runtime.description import CONFIG
from sartor.runtime.export import export
from sartor.runtime.opening import open_servable
from sartor.runtime.segmenter import ImageSegmenter, export_segmenter

SERVED = "served"
_IMAGES, _MASKS = 256, 4  # images on which exported graphs and engines of classifiers and segmenters are compared


def served(run_folder: Path, candidates: Sequence[Candidate], task: Any) -> list[Path]:
    """The candidates as they would be shipped: exported, compared, with the engine that is fastest here; made once."""
    folders = [run_folder / SERVED / c.id for c in candidates]
    missing = [(c, folder) for c, folder in zip(candidates, folders, strict=True) if not (folder / CONFIG).is_file()]
    if not missing:
        return folders
    images = comparison_images(task)
    for c, folder in missing:
        assert c.artifact is not None
        servable = open_servable(run_folder / c.artifact.path, engine="eager")
        if isinstance(servable, ImageSegmenter):
            export_segmenter(servable, folder, images)
        else:
            export(servable, folder, images, batch=1)
    return folders


def comparison_images(task: Any) -> Any:
    """Preprocessed images of ``valid``: uint8 [n, channels, height, width]."""
    import numpy as np

    count = _MASKS if task.kind == "segmentation" else _IMAGES
    return np.stack([task.preprocess.array(raw) for raw in task.serving(count, 0)])


def measure(
    run_folder: Path, candidates: Sequence[Candidate], quantities: Sequence[Quantity], task: Task
) -> list[Candidate]:
    """The candidates with the measured quantities added; what could not be measured stays absent.

    Latencies of all are taken in one process, in turn, once per batch size asked for.
    """
    folders = served(run_folder, candidates, task)
    openers = [partial(open_servable, folder) for folder in folders]
    found = [Cost() for _ in candidates]
    raw = task.serving(64, 1)
    fields = {q.field for q in quantities}
    for batch in sorted({q.batch for q in quantities if q.field == "latency"}):
        found = [a | r.cost for a, r in zip(found, latency(openers, raw, batch=batch), strict=True)]
    for batch in sorted({q.batch for q in quantities if q.field == "peak_memory"}):
        found = [a | peak_memory(o, raw, batch=batch).cost for a, o in zip(found, openers, strict=True)]
    if "storage" in fields:
        files = [storage(f, open_servable(f).files) for f in folders]
        found = [a | r.cost for a, r in zip(found, files, strict=True)]
    return [c.having(cost=c.cost | cost) for c, cost in zip(candidates, found, strict=True)]


def measured_quantities(budget: Budget, always: Sequence[str]) -> list[Quantity]:
    """The measured quantities a budget bounds, and those that are ``always`` wanted."""
    wanted = [*(Quantity(name) for name in always), *(b.quantity for b in budget.of("measured").bounds)]
    return list(dict.fromkeys(wanted))
