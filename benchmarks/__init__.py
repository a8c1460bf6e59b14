"""Benchmarks; see docs/evidence.md."""

import os

# Some libraries that we are compared with report their use over the network unless told not to.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
