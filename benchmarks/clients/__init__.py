"""Clients of the server, each run by the interpreter of its own environment."""
