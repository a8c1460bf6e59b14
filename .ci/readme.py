"""What the README says, done: a fresh clone, an empty environment, every command and snippet from top to bottom.

    python .ci/readme.py                     clone into a temporary folder, make its environment, do all of it
    python .ci/readme.py --folder DIR        the same in DIR; a clone that is there already is gone on with
    python .ci/readme.py --bin DIR           the walk alone, with the commands that are installed in DIR

It needs git, make, bash and Python, and nothing of the project. Nothing of the caller's environment but the path, the
home folder and pip's settings is passed on. Two things of the README are left out, and named at the end: ``make test``
(``.ci/run`` does it) and commands with a model of the hub, where there is no network (``--hub`` tries them).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_THE_HUB = "Qwen/"
PASSED_ON = re.compile(r"PATH|HOME|LANG|TERM|TMPDIR|OMP_NUM_THREADS|PIP_\w+|\w+_(proxy|PROXY|CERT_FILE|CA_BUNDLE)")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


class Walk:
    """Does one step after the other in a folder, each with its time; the first that fails ends all."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.left_out: list[str] = []
        self.steps = 0

    def do(self, name: str, command: list[str]) -> None:
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(f"{time.monotonic() - began:7.1f} s  {name}", flush=True)
        if done.returncode != 0:
            sys.exit(f"{command[-1]}\n{done.stdout}\nreadme: exit code {done.returncode} in: {name}")
        self.steps += 1

    def readme(self, page: str, *, hub: bool) -> None:
        """The walk and the snippets; ``quickstart/`` is there."""
        code = re.finditer(r"^```(sh|python)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
        for language, text in (match.groups() for match in code):
            first = text.replace("\\\n", " ").split("\n")[0][:90]
            if OF_THE_HUB in text and not hub:
                self.left_out.append(first)
            elif language == "sh":
                self.do(first, ["bash", "-euc", text])
            else:
                self.do(f"python: {len(text.splitlines())} lines", ["python", "-c", text])


def in_a_clone(folder: Path, environment: dict[str, str]) -> tuple[Walk, str]:
    """The clone after the README's two commands, with its commands on the path; and the README."""
    clone = folder / "clone"
    if not clone.exists():
        Walk(folder, environment).do("git clone", ["git", "clone", "-q", str(ROOT), "clone"])
    page = (clone / "README.md").read_text(encoding="utf-8")
    walk = Walk(clone, environment)
    for line in blocks(page, "")[0].splitlines():
        command = line.split("#")[0].strip()
        if command == "make test":
            walk.left_out.append(command)
        elif command:
            walk.do(command, ["bash", "-euc", command])
    (exported,) = re.findall(r"`(export PATH=[^`]+)`", page)
    shown = subprocess.run(
        ["bash", "-euc", f'{exported}; echo "$PATH"'], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True
    )
    walk.environment = environment | {"PATH": shown.stdout.strip()}
    return walk, page


def main() -> None:
    """Parse the arguments, do it, say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the clone goes; default a temporary folder that is deleted afterwards")
    parser.add_argument("--bin", help="folder of the installed commands; nothing is cloned or installed")
    parser.add_argument("--hub", action="store_true", help="try the commands with a model of the hub, too")
    options = parser.parse_args()
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.bin:
            path = f"{options.bin}{os.pathsep}{environment['PATH']}"
            walk = Walk(folder, environment | {"PATH": path, "PYTHONPATH": str(ROOT / "src")})
            page = (ROOT / "README.md").read_text(encoding="utf-8")
            walk.do("odin-rm quickstart", ["odin-rm", "quickstart", "--output", "quickstart", "--overwrite"])
        else:
            walk, page = in_a_clone(folder, environment)
        walk.readme(page, hub=options.hub)
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:7.1f} min  in all, {walk.steps} steps; left out: {'; '.join(walk.left_out) or 'nothing'}")


if __name__ == "__main__":
    main()
