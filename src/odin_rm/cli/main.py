"""The ``odin-rm`` command: finds the command in the table, runs it, and turns errors into exit codes.

0 done; 2 the user's input or flags are wrong (one line, no traceback); 130 interrupted, state saved; 1 the machine
cannot go on (one line: a full disk, a full memory), or it is our fault (a traceback).
"""

from __future__ import annotations

import difflib
import os
import resource
import select
import sys
import time
import traceback
import warnings
from contextlib import nullcontext

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.log_lines import shown_log
from odin_rm.cli.next_steps import AFTER
from odin_rm.core import console
from odin_rm.core.console import say
from odin_rm.core.errors import ConfigError, MachineError, OdinError, RunInterrupted
from odin_rm.core.hub import quiet_hub, quiet_transformers
from odin_rm.core.progress import duration
from odin_rm.core.ranks import end_processes, is_main_process
from odin_rm.core.signals import interruptible
from odin_rm.core.system import system_error
from odin_rm.core.untrusted import shortened

INTERRUPTED = 130
PIPE_CLOSED = 141  # as of programs that SIGPIPE ends


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after ``odin-rm``; ``None`` takes those of the process.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments:
        say(overview(), error=True)
        return ConfigError.exit_code
    command, rest = arguments[0], arguments[1:]
    if command == "help" and rest:  # "help reward" is "reward --help"
        command, rest = rest[0], ["--help", *rest[1:]]
    if command in ("-h", "--help", "help"):
        say(overview())
        return 0
    if command in ("-V", "--version"):
        from odin_rm import __version__

        say(f"odin-rm {__version__}")
        return 0
    if command not in COMMANDS:
        say(f"odin-rm: error: {shortened(str(unknown_command(command)))}", error=True)
        return ConfigError.exit_code
    return _run(command, rest)


def _run(command: str, arguments: list[str]) -> int:
    try:
        with interruptible(), warnings.catch_warnings():
            if not sys.warnoptions and "--verbose" not in arguments:
                # Old names that the libraries use among themselves; no user can change them.
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"(accelerate|transformers|peft)\b")
            code = _parse_and_run(command, arguments)
            sys.stdout.flush()
            return code
    except OdinError as error:
        kept = COMMANDS[command].kept
        if isinstance(error, MachineError) and kept not in error.fix and "--resume_from_checkpoint" not in error.fix:
            error.fix = f"{error.fix} {kept}".strip()
        if is_main_process() or not error.raised_on_every_rank:
            kind = "interrupted" if isinstance(error, RunInterrupted) else "error"
            say(f"odin-rm {command}: {kind}: {shortened(str(error))}", error=True)
        if error.raised_on_every_rank:
            _release_frames(error)
            end_processes()  # else torch may abort at exit, and its code hides ours
        return error.exit_code
    except KeyboardInterrupt:
        say(f"odin-rm {command}: interrupted", error=True)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more at exit
            return PIPE_CLOSED
        told = system_error(error, COMMANDS[command].kept)
        if told is not None:
            say(f"odin-rm {command}: error: {shortened(str(told))}", error=True)
            return told.exit_code
        say(traceback.format_exc().rstrip(), error=True)
        say(f"odin-rm {command}: this is a bug in odin-rm; please report the lines above", error=True)
        return 1


def _parse_and_run(command: str, arguments: list[str]) -> int:
    from odin_rm.cli.config import parse_config, print_help, wants_all, wants_help

    about = COMMANDS[command]
    console.set_level(console.level_of(arguments))
    quiet_hub()
    quiet_transformers()
    if wants_help(arguments):
        inherited = wants_all(arguments)
        print_help(load(about.config if inherited else about.options), command, inherited=inherited)
        raise SystemExit(0)
    began = time.monotonic()
    config = parse_config(load(about.config), arguments, command)
    with shown_log() if console.level() == console.VERBOSE else nullcontext():
        code = int(load(about.run)(config) or 0)
    if code == 0 and is_main_process() and (words := AFTER[command](config)):
        console.next_step(*words)
    if console.level() == console.VERBOSE and is_main_process():
        console.say(f"odin-rm {command}: {duration(time.monotonic() - began)}, at most {_peak_memory()}", sys.stderr)
    return code


def _peak_memory() -> str:
    """The most memory that this process has held at a time."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return f"{kibibytes / 1024:,.0f} MiB of memory"


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone, as with ``| head``."""
    poll = select.poll()
    poll.register(1)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _release_frames(error: BaseException | None) -> None:
    """Clear the frames of an error that has been told: what they hold, models on several processes, goes with them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def overview() -> str:
    """The text of ``odin-rm --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: odin-rm <command> [options]",
            "",
            "Reward models that do not pay for length.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  -h, --help     show this help; 'odin-rm help <command>' and 'odin-rm <command> --help' list its options",
            "  -V, --version  show the version",
        ]
    )


def unknown_command(name: str) -> ConfigError:
    """The error for a command that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    fix = f"Did you mean '{near[0]}'?" if near else f"Use one of: {', '.join(COMMANDS)}."
    return ConfigError(f"unknown command '{name}'", fix=fix)


if __name__ == "__main__":
    sys.exit(main())
