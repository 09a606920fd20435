"""``sartor models``."""

from __future__ import annotations


def models(pattern: str = "*", /) -> None:
    """List the named networks.

    Parameters
    ----------
    pattern
        Only those that match this shell pattern, such as "regnet*".
    """
    from sartor.core.errors import SpecError, unknown
    from sartor.models.network import list_models

    found = list_models(pattern)
    if not found:
        raise SpecError(unknown("model", pattern, list_models()))
    print("\n".join(found))
