"""One server that answers the reward protocols of all trainers."""

from __future__ import annotations

from typing import Any

from odin_rm.core.console import say
from odin_rm.serve.reward.config import ServeConfig


def run(config: ServeConfig) -> None:
    """Serve until stopped."""
    from odin_rm.serve.reward.run import serve

    serve(config, announce)
    say("All requests are answered; the server has ended.")


def announce(models: dict[str, Any], address: str) -> None:
    """What is served, and where."""
    for name, model in models.items():
        say(f"{name}: {model.path}, window {model.window:,} tokens")
    say(f"Serving at {address}/ (Ctrl-C or SIGTERM ends it when requests under way are answered)")
