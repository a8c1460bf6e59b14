"""Scores added to a file of rows."""
