"""One page on any runs."""
