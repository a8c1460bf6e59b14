"""The command line of a config dataclass: its flags, its help, its errors in one line.

Our own fields are read here, and nothing heavy is imported for them. Fields that a config has from transformers' and
TRL's training arguments are read by transformers' own parser, and only where they are asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import itertools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union

from odin_rm.cli.commands import COMMANDS
from odin_rm.core.errors import ConfigError
from odin_rm.core.options import flag_of, old_flags

Field = dataclasses.Field[Any]

_TRUE, _FALSE = {"true", "yes", "on", "t", "y", "1"}, {"false", "no", "off", "f", "n", "0"}
_LIBRARIES = ("transformers", "trl")


def stock_base(config_class: type[Any]) -> type[Any] | None:
    """The training arguments that a config inherits from: ``TrainingArguments``, a config of TRL, or ``None``."""
    return next((base for base in config_class.__mro__ if _library(base) in _LIBRARIES), None)


def own_fields(config_class: type[Any]) -> list[Field]:
    """The fields that our own classes declare; those of the class itself before those of its bases."""
    fields = {item.name: item for item in dataclasses.fields(config_class) if item.init}
    ours = [base for base in config_class.__mro__ if _library(base) not in _LIBRARIES]
    names = dict.fromkeys(name for base in ours for name in inspect.get_annotations(base) if name in fields)
    return [fields[name] for name in names]


def _library(base: type[Any]) -> str:
    return base.__module__.split(".")[0]


def boolean(text: str) -> bool:
    """A flag's word as true or false."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise argparse.ArgumentTypeError(f"must be true or false, it is {text!r}")
    return word in _TRUE


