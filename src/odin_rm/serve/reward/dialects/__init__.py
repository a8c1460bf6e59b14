"""Protocols as pure functions: what a client asks to a list of texts, and scores to what it expects back."""
