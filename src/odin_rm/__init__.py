"""Reward models that do not pay for length: ODIN, exact, audited and exportable."""

__version__ = "0.1.0"
