"""Specifications: frozen dataclasses of plain values that say all about what a candidate is made from.

A spec class states its ``kind`` and joins the table with ``@spec_kind``. JSON forms carry the kind beside
the fields, so reading one is a table lookup: no string in a spec ever names code to run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from sartor.core.errors import SpecError, unknown

Json = dict[str, Any]
PLUGINS = "sartor.kinds"  # entry points of other packages: a kind = the module that defines it
_KINDS: dict[str, type[Any]] = {}
_WHERE: dict[str, str] = {}  # kind -> module that defines it, for kinds not imported yet
S = TypeVar("S", bound=type)


def spec_kind(cls: S) -> S:
    """Class decorator: enter a frozen dataclass with a ``kind`` into the table ``from_json`` reads."""
    kind: str = cls.kind  # type: ignore[attr-defined]
    if _KINDS.setdefault(kind, cls) is not cls and _KINDS[kind].__qualname__ != cls.__qualname__:
        raise SpecError(f"two spec classes claim the kind {kind!r}: {_KINDS[kind].__name__} and {cls.__name__}")
    return cls


def lazy_kinds(where: Mapping[str, str]) -> None:
    """Say which module defines a kind, so that it is imported only when a spec of that kind is read."""
    _WHERE.update(where)


def to_json(spec: Any) -> Json:
    """The plain-value form of a spec: its kind and every field that differs from its default."""
    out: Json = {"kind": spec.kind}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            out[field.name] = _plain(value)
    return out


def from_json(data: Mapping[str, Any], expect: type[Any] | None = None) -> Any:
    """The spec of a plain-value form; raises SpecError for an unknown kind or field or a value of wrong type."""
    if not isinstance(data, Mapping) or "kind" not in data:
        raise SpecError(f"a spec needs a 'kind'; got {_short(data)}")
    cls = _lookup(str(data["kind"]))
    if expect is not None and not _conforms(cls, expect):
        raise SpecError(f"a spec of kind {data['kind']!r} cannot stand where {expect.__name__} is needed")
    hints = _hints(cls.kind)
    values = {key: value for key, value in data.items() if key != "kind"}
    for key in values:
        if key not in hints:
            raise SpecError(f"spec {cls.kind!r}: {unknown('field', key, hints)}")
    read = {key: _read(value, hints[key], f"{cls.kind}.{key}") for key, value in values.items()}
    try:
        return cls(**read)
    except TypeError as error:
        missing = [
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in read
        ]
        raise SpecError(f"spec {cls.kind!r} lacks {', '.join(missing) or error}") from None


def canonical(data: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: Any, length: int = 12) -> str:
    """The first characters of the SHA-256 of the canonical form: an identity for plain values."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:length]


def spec_id(spec: Any) -> str:
    """The identity of a spec: equal specs have equal ids."""
    return digest(to_json(spec))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def _lookup(kind: str) -> type[Any]:
    if kind not in _KINDS and kind in _WHERE:
        import_module(_WHERE[kind])
    elif kind not in _KINDS:
        for entry in entry_points(group=PLUGINS, name=kind):
            entry.load()
    if kind not in _KINDS:
        raise SpecError(unknown("spec kind", kind, {*_KINDS, *_WHERE}))
    return _KINDS[kind]


@cache
def _hints(kind: str) -> dict[str, Any]:
    cls = _KINDS[kind]
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _conforms(cls: type[Any], expect: type[Any]) -> bool:
    if getattr(expect, "_is_protocol", False):
        return True  # structural: the reader of the spec checks what it needs
    return issubclass(cls, expect)


def _read(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(value, args, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"{where} must be a list, not {_short(value)}")
        inner = args[:1] * len(value) if args[1:] == (Ellipsis,) else args
        if len(inner) != len(value):
            raise SpecError(f"{where} must have {len(inner)} values, not {len(value)}")
        return tuple(_read(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, inner, strict=True)))
    if origin is typing.Literal:
        if value not in args:
            raise SpecError(f"{where} must be one of {', '.join(map(repr, args))}, not {_short(value)}")
        return value
    return _read_plain(value, hint, where)


def _read_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in args:
        return None
    kind = value.get("kind") if isinstance(value, Mapping) else None
    named = [option for option in args if kind is not None and getattr(option, "kind", None) == kind]
    errors = []
    for option in named or args:
        if option is not type(None):
            try:
                return _read(value, option, where)
            except SpecError as error:
                errors.append(error)
    raise errors[0]


_PLAIN: Mapping[type, Callable[[Any], bool]] = {
    bool: lambda v: isinstance(v, bool),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    str: lambda v: isinstance(v, str),
}


def _read_plain(value: Any, hint: Any, where: str) -> Any:
    if hint in _PLAIN:
        if not _PLAIN[hint](value):
            raise SpecError(f"{where} must be {hint.__name__}, not {_short(value)}")
        return float(value) if hint is float else value
    if isinstance(value, Mapping) and "kind" in value:
        return from_json(value, hint if isinstance(hint, type) else None)
    raise SpecError(f"{where} must be a spec with a 'kind', not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
