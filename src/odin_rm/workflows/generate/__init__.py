"""Responses to a file of prompts, from a model or an endpoint."""
