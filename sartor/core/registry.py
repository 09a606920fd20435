"""Lazy tables: from a name to where the thing is defined, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from sartor.core.errors import SartorError, unknown

T = TypeVar("T")


class Table(Mapping[str, T], Generic[T]):
    """A mapping of names to things in modules that are imported on first use.

    Entries are ``"module:attribute"`` strings written in this package, never read from data.
    """

    def __init__(self, what: str, entries: Mapping[str, str]) -> None:
        self.what = what
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise SartorError(unknown(self.what, name, self._entries))
        module, _, attribute = self._entries[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
