"""TOML -> frozen dataclass. A key that the dataclass does not have is an error with a guess."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from edgeseg.errors import RecipeError, guess

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

R = TypeVar("R")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, or a RecipeError that names the file and the line."""
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; give the path of a TOML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: is not valid TOML: {error}") from error


def read_recipe(cls: type[R], path: Path, overrides: tuple[str, ...] = (), variant: str = "") -> R:
    """Read `path` into dataclass `cls`; `overrides` are `key=value` (dotted keys for tables).

    Tables become nested dataclasses, arrays become tuples. Values are checked by the types in the
    annotations and by `__post_init__`. A file may hold variants of one recipe: of [variants.NAME],
    which lies over the rest key by key, NAME is then to be given.
    """
    content = read_toml(path)
    content.pop("study", None)
    content = _choose(content, variant, path)
    for override in overrides:
        _apply(content, override, path)
    return from_table(cls, content, str(path))


def _choose(content: dict[str, Any], variant: str, path: Path) -> dict[str, Any]:
    variants = content.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise RecipeError(f"{path}: 'variants' must hold tables [variants.NAME]")
    if not variants and not variant:
        return content
    if variant not in variants:
        if not variants:
            raise RecipeError(f"{path}: no variant '{variant}': it has none")
        asked = f"no variant '{variant}'." if variant else "give --variant."
        raise RecipeError(f"{path}: {asked}{guess(variant, variants)}")
    return _overlay(content, variants[variant])


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`; tables are merged, all other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _overlay(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _apply(content: dict[str, Any], override: str, path: Path) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise RecipeError(f"--set {override}: '{table}' is no table in {path}")
    content[last] = value


def from_table(cls: type[R], content: dict[str, Any], where: str) -> R:
    """Build dataclass `cls` from a table of plain values; `where` opens each message."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    types_ = typing.get_type_hints(cls)
    for key in content:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key '{key}'.{guess(key, fields)}")
    values = {}
    for name, field in fields.items():
        if name in content:
            values[name] = _convert(types_[name], content[name], where, name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: key '{name}' is missing")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str, key: str) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        return _convert(kinds[0], value, where, key)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: '{key}' is {value!r}; expected a table [{key}]")
        return from_table(typing.cast("type[Any]", kind), value, f"{where}: [{key}]")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where}: '{key}' is {value!r}; expected an array")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], v, where, key) for v in value)
        if len(value) != len(arguments):
            raise RecipeError(
                f"{where}: '{key}' has {len(value)} values; expected {len(arguments)}"
            )
        return tuple(_convert(a, v, where, key) for a, v in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: '{key}' is {value!r}; expected a table")
        return {str(k): _convert(arguments[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any:
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecipeError(f"{where}: '{key}' is {value!r}; expected {kind.__name__}")
    return value
