"""What the site shows of the program is asked of the program when the site is built, so that it cannot drift."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sartor.cli.app import main
from sartor.core.cost import ALIASES, BOUNDABLE, FIELDS
from sartor.core.units import UNITS, format_amount
from sartor.models.network import count, list_models, spec_of

_COLUMNS = "88"  # of the terminal that commands believe to write to


class Command(SphinxDirective):
    """A ``sartor`` command and what it prints; ``exit`` is the exit code it must end with (default: 0)."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[Mapping[str, Any]] = {"exit": directives.nonnegative_int}

    def run(self) -> list[nodes.Node]:
        """A block with the command line and the output."""
        code, text = _printed(shlex.split(self.arguments[0]))
        if code != self.options.get("exit", 0):
            raise self.error(f"sartor {self.arguments[0]} ended with exit code {code}:\n{text}")
        block = f"$ sartor {self.arguments[0]}\n{text.rstrip()}"
        return [nodes.literal_block(block, block, language="text")]


class Networks(SphinxDirective):
    """A table of the named networks that match a pattern, with their counted cost."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        return self.parse_text_to_nodes(_table(("name", "input", "params", "macs", "activations"), self._rows()))

    def _rows(self) -> Iterator[Sequence[str]]:
        for name in list_models(self.arguments[0]):
            spec = spec_of(name)
            amounts = count(spec).amounts
            short = [format_amount(amounts[f].value, FIELDS[f]) for f in ("params", "macs", "activations")]
            yield (f"`{name}`", f"{spec.channels} × {spec.size[0]} × {spec.size[1]}", *short)


class CostFields(SphinxDirective):
    """A table of the cost fields that a budget may bound."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        other = {field: alias for alias, field in ALIASES.items()}
        rows = []
        for name in BOUNDABLE:
            field = FIELDS[name]
            units = ", ".join(unit for unit in UNITS[field.dimension] if unit)
            names = f"`{name}`" + (f" or `{other[name]}`" if name in other else "")
            rows.append((names, field.how, field.meaning, units))
        return self.parse_text_to_nodes(_table(("field", "got by", "meaning", "units"), rows))


def _printed(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command and all that it writes."""
    out = io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(out):
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return code, out.getvalue()


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setup(app: Sphinx) -> Mapping[str, Any]:
    """Add the directives."""
    os.environ.update(COLUMNS=_COLUMNS, NO_COLOR="1")
    app.add_directive("sartor", Command)
    app.add_directive("networks", Networks)
    app.add_directive("cost-fields", CostFields)
    return {"parallel_read_safe": False}
