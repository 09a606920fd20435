"""A bench's result: rows that are printed, and kept as JSON and Markdown beside the code."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio

RESULTS = Path(__file__).parent / "results"


@dataclass
class Table:
    """``rows`` of one set of keys; ``summary`` is what to remember; ``command`` makes it again."""

    name: str
    title: str
    command: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        if self.rows:
            keys = list(self.rows[0])
            lines += [_line(keys), _line(["---"] * len(keys))]
            lines += [_line([_text(row.get(key)) for key in keys]) for row in self.rows]
        lines += ["", *(f"* {key}: {_text(value)}" for key, value in self.summary.items()), ""]
        return "\n".join(lines)

    def save(self, facts: dict[str, Any]) -> None:
        """Write ``results/<name>.json`` and ``results/<name>.md``."""
        RESULTS.mkdir(exist_ok=True)
        content = {**asdict(self), **facts, "at": time.strftime("%Y-%m-%d")}
        (RESULTS / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        notes = [f"* {key}: {_text(value)}" for key, value in facts.items()]
        (RESULTS / f"{self.name}.md").write_text("\n".join([self.markdown(), *notes, ""]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    if isinstance(value, Ratio):
        return str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
