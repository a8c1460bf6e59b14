"""Names that may be known to the hub: one short question, one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest

from odin_rm.core import hub
from odin_rm.core.errors import ModelError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Addresses asked of a hub that cannot be reached."""
    addresses: list[str] = []

    class Session:
        def head(self, url: str, **options: Any) -> None:
            addresses.append(url)
            raise ConnectionError("[Errno -2] Name or service not known\nfor the host")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    hub._unreachable.cache_clear()
    yield addresses
    hub._unreachable.cache_clear()


def refused(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        hub.check_hub(name, ModelError, "model folder")
    return str(caught.value)


def test_an_unreachable_hub_is_asked_once_and_told_in_one_line(asked):
    said = refused("nobody/nothing")
    assert said.startswith("nobody/nothing: there is no such model folder, and the hub cannot be asked for it ([Errno")
    assert "\n" not in said
    assert refused("nobody/nothing") == said
    assert len(asked) == 1


def test_a_name_that_cannot_be_is_not_asked_for(asked):
    assert "no possible name" in refused("a b")
    assert asked == []


def test_paths_and_cached_models_pass_without_a_question(asked, tmp_path, monkeypatch):
    hub.check_hub(tmp_path, ModelError, "model folder")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    hub.check_hub("nobody/cached", ModelError, "model folder")
    assert asked == []


def test_a_hub_that_answers_leaves_the_word_to_the_loader(asked, monkeypatch):
    session = type("Session", (), {"head": lambda self, url, **options: None})
    monkeypatch.setattr(huggingface_hub.utils, "get_session", session)
    hub.check_hub("nobody/unknown", ModelError, "model folder")


def test_remarks_on_retries_are_left_out_unless_asked_for(monkeypatch):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    monkeypatch.setenv("HF_HUB_VERBOSITY", "info")
    logger.setLevel(logging.INFO)
    try:
        hub.quiet_hub()
        assert logger.level == logging.INFO
        monkeypatch.delenv("HF_HUB_VERBOSITY")
        hub.quiet_hub()
        assert not logger.isEnabledFor(logging.WARNING)
    finally:
        logger.setLevel(before)
