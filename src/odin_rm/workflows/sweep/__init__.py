"""One command over many settings."""
