"""YAML files of settings, and their values as the types that a config asks for."""

from __future__ import annotations

import enum
import types
import typing
from typing import Any, Literal, Union

import yaml

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import parse_yaml, read_text

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def read_config_file(path: str) -> dict[str, Any]:
    """The mapping in a YAML file (an empty file is an empty mapping).

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, or gives a key twice.
    """
    try:
        text = read_text(path)
    except DataError as error:
        what = "no such config file" if isinstance(error, FileNotFoundError) else error.what
        raise ConfigError(what, where=path, fix="Check the path after --config.") from error
    try:
        values = parse_yaml(text, loader=_StrictLoader)
    except DataError as error:
        mark = getattr(error.__cause__, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        problem = getattr(error.__cause__, "problem", None)
        what = f"is not valid YAML ({problem})" if problem else error.what
        raise ConfigError(what, where=place, fix="Write one 'name: value' per line.") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError("does not hold names and values", where=path, fix="Write one 'name: value' per line.")
    return values


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error instead of a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def convert(value: Any, hint: Any) -> Any:
    """``value`` from YAML as the type that ``hint`` asks for.

    YAML reads ``1e-5`` as text and ``1`` as an integer; both are fine for a float. What cannot be meant is refused.

    Raises:
        ValueError: the value does not fit; the message says what would.
    """
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arms)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arms:
            raise ValueError(f"must be one of {', '.join(map(str, arms))}")
        return value
    if hint in (None, type(None)):
        if value is not None:
            raise ValueError("must be null")
        return None
    if origin is list or hint is list:
        inner = arms[0] if arms else Any
        return [convert(item, inner) for item in (value if isinstance(value, list) else [value])]
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError("must be a mapping of names to values")
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _convert_enum(value, hint)
    return _convert_scalar(value, hint)


def _convert_union(value: Any, arms: tuple[Any, ...]) -> Any:
    if value is None and type(None) in arms:
        return None
    arms = tuple(arm for arm in arms if arm is not type(None))
    enums = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, enum.Enum)]
    # An enum stands alone, so that `str` beside it does not let typos pass; else the value's own type comes first and
    # text, which takes nearly everything, last.
    messages = []
    for arm in enums or sorted(arms, key=lambda arm: (arm is not type(value), arm is str)):
        try:
            return convert(value, arm)
        except ValueError as error:
            messages.append(str(error))
    raise ValueError(messages[0])


def _convert_enum(value: Any, hint: type[enum.Enum]) -> Any:
    try:
        return hint(value).value
    except ValueError:
        choices = ", ".join(str(item.value) for item in hint)
        raise ValueError(f"must be one of {choices}") from None


def _convert_scalar(value: Any, hint: Any) -> Any:
    if hint is bool:
        word = str(value).lower()
        if word not in _TRUE | _FALSE:
            raise ValueError("must be true or false")
        return word in _TRUE
    if hint in (int, float):
        kind = "a whole number" if hint is int else "a number"
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or (hint is int and not number.is_integer()):
            raise ValueError(f"must be {kind}")
        return value if type(value) is hint else hint(number) if not isinstance(value, int) else hint(value)
    if hint is str:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("must be text")
        return str(value)
    return value
