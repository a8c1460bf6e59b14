"""Win rates from annotation files."""
