"""uvicorn's settings for the study's page."""

from __future__ import annotations

from typing import Any

import uvicorn

from odin_rm.serve.http import patient_protocol
from odin_rm.serve.study.guard import LIMITS


def server_settings(app: Any, **changes: Any) -> uvicorn.Config:
    """uvicorn's settings: half a request keeps nobody out.

    Args:
        app: the application.
        changes: further settings of uvicorn.
    """
    protocol = patient_protocol(LIMITS.within_descriptors())
    return uvicorn.Config(app, http=protocol, ws="none", log_level="warning", access_log=False, **changes)
