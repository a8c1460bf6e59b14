"""The oldest versions that ``pyproject.toml`` allows, as constraints for pip: ``make test-oldest``.

Lower bounds are part of what is promised, and some of them are there for safety. Tools of the tests alone stay free.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

EXTRAS = ("judge", "peft", "serve", "slurm", "study")
_BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)$")


def oldest(project: dict, but: tuple[str, ...] = ()) -> list[str]:
    """``name==version`` for each lower bound of the dependencies and of the extras that tests use."""
    wanted = [*project["dependencies"], *(one for name in EXTRAS for one in project["optional-dependencies"][name])]
    found = {match[1]: match[2] for one in wanted if (match := _BOUND.match(one))}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name not in but]


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--but", nargs="*", default=(), help="packages that stay free, where a build cannot be had")
    content = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(oldest(tomllib.loads(content)["project"], tuple(parser.parse_args().but))))


if __name__ == "__main__":
    main()