def _mapping(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError("is a mapping, which --config FILE.yaml can hold and a flag cannot")


_METAVARS = {"int": "N", "float": "X", "str": "TEXT", "boolean": "BOOL", "string_to_bool": "BOOL"}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Underscored names only (hyphens work too), defaults shown where they say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest)
        outdated = getattr(action, "outdated", ())
        names = [name for name in action.option_strings if "-" not in name.lstrip("-") and name not in outdated]
        if action.nargs == 0 or not names:
            return ", ".join(names or action.option_strings)
        return f"{', '.join(names)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = re.sub(r"%%|%(?!\()", "%%", (action.help or "").strip())  # a plain "50 %" is fine in a help text
        silent = action.default in (None, "", [], argparse.SUPPRESS) or action.nargs == 0 or action.required
        return text if silent else f"{text} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _METAVARS.get(getattr(action.type, "__name__", ""), "VALUE")


class _Extend(argparse.Action):
    """The values of a list, also of one whose flag is given several times; none of them is the default's."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest, None)
        given = vars(namespace).setdefault("_extended", set())
        setattr(namespace, self.dest, [*(before or () if self.dest in given else ()), *values])
        given.add(self.dest)


class ConfigParser(argparse.ArgumentParser):
    """The flags of a config dataclass.

    Args:
        config_class: what the flags are of.
        command: the name of the command.
        inherited: whether to take the fields of transformers' and TRL's training arguments too.
    """

    def __init__(self, config_class: type[Any], command: str, *, inherited: bool = True) -> None:
        about = COMMANDS[command]
        super().__init__(
            prog=f"odin-rm {command}",
            usage=f"odin-rm {command} {about.usage}",
            description=about.summary,
            epilog="\n  ".join(["example:", *about.example.splitlines()]),
            formatter_class=_Help,
            allow_abbrev=False,
            parents=[_inherited_parser(config_class)] if inherited and stock_base(config_class) else [],
            add_help=False,
        )
        self.config_class = config_class
        text = "show this help"
        if about.options != about.config:
            text += "; with 'all' behind it, also every option of transformers' and TRL's training arguments"
        self.add_argument("-h", "--help", action="help", help=text)
        self.add_argument("--config", metavar="FILE.yaml", help="a file with the same names; flags win over it")
        self.add_argument("--quiet", action="store_true", help="results, warnings and errors only")
        self.add_argument("--verbose", action="store_true", help="more lines, the libraries' remarks, time and memory")
        hints = typing.get_type_hints(config_class)
        refused = getattr(config_class, "refused", {})
        groups: dict[str | None, Any] = {None: self}
        self.renamed: dict[str, str] = {}  # old names of flags to new ones
        self.keys: list[str] = []  # of the file that was read
        for item in own_fields(config_class):
            title = item.metadata.get("group")
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            hidden = item.name in refused or "instead" in item.metadata
            _add_field(groups[title], item, hints[item.name], hidden=hidden)
            outdated = [name for name in old_flags(item) if name != item.name or "stock" not in item.metadata]
            self.renamed |= dict.fromkeys(outdated, flag_of(item))
            if "instead" in item.metadata:
                self.renamed[item.name] = item.metadata["instead"]
        # What is ours comes before what is inherited.
        self._action_groups.sort(key=lambda group: (group.title or "").startswith("options of "))

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
                known = {name: self._current(name) for name in self._option_string_actions if name[:2] == "--"}
                raise ConfigError(f"unknown flag {flag}", fix=suggest(flag, known, f"See {self.prog} --help."))

    def _current(self, flag: str) -> str:
        """What a flag is called today."""
        new = self.renamed.get(flag[2:].replace("-", "_"))
        return flag if new is None else f"--{new}"

    def old_names(self, argv: Sequence[str]) -> dict[str, str]:
        """The old names among the flags (with dashes) and the keys of the file that was read, each with its new one."""
        used: dict[str, str] = {}
        for token in itertools.takewhile(lambda token: token != "--", argv):
            flag = token.split("=", 1)[0]
            name = flag.removeprefix("--").replace("-", "_")
            if flag.startswith("--") and name.removeprefix("no_") in self.renamed:
                used[flag] = f"--{self.renamed[name.removeprefix('no_')]}"
        fields = {item.name for item in dataclasses.fields(self.config_class)}  # what config.yaml of a run says
        return used | {key: self.renamed[key] for key in self.keys if key in self.renamed and key not in fields}

    def config_file(self, argv: Sequence[str]) -> str | None:
        """The value of ``--config``; the last one counts."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.error = self.error  # type: ignore[method-assign]
        finder.add_argument("--config")
        return finder.parse_known_args(list(argv))[0].config

    def file_values(self, file: str) -> dict[str, Any]:
        """A file's values, each of its field's type; they need not be given as flags any more."""
        from odin_rm.cli.config_file import convert, read_config_file

        hints = typing.get_type_hints(self.config_class)
        fields = {field.name: field for field in dataclasses.fields(self.config_class) if field.init}
        named = {name: field for field in fields.values() for name in (flag_of(field), *old_flags(field))}
        converted: dict[str, Any] = {}
        content = read_config_file(file)
        self.keys = list(content)
        for key, value in content.items():
            if key not in named:
                current = {name: flag_of(field) for name, field in named.items()}
                fix = suggest(key, current, f"See {self.prog} --help for the names.")
                raise ConfigError(f"unknown key '{key}'", where=file, fix=fix)
            name = named[key].name
            if name in converted:
                what = f"'{key}' and another name of it are both given"
                raise ConfigError(what, where=file, fix=f"Give {flag_of(named[key])} alone.")
            if value is None and fields[name].default is None:
                converted[name] = None
                continue
            try:
                converted[name] = convert(value, hints[name])
                choices = fields[name].metadata.get("choices")
                if choices and converted[name] not in choices:
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


def _names(prefix: str, words: Sequence[str]) -> list[str]:
    """Flags with underscores and with hyphens."""
    return list(dict.fromkeys(f"--{prefix}{form}" for word in words for form in (word, word.replace("_", "-"))))


def _add_field(group: Any, item: Field, hint: Any, *, hidden: bool) -> None:
    """One field as a flag: ``--a_b`` (``--a-b`` works too), and ``--no_a_b`` for one that is true by default."""
    words, outdated = (flag_of(item), *old_flags(item)), _names("", old_flags(item)) + _names("no_", old_flags(item))
    described = argparse.SUPPRESS if hidden else item.metadata.get("help")
    default = item.default if item.default is not dataclasses.MISSING else None
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    settings: dict[str, Any] = {"help": described, "default": default, "dest": item.name}
    settings["required"] = missing or bool(item.metadata.get("required"))
    kind = _kind(hint)
    if kind is bool:
        settings |= {"type": boolean, "nargs": "?", "const": True}
    elif typing.get_origin(kind) is list:
        settings |= {"type": typing.get_args(kind)[0], "nargs": "+", "action": _Extend}
    elif typing.get_origin(kind) is Literal:
        settings |= {"choices": typing.get_args(kind)}
    else:
        settings["type"] = _mapping if kind is dict else kind
    if item.metadata.get("choices"):
        settings["choices"] = item.metadata["choices"]
    if "metavar" in item.metadata:
        settings["metavar"] = item.metadata["metavar"]
    if item.metadata.get("positional"):
        _add_positional(group, item, settings)
        return
    group.add_argument(*_names("", words), **settings).outdated = outdated
    if kind is bool and item.default is True:
        settings = {"action": "store_false", "dest": item.name, "default": False, "help": described}
        group.add_argument(*_names("no_", words), **settings).outdated = outdated


def _add_positional(group: Any, item: Field, settings: dict[str, Any]) -> None:
    """The word after the command."""
    settings = {name: value for name, value in settings.items() if name not in ("dest", "required", "default")}
    if "choices" in settings:
        settings["metavar"] = item.name.upper()
        settings["help"] = f"{settings['help']} One of {', '.join(settings['choices'])}."
    group.add_argument(item.name, **settings)


def _kind(hint: Any) -> Any:
    """The type that a flag's text becomes: what a hint says besides ``None``."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        (kind,) = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        return kind
    return hint


def _inherited_parser(config_class: type[Any]) -> argparse.ArgumentParser:
    """The flags of the fields that a config leaves as transformers and TRL have them, under their names."""
    from transformers import HfArgumentParser

    parts = []
    ours = {item.name for item in own_fields(config_class)}
    for base, names in _declared_by(config_class):
        rest = [name for name in names if name not in ours]
        if rest:
            parts.append(_without_ours(config_class, base, rest))
    return HfArgumentParser(parts, add_help=False)


def _declared_by(config_class: type[Any]) -> Iterator[tuple[type[Any], list[str]]]:
    """Each library's class that declares fields of a config, with their names: the lowest one that does."""
    fields = {item.name for item in dataclasses.fields(config_class) if item.init}
    bases = [base for base in config_class.__mro__ if _library(base) in _LIBRARIES]
    for k, base in enumerate(bases):
        below = {name for other in bases[k + 1 :] for name in inspect.get_annotations(other)}
        yield base, [name for name in inspect.get_annotations(base) if name in fields - below]


def _without_ours(config_class: type[Any], base: type[Any], names: list[str]) -> type[Any]:
    """A dataclass of some of a config's fields; those that a command refuses are taken but not listed."""
    hints, refused = typing.get_type_hints(config_class), getattr(config_class, "refused", {})
    fields = {item.name: item for item in dataclasses.fields(config_class)}
    made: list[tuple[str, Any, Any]] = []
    for name in names:
        item = fields[name]
        metadata = dict(item.metadata) | ({"help": argparse.SUPPRESS} if name in refused else {})
        default: dict[str, Any] = {"default": item.default}
        if item.default_factory is not dataclasses.MISSING:
            default = {"default_factory": item.default_factory}
        made.append((name, hints[name], dataclasses.field(metadata=metadata, **default)))
    namespace = {"_argument_group_name": f"options of {_library(base)}.{base.__name__}"}
    return dataclasses.make_dataclass("Inherited", made, namespace=namespace, kw_only=True)


def suggest(name: str, known: Mapping[str, str], otherwise: str) -> str:
    """The nearest name as a question, else something else to say.

    Args:
        name: what was typed.
        known: names that exist, each with what it is called today.
        otherwise: what to say where none is near.
    """
    plain = name.replace("-", "_").strip("_")
    by_plain = {other.replace("-", "_").strip("_"): now for other, now in reversed(list(known.items()))}
    near = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.7)
    return f"Did you mean {by_plain[near[0]]}?" if near else otherwise
