"""Flags and YAML files into one config dataclass: the same names in both, flags win, unknown names are refused."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import inspect
import os
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.utils import logging as transformers_logging

from odin_rm.cli.commands import COMMANDS
from odin_rm.core.errors import ConfigError, OdinError

Config = TypeVar("Config")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def parse_config(config_class: type[Config], argv: Sequence[str], command: str) -> Config:
    """Build ``config_class`` from flags and from the YAML file of ``--config``.

    Every field is a flag of its own name. Field metadata may give ``help``, ``metavar`` and ``required=True`` (for a
    field that needs a default only because its base class has some).

    Args:
        config_class: a dataclass, often a subclass of ``TrainingArguments``. It is made exactly once.
        argv: the arguments after the command.
        command: the command's name, for messages and help.

    Raises:
        ConfigError: an unknown flag or key, a value of the wrong type, a missing field, an unusable file, or a
            combination that the class refuses.
        SystemExit: after ``--help`` (code 0).
    """
    parser = _Parser(config_class, command)
    parser.refuse_unknown_flags(argv)
    file = parser.config_file(argv)
    values = parser.file_values(file, read_config_file(file)) if file is not None else {}
    values |= parser.flag_values(argv)
    _refuse_empty(config_class, values)
    try:
        return config_class(**values)
    except OdinError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(_one_line(error), fix=f"See odin-rm {command} --help.") from error


def _refuse_empty(config_class: type[Any], values: dict[str, Any]) -> None:
    """Refuse an empty path, as an unset shell variable leaves it: it would mean the folder where the user is."""
    for item in dataclasses.fields(config_class):
        wanted = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if wanted or item.metadata.get("required") or item.name in ("output", "output_dir"):
            given = values.get(item.name)
            if any(isinstance(text, str) and not text.strip() for text in (given if type(given) is list else [given])):
                raise ConfigError("is empty", where=f"--{item.name}", fix="Give it a value.")


def quiet_transformers() -> None:
    """Leave transformers' remarks on its own inner workings out; --log_level and TRANSFORMERS_VERBOSITY bring them."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers_logging.set_verbosity_error()


