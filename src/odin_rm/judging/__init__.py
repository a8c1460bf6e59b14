"""Judges of two answers: chat endpoints, reward models, the testbed's truth, recorded judgements; and their memory."""
