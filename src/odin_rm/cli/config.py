"""Flags and YAML files into one config dataclass: the same names in both, flags win, unknown names are refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

from odin_rm.cli.parser import ConfigParser, own_fields, stock_base
from odin_rm.core.console import say
from odin_rm.core.errors import ConfigError, OdinError
from odin_rm.core.hub import quiet_transformers
from odin_rm.core.options import flag_of
from odin_rm.core.ranks import is_main_process

Config = TypeVar("Config")

HELP = ("-h", "--help")


def parse_config(config_class: type[Config], argv: Sequence[str], command: str) -> Config:
    """Build ``config_class`` from flags and from the YAML file of ``--config``.

    Every field is a flag of its own name. :func:`odin_rm.core.options.option` says what its metadata mean.

    Args:
        config_class: a dataclass, often a subclass of ``TrainingArguments``. It is made exactly once.
        argv: the arguments after the command.
        command: the command's name, for messages and help.

    Raises:
        ConfigError: an unknown flag or key, a value of the wrong type, a missing field, an unusable file, or a
            combination that the class refuses.
        SystemExit: after ``--help`` (code 0).
    """
    if wants_help(argv):
        print_help(config_class, command, inherited=wants_all(argv))
        raise SystemExit(0)
    if stock_base(config_class) is not None:
        quiet_transformers()
    parser = ConfigParser(config_class, command)
    parser.refuse_unknown_flags(argv)
    file = parser.config_file(argv)
    values = parser.file_values(file) if file is not None else {}
    values |= parser.flag_values(argv)
    if is_main_process():
        for old, new in parser.old_names(argv).items():
            say(f"odin-rm {command}: note: {old} is called {new} now", error=True)
    _refuse_nul(config_class, values)
    _refuse_empty(config_class, values)
    try:
        return config_class(**values)
    except OdinError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(_one_line(error), fix=f"See odin-rm {command} --help.") from error


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for help."""
    return any(word in HELP for word in argv)


def wants_all(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for help with everything: ``--help all``."""
    return any(word in HELP and following == "all" for word, following in itertools.pairwise(argv))


def print_help(config_class: type[Any], command: str, *, inherited: bool) -> None:
    """Print the help of a command.

    Args:
        config_class: describes its settings; with ``inherited`` its config itself.
        command: its name.
        inherited: list the settings of transformers' and TRL's training arguments too.
    """
    ConfigParser(config_class, command, inherited=inherited).print_help()


def _refuse_nul(config_class: type[Any], values: dict[str, Any]) -> None:
    """Refuse a NUL byte, which a YAML file can hold and no path or text may."""
    for item in dataclasses.fields(config_class):
        given = values.get(item.name)
        if any(isinstance(text, str) and "\0" in text for text in (given if type(given) is list else [given])):
            raise ConfigError("holds a NUL byte", where=f"--{flag_of(item)}", fix="Give it without.")


def _refuse_empty(config_class: type[Any], values: dict[str, Any]) -> None:
    """Refuse an empty text, as an unset shell variable leaves it: as a path it would mean where the user is.

    Fields whose default is a text may be empty: a title, a pattern.
    """
    ours = {item.name for item in own_fields(config_class)}
    for item in dataclasses.fields(config_class):
        wanted = item.default is dataclasses.MISSING or item.default is None
        if (wanted and item.name in ours) or item.metadata.get("required") or item.name in ("output", "output_dir"):
            given = values.get(item.name)
            if any(isinstance(text, str) and not text.strip() for text in (given if type(given) is list else [given])):
                raise ConfigError("is empty", where=f"--{flag_of(item)}", fix="Give it a value.")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
