"""Pictures of trials, as SVG."""

from __future__ import annotations

import numpy as np

from sartor.report.design_space import COLOURS, panels, svg
from sartor.reproduce.trials import Trials

_DASHES = ("-", "--", ":")
_HIGHEST = 4.0  # losses above it, of trainings that explode, are drawn there


def learning_curves(trials: Trials) -> str:
    """Training loss and test error by epoch: a line for each variant's mean, a band from the least to the most."""
    from matplotlib.ticker import MaxNLocator

    with panels(1, 2, (3.6, 3.0)) as (figure, ((left, right),)):
        for number, (variant, records) in enumerate(trials.records.items()):
            colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS)]
            for ax, key in ((left, "losses"), (right, "curve")):
                found = [record[key] for record in records if key in record]
                if not found:
                    continue
                values = np.minimum(found, _HIGHEST)
                epochs = np.arange(1, values.shape[1] + 1)
                ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
                ax.plot(epochs, values.mean(0), dash, marker="o", ms=3, color=colour, label=variant)
        left.set_ylabel("training loss")
        right.set_ylabel("test error")
        right.yaxis.set_major_formatter(lambda e, _: f"{100 * e:g}%")
        for ax in (left, right):
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", fontsize=8.5, ncols=2)
    return svg(figure)
