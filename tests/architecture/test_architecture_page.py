"""The drawings of docs/architecture.md name things that exist, and arrows that the linter knows."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("rooms", "reward_step", "policy_step")
DRAWINGS = [(ROOT / "docs" / "images" / f"{name}.mmd").read_text(encoding="utf-8") for name in NAMES]


def test_the_pictures_are_drawn_from_the_sources():
    for name, drawing in zip(NAMES, DRAWINGS, strict=True):
        picture = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")
        drawn = "".join(re.findall(r">([^<>]+)<", picture)).replace(" ", "")
        labels = re.findall(r'\["(.*?)"\]|-- "(.*?)" -->', drawing)
        for label in (part for pair in labels for text in pair for part in text.split("<br/>") if part):
            assert label.replace(" ", "") in drawn, (name, label)


def test_the_boxes_of_the_two_steps_are_code():
    names = re.findall(r'\["([a-z_]+(?:\.\w+)+)', "\n".join(DRAWINGS[1:]))
    assert len(names) >= 14
    for name in names:
        module, _, attribute = f"odin_rm.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_drawing_of_the_rooms_agrees_with_the_linter():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    floors = [floor.split(" | ") for floor in contracts[0]["layers"]]
    height = {room: -number for number, rooms in enumerate(floors) for room in rooms}
    boxes = set(re.findall(r'^    (\w+)\["', DRAWINGS[0], flags=re.MULTILINE))
    assert boxes == set(height)
    arrows = [
        (start, end)
        for start, ends in re.findall(r'^    (\w+)\[".*?"\] --> (.+)$', DRAWINGS[0], flags=re.MULTILINE)
        for end in ends.split(" & ")
    ]
    assert len(arrows) >= len(height) - 1
    assert [arrow for arrow in arrows if height[arrow[0]] <= height[arrow[1]]] == []
