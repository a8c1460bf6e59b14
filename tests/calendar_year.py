"""A chat template's clock in a year of the test's choice."""

from __future__ import annotations

import datetime

import pytest
import transformers.utils.chat_template_utils as chat_template_utils


def set_year(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    """Let templates that ask for the time read the third of March of that year."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, *zone):
            return datetime.datetime(year, 3, 3)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
