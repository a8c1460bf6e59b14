"""uvicorn's settings for the study's page."""

from __future__ import annotations

from typing import Any

from odin_rm.serve import http
from odin_rm.serve.study.guard import LIMITS


def server_settings(app: Any, **changes: Any) -> Any:
    """uvicorn's settings: half a request keeps nobody out.

    Args:
        app: the application.
        changes: further settings of uvicorn.
    """
    return http.server_settings(app, LIMITS.within_descriptors(), log_level="warning", **changes)