def read_config_file(path: str) -> dict[str, Any]:
    """The mapping in a YAML file (an empty file is an empty mapping).

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, or gives a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "no such config file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ConfigError(what, where=path, fix="Check the path after --config.") from error
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        what = f"is not valid YAML ({getattr(error, 'problem', None) or error})"
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
        except (TypeError, ValueError):
            number = None
        if number is None or (hint is int and not number.is_integer()):
            raise ValueError(f"must be {kind}")
        return value if type(value) is hint else hint(number) if not isinstance(value, int) else hint(value)
    if hint is str:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("must be text")
        return str(value)
    return value


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Underscored names only (hyphens work too), defaults shown where they say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        if action.nargs == 0 or not names:
            return ", ".join(names or action.option_strings)
        return f"{', '.join(names)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = re.sub(r"%%|%(?!\()", "%%", (action.help or "").strip())  # a plain "50 %" is fine in a help text
        silent = action.default in (None, "", [], argparse.SUPPRESS) or action.nargs == 0 or action.required
        return text if silent else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kinds: dict[Any, str] = {int: "N", float: "X", str: "TEXT", string_to_bool: "BOOL"}
        return kinds.get(action.type, "VALUE")


class _Parser(HfArgumentParser):
    """``HfArgumentParser`` whose errors are ours and whose help puts our own options first."""

    def __init__(self, config_class: type[Any], command: str) -> None:
        about = COMMANDS[command]
        super().__init__(
            config_class,
            prog=f"odin-rm {command}",
            usage=f"odin-rm {command} {about.usage}",
            description=about.summary,
            epilog="\n  ".join(["example:", *about.example.splitlines()]),
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.config_class = config_class
        self.add_argument("--config", metavar="FILE.yaml", help="a file with the same names; flags win over it")
        if issubclass(config_class, TrainingArguments):
            stock = {field.name for field in dataclasses.fields(TrainingArguments)}
            for base in (base for base in config_class.__mro__ if base.__module__.startswith("trl.")):
                own = {name for ours in config_class.__mro__ for name in _own_annotations(ours)}
                self._list_apart(set(inspect.get_annotations(base)) - stock - own, f"trl.{base.__name__}")
            self._list_apart(stock - {"output_dir"}, "transformers.TrainingArguments")

    def _list_apart(self, names: set[str], whose: str) -> None:
        if not names:
            return
        group = self.add_argument_group(f"options of {whose}")
        for action in [action for action in self._optionals._group_actions if action.dest in names]:
            self._optionals._group_actions.remove(action)
            group._group_actions.append(action)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as a :class:`ConfigError`."""
        message = re.sub(r"(--\w+)(/--[\w-]+)+", r"\1", message)  # --a_b/--a-b: one name is enough
        match = re.fullmatch(r"argument (--\w+)(?:/\S+)?: (.*)", message, re.DOTALL)
        where, what = match.groups() if match else ("", message)
        missing = re.fullmatch(r"the following arguments are required: (.*)", what)
        if missing:
            raise ConfigError(f"missing {missing[1]}", fix=f"Give it as a flag or in --config; see {self.prog} --help.")
        raise ConfigError(what, where=where, fix=f"See {self.prog} --help.")

    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Raise for the first flag that does not exist, before anything that is merely missing is complained about."""
        for token in argv:
            flag = token.split("=", 1)[0]
            if flag == "--":
                return
            if flag.startswith("--") and flag not in self._option_string_actions:
                known = [name for name in self._option_string_actions if name.startswith("--")]
                raise ConfigError(f"unknown flag {flag}", fix=_suggest(flag, known, f"See {self.prog} --help."))

    def config_file(self, argv: Sequence[str]) -> str | None:
        """The value of ``--config``; the last one counts."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.error = self.error  # type: ignore[method-assign]
        finder.add_argument("--config")
        return finder.parse_known_args(list(argv))[0].config

    def file_values(self, file: str, values: dict[str, Any]) -> dict[str, Any]:
        """The file's values, each of its field's type; they need not be given as flags any more."""
        hints = typing.get_type_hints(self.config_class)
        fields = {field.name: field for field in dataclasses.fields(self.config_class) if field.init}
        converted: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                fix = _suggest(key, list(fields), f"See {self.prog} --help for the names.")
                raise ConfigError(f"unknown key '{key}'", where=file, fix=fix)
            if value is None and fields[key].default is None:
                converted[key] = None
                continue
            try:
                converted[key] = convert(value, hints[key])
                choices = fields[key].metadata.get("choices")
                if choices and converted[key] not in choices:
                    raise ValueError(f"must be one of {', '.join(map(str, choices))}")
            except ValueError as error:
                what = f"{key}: {error}, not {value!r}"
                raise ConfigError(what, where=file, fix="Correct the value.") from error
        for action in self._actions:
            if action.dest in converted:
                action.required = False
        return converted

    def flag_values(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values that the flags give. Defaults are left to the class: the parser would retype some of them."""
        absent = object()
        names = [field.name for field in dataclasses.fields(self.config_class) if field.init]
        namespace, rest = self.parse_known_args(list(argv), argparse.Namespace(**dict.fromkeys(names, absent)))
        if rest:
            raise ConfigError(f"unexpected value '{rest[0]}'", fix="Give values after the flag they belong to.")
        return {name: value for name in names if (value := getattr(namespace, name)) is not absent}


def _own_annotations(config_class: type[Any]) -> set[str]:
    ours = config_class.__module__.startswith("odin_rm.")
    return set(inspect.get_annotations(config_class)) if ours else set()


def _suggest(name: str, known: list[str], otherwise: str) -> str:
    plain = name.replace("-", "_").strip("_")
    by_plain = {other.replace("-", "_").strip("_"): other for other in reversed(known)}
    near = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.7)
    return f"Did you mean {by_plain[near[0]]}?" if near else otherwise


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
