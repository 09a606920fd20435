"""The picture of a coordinate check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sartor.report.design_space import COLOURS, panels, svg


def picture(found: Mapping[str, Mapping[str, Mapping[int, Any]]]) -> str:
    """How far the stream has moved after each step, by depth and by width, a panel for each parametrization: SVG."""
    scaled = list(next(iter(found.values())))
    with panels(len(scaled), len(found), (3.6, 2.6), sharey=True) as (figure, grid):
        for row, axis in zip(grid, scaled, strict=True):
            for ax, (kind, axes) in zip(row, found.items(), strict=True):
                _draw(ax, axes[axis])
                ax.set_title(kind, loc="left")
                ax.set_xlabel(f"times the {axis}")
            row[0].set_ylabel("stream moved by")
        grid[0][0].legend(fontsize=8.5)
    return svg(figure)


def _draw(ax: Any, networks: Mapping[int, Any]) -> None:
    """A line for each step."""
    steps = len(next(iter(networks.values()))["moved"])
    for step in range(1, steps):
        moved = [found["moved"][step] for found in networks.values()]
        colour = COLOURS[(step - 1) % len(COLOURS)]
        ax.plot(list(networks), moved, "-", marker="o", ms=3, color=colour, label=f"step {step}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
