from __future__ import annotations

import pytest

from odin_rm.evaluation.records import ScoredPreferences
from tests.evaluation.simulate import simulated


@pytest.fixture
def scored() -> ScoredPreferences:
    return simulated()
