"""The command ``sartor``: a table of commands, each in a module that is imported when it is used."""

from __future__ import annotations

import sys
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from sartor.core.errors import SartorError

COMMANDS = {
    "fit": "Find the best model for data within a budget and a time.",
    "train": "Train one network on data by a recipe.",
    "pretrain": "Train a network on images without labels, to be fine-tuned on few.",
    "tile": "Cut large images into tiles of a stated physical size.",
    "prepare": "Make a folder of class folders ready for pretraining.",
    "predict": "Classify pictures with a run's best model.",
    "front": "Show a run's candidates on the front of quality against cost.",
    "export": "Write a candidate of a run to a folder, ready to serve.",
    "report": "Write a run's report anew.",
    "cost": "Count, and if wanted measure, what a network costs.",
    "models": "List the named networks.",
    "recipes": "List the training recipes, or show one.",
    "space": "Sample a design space and study its networks.",
    "coord-check": "Check how far a training step moves deep and wide networks.",
    "reproduce": "Repeat what a paper's card reports.",
}


def make_app(asked: str = "") -> App:
    """The command line; the module of the command ``asked`` is imported when it is used, no other at all."""
    app = App(
        "sartor", help="State your data and your budget; get the best model that fits.", version=version("sartor"),
        help_format="plaintext", result_action="return_value",
        default_parameter=Parameter(negative=(), show_default=False),
    )  # fmt: skip
    for name, text in COMMANDS.items():
        own = {} if name == asked else {"help": text}  # the command asked for says all that its docstring says
        app.command("sartor.cli.{0}:{0}".format(name.replace("-", "_")), name=name, **own)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what a user can cause ends with one line on standard error and exit code 2."""
    try:
        words = sys.argv[1:] if arguments is None else arguments
        make_app(words[0] if words else "")(words, print_error=False, exit_on_error=False)
    except (SartorError, CycloptsError) as error:
        print(f"sartor: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        raise SystemExit(0) from None
