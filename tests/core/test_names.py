"""Names that tell folders apart."""

from __future__ import annotations

import pytest

from odin_rm.core.names import distinct_names, place_name


@pytest.mark.parametrize(
    ("place", "name"),
    [("runs/odin/model", "odin"), ("/a/b/policy", "b"), ("odin", "odin"), ("model", "model"), ("org/name", "name")],
)
def test_the_last_part_that_says_something(place: str, name: str) -> None:
    assert place_name(place) == name


def test_as_many_parts_as_tell_them_apart() -> None:
    places = ["runs/1/odin/model", "runs/2/odin/model", "runs/2/vanilla/model", "runs/2/vanilla/model"]
    assert distinct_names(places) == {
        "runs/1/odin/model": "1/odin",
        "runs/2/odin/model": "2/odin",
        "runs/2/vanilla/model": "vanilla",
    }
    # One that ends where the other begins, and two that differ in what says nothing.
    assert distinct_names(["x", "a/x"]) == {"x": "x", "a/x": "a/x"}
    assert distinct_names(["a/model", "a/policy"]) == {"a/model": "a/model", "a/policy": "a/policy"}
