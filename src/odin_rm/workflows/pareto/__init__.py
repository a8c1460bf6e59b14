"""Fronts of a score against length over many runs."""
