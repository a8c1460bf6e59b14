"""Completion scripts in the shells themselves."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from odin_rm.cli.commands import COMMANDS
from odin_rm.cli.completion import bash_script, fish_script, flags_of, zsh_script
from odin_rm.cli.main import main

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_odin_rm
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory):
    script = tmp_path_factory.mktemp("completion") / "odin-rm.bash"
    script.write_text(bash_script())

    def complete(*words: str) -> set[str]:
        command = ["bash", "-c", ASK, "bash", str(script), "odin-rm", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent)
        assert done.stderr == ""
        return set(done.stdout.split())

    return complete


def test_commands(bash) -> None:
    assert bash("") == {*COMMANDS, "help"}
    assert bash("re") == {"report", "reproduce", "retention", "reward"}
    assert bash("help", "win") == {"win-rate"}


def test_flags_of_a_command(bash) -> None:
    assert bash("score", "--on") == {"--on_bad_row"}
    assert {"--model", "--input", "--output", "--quiet", "--config"} <= bash("score", "--")
    assert bash("win-rate", "--annotations", "a.json", "--per") == {"--per_prompt"}


def test_words_that_a_flag_takes(bash) -> None:
    assert bash("rl", "--algorithm", "") == {"ppo", "remax", "rloo", "grpo"}
    assert bash("rl", "--algorithm", "r") == {"remax", "rloo"}
    assert bash("reward", "--bf16", "") == {"true", "false"}
    assert bash("completion", "z") == {"zsh"}


def test_files_where_a_value_is_wanted(bash) -> None:
    assert bash("score", "--model", "odin-rm.b") == {"odin-rm.bash"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_the_short_help_is_there(command: str, bash, capsys) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    helped = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, flags=re.MULTILINE))
    flags = {flag.name for flag in flags_of(command)}
    assert helped - {"--help"} <= flags
    assert flags <= bash(command, "--")


ZSH = """
autoload -Uz compinit && compinit -u -D
source "$1"
(( $+functions[_odin_rm] )) && print -r -- ${_comps[odin-rm]}
"""


def test_zsh_takes_its_script(tmp_path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "script").write_text(zsh_script())
    done = subprocess.run([zsh, "-f", "-c", ZSH, "zsh", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("_odin_rm\n", "")


def test_fish_completes(tmp_path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    (tmp_path / "script").write_text(fish_script())

    def complete(line: str) -> set[str]:
        ask = f"source {tmp_path / 'script'}; complete -C {shlex.quote(line)}"
        done = subprocess.run([fish, "--no-config", "-c", ask], capture_output=True, text=True)
        assert done.stderr == ""
        return {row.split("\t")[0] for row in done.stdout.splitlines()}

    assert complete("odin-rm rew") == {"reward"}
    assert complete("odin-rm score --on") == {"--on_bad_row"}
    assert complete("odin-rm rl --algorithm r") == {"remax", "rloo"}


def test_scripts_are_printed_without_anything_heavy() -> None:
    code = (
        "import sys\nfrom odin_rm.cli.main import main\nassert main(['completion', 'bash']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == bash_script() + "\n"


def test_an_unknown_shell_is_refused(capsys) -> None:
    assert main(["completion", "tcsh"]) == 2
    shown = capsys.readouterr().err
    assert "invalid choice: 'tcsh'" in shown
    assert shown.count("\n") == 1
    assert main(["completion"]) == 2
