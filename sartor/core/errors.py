"""Every error a user can cause: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SartorError(Exception):
    """Base of all errors a user can cause; the command line prints it and exits with code 2."""

    exit_code = 2


class BudgetError(SartorError):
    """A budget that cannot be read."""


class ImpossibleBudget(SartorError):
    """A budget nothing can meet; the message names the nearest that can be met."""


class SpecError(SartorError):
    """A specification with a wrong, missing or unknown value."""


class DataError(SartorError):
    """A data set that cannot be recognised, read or split."""


class WeightsError(SartorError):
    """A checkpoint that cannot be found, trusted or matched to a model."""


class RunError(SartorError):
    """A run directory that is locked, foreign or inconsistent with the command."""


class TrainingError(SartorError):
    """Training that cannot start or has diverged."""


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """The sentence that answers an unknown name with the nearest three valid ones.

    Where nothing is near, or there are few, all valid names (at most twelve) are given.
    """
    names = sorted(valid)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}: did you mean {' or '.join(near)}?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"unknown {what} {name!r}: use one of {shown}" if names else f"unknown {what} {name!r}"
