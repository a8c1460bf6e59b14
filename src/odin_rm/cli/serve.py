"""One server that answers the reward protocols of all trainers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odin_rm.serve.reward.config import ServeConfig


def run(config: ServeConfig) -> None:
    """Serve until stopped."""
    from odin_rm.serve.reward.run import serve

    serve(config, announce)
    print("All requests are answered; the server has ended.")


def announce(models: dict[str, Any], address: str) -> None:
    """What is served, and where."""
    for name, model in models.items():
        print(f"{name}: {model.path}, window {model.window:,} tokens")
    print(f"Serving at {address}/ (Ctrl-C or SIGTERM ends it when requests under way are answered)", flush=True)
