"""What ``import odin_rm`` offers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import odin_rm


@pytest.mark.parametrize("name", odin_rm._HOME)
def test_every_public_name_is_where_it_says(name):
    assert getattr(odin_rm, name).__module__ == odin_rm._HOME[name]
    assert name in dir(odin_rm)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(odin_rm.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == odin_rm._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = odin_rm.nothing
    assert not hasattr(odin_rm, "nothing")
