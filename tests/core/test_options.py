"""The kit for settings: bounds and choices stand in a field's metadata and are held in one place."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.core.errors import ConfigError
from odin_rm.core.options import Bounds, check_options, option, options_of

of_text = options_of("text")


@dataclass
class Dial:
    """A setting of each kind."""

    steps: int = option(3, "How many.", at_least=1)
    rate: float = option(0.5, "A share.", at_least=0, below=1)
    power: float = option(1.0, "Positive.", above=0)
    clip: float = option(math.inf, "Positive, or no clip.", above=0, infinite=True)
    limit: int | None = option(None, "At most.", at_least=2, at_most=9)
    colour: str = of_text("red", "Its colour.", choices=("red", "blue"))
    shade: str | None = of_text(None, "Its shade.", choices=("dark",))
    warmth: float | None = option(0.0, "None leaves it out.", at_least=0)
    names: list[str] = option(["a"], "Names.")


def test_defaults_pass_and_lists_are_not_shared() -> None:
    one, other = Dial(), Dial()
    check_options(one)
    one.names.append("b")
    assert other.names == ["a"]
    assert {item.name: item.metadata.get("group") for item in fields(Dial)}["colour"] == "text"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 0}, "--steps: must be at least 1, it is 0"),
        ({"steps": None}, "--steps: must be at least 1, it is None"),
        ({"steps": "4"}, "--steps: must be at least 1, it is 4"),
        ({"rate": 1.0}, "--rate: must be at least 0 and below 1, it is 1.0"),
        ({"rate": -0.1}, "--rate: must be at least 0 and below 1, it is -0.1"),
        ({"rate": math.nan}, "--rate: must be at least 0 and below 1, it is nan"),
        ({"power": 0}, "--power: must be positive, it is 0"),
        ({"power": math.inf}, "--power: must be positive, it is inf"),
        ({"clip": -math.inf}, "--clip: must be positive, it is -inf"),
        ({"limit": 1}, "--limit: must be at least 2 and at most 9, it is 1"),
        ({"limit": 10}, "--limit: must be at least 2 and at most 9, it is 10"),
        ({"colour": "green"}, "--colour: must be one of red, blue, it is 'green'"),
        ({"colour": None}, "--colour: must be one of red, blue, it is None"),
        ({"shade": "light"}, "--shade: must be one of dark, it is 'light'"),
    ],
)
def test_what_is_outside_is_refused_in_one_wording(changes: dict, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(Dial(**changes))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "changes", [{"steps": 1}, {"rate": 0}, {"rate": 0.999}, {"limit": 2}, {"limit": 9}, {"warmth": None}]
)
def test_the_ends_and_what_may_be_absent_are_inside(changes: dict) -> None:
    check_options(Dial(**changes))


def test_bounds_in_words() -> None:
    assert str(Bounds(above=2, at_most=2**32)) == "above 2 and at most 4294967296"
    assert str(Bounds()) == "a finite number"
    assert not Bounds().holds(math.inf)
    assert Bounds(infinite=True).holds(math.inf)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_default_lies_inside_its_own_bounds(name: str) -> None:
    for item in fields(load(COMMANDS[name].options)):
        bounds, choices = item.metadata.get("bounds"), item.metadata.get("choices")
        if item.default is not None and item.default is not dataclasses.MISSING:
            assert bounds is None or bounds.holds(item.default), item.name
            assert not choices or item.default in choices, item.name


def test_no_other_helper_makes_options() -> None:
    """One of everything: a config's field is made by ``option`` and by nothing else."""
    root = Path(__file__).resolve().parents[2] / "src" / "odin_rm"
    for about in COMMANDS.values():
        text = (root / Path(*about.options.split(":")[0].split(".")[1:]).with_suffix(".py")).read_text(encoding="utf-8")
        assert not re.search(r"= (field|dataclasses\.field)\(\s*(default=[^,]*,\s*)?metadata", text), about.options
        assert not re.search(r"^def (_option|setting|knob)\(", text, flags=re.MULTILINE), about.options
