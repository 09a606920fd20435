"""State your data and your budget; get the best model that fits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sartor.api import cost_of as cost_of
    from sartor.api import fit as fit
    from sartor.api import pretrain as pretrain
    from sartor.api import train as train
    from sartor.core.budget import Budget as Budget
    from sartor.core.errors import SartorError as SartorError
    from sartor.core.front import Front as Front
    from sartor.models.network import list_models as list_models
    from sartor.models.pyramid import Pyramid as Pyramid
    from sartor.runs.results import Result as Result
    from sartor.weights.create import create_model as create_model

_WHERE = {
    "Budget": "sartor.core.budget",
    "Front": "sartor.core.front",
    "Pyramid": "sartor.models.pyramid",
    "Result": "sartor.runs.results",
    "SartorError": "sartor.core.errors",
    "cost_of": "sartor.api",
    "create_model": "sartor.weights.create",
    "fit": "sartor.api",
    "list_models": "sartor.models.network",
    "pretrain": "sartor.api",
    "train": "sartor.api",
}
__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the package itself imports no torch."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'sartor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
