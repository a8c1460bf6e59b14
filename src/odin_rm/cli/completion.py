"""Scripts by which shells complete commands, flags and the words that a flag takes.

They are made of the table of commands and of the descriptions that help is made of, so nothing heavy is imported; what
they hold stands in them, so that completing starts no Python at all.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.parser import ConfigParser
from odin_rm.core.console import say
from odin_rm.core.options import option

SHELLS = ("bash", "zsh", "fish")


@dataclass
class CompletionConfig:
    """Everything that ``odin-rm completion`` takes."""

    shell: str = option(help="Whose script is printed.", choices=SHELLS, positional=True)


@dataclass(frozen=True)
class Flag:
    """A flag as shells need to know it.

    Attributes:
        name: with its dashes.
        words: what it takes, where that is a choice.
        alone: whether nothing follows it.
        summary: the first sentence of its help.
    """

    name: str
    words: tuple[str, ...]
    alone: bool
    summary: str


def run(config: CompletionConfig) -> None:
    """Print the script."""
    say({"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[config.shell]())


def flags_of(command: str) -> list[Flag]:
    """The flags that a command's help lists; of several spellings the first."""
    parser = ConfigParser(load(COMMANDS[command].options), command, inherited=False)
    found = []
    for action in parser._actions:
        names = [name for name in action.option_strings if name.startswith("--")]
        if names and action.help != argparse.SUPPRESS:
            words = ("true", "false") if action.nargs == "?" else tuple(map(str, action.choices or ()))
            found.append(Flag(names[0], words, action.nargs == 0, _summary(action.help or "")))
    return found


def words_of(command: str) -> list[str]:
    """What may follow a command without a flag before it; empty where that is nothing, or a file."""
    parser = ConfigParser(load(COMMANDS[command].options), command, inherited=False)
    choices = [action.choices for action in parser._actions if not action.option_strings]
    return [str(word) for some in choices for word in some or ()]


def _summary(text: str) -> str:
    return re.split(r"[.;:](?:\s|$)", " ".join(text.split()))[0]


def bash_script() -> str:
    """For bash: one function, in which each command has its flags and each flag with a choice its words."""
    commands = " ".join([*COMMANDS, "help"])
    cases, words = [], []
    for command in COMMANDS:
        flags = flags_of(command)
        listed = " ".join([*words_of(command), *(flag.name for flag in flags)])
        cases.append(f"    {command}) flags={shlex.quote(listed)} ;;")
        chosen = {flag.name: shlex.quote(" ".join(flag.words)) for flag in flags if flag.words}
        words += [f"    {command}\\ {name}) choices={some} ;;" for name, some in chosen.items()]
    return "\n".join(
        [
            "# bash completion of odin-rm; made by: odin-rm completion bash",
            "_odin_rm() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" flags="" choices=""',
            "  COMPREPLY=()",
            '  if [ "$COMP_CWORD" -eq 1 ] || { [ "$COMP_CWORD" -eq 2 ] && [ "$before" = help ]; }; then',
            f'    COMPREPLY=($(compgen -W {shlex.quote(commands)} -- "$word"))',
            "    return",
            "  fi",
            '  case "${COMP_WORDS[1]} $before" in',
            *words,
            "  esac",
            '  if [ -n "$choices" ] && [ "${word#-}" = "$word" ]; then',
            '    COMPREPLY=($(compgen -W "$choices" -- "$word"))',
            "    return",
            "  fi",
            '  case "${COMP_WORDS[1]}" in',
            *cases,
            "  esac",
            '  COMPREPLY=($(compgen -W "$flags" -- "$word"))',
            '  [ "${#COMPREPLY[@]}" -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))',
            "}",
            "complete -o filenames -F _odin_rm odin-rm",
        ]
    )


def zsh_script() -> str:
    """For zsh: ``_arguments`` of each command."""
    listed = "\n".join(f"    {_zsh_item(name, about.summary)}" for name, about in COMMANDS.items())
    cases = []
    for command in COMMANDS:
        specs = [f"      {_zsh_spec(flag)} \\" for flag in flags_of(command)]
        rest = f"'*:: :({' '.join(words)})'" if (words := words_of(command)) else "'*:file:_files'"
        cases += [f"    {command})", "      _arguments \\", *specs, f"      {rest}", "      ;;"]
    return "\n".join(
        [
            "#compdef odin-rm",
            "# zsh completion of odin-rm; made by: odin-rm completion zsh",
            "_odin_rm() {",
            "  local -a commands",
            "  commands=(",
            listed,
            "  )",
            "  if (( CURRENT == 2 )) || [[ $CURRENT -eq 3 && $words[2] == help ]]; then",
            "    _describe command commands",
            "    return",
            "  fi",
            "  local command=$words[2]",
            "  shift words",
            "  (( CURRENT -= 1 ))",
            "  case $command in",
            *cases,
            "  esac",
            "}",
            "compdef _odin_rm odin-rm",
        ]
    )


def _zsh_item(name: str, summary: str) -> str:
    return shlex.quote(f"{name}:{summary}")


def _zsh_spec(flag: Flag) -> str:
    summary = re.sub(r"([\[\]:\\])", r"\\\1", flag.summary)
    ending = "" if flag.alone else f":value:({' '.join(flag.words)})" if flag.words else ":value:_files"
    return shlex.quote(f"{flag.name}[{summary}]{ending}")


def fish_script() -> str:
    """For fish: one ``complete`` for each command and flag."""
    lines = [
        "# fish completion of odin-rm; made by: odin-rm completion fish",
        "complete -c odin-rm -n __fish_use_subcommand -f",
    ]
    for name, about in COMMANDS.items():
        lines.append(f"complete -c odin-rm -n __fish_use_subcommand -a {name} -d {_fish(about.summary)}")
    for command in COMMANDS:
        here = f"complete -c odin-rm -n '__fish_seen_subcommand_from {command}'"
        if words := words_of(command):
            lines.append(f"{here} -f -a {_fish(' '.join(words))}")
        for flag in flags_of(command):
            value = "" if flag.alone else f" -x -a {_fish(' '.join(flag.words))}" if flag.words else " -r"
            lines.append(f"{here} -l {flag.name.removeprefix('--')}{value} -d {_fish(flag.summary)}")
    return "\n".join(lines)


def _fish(text: str) -> str:
    """Quoted for fish, which knows a backslash inside single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
