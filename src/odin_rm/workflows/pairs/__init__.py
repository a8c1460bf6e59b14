"""The command ``pairs``: from scores to preferences."""
