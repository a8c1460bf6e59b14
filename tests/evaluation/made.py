"""Annotations of our own making, and what AlpacaEval's own code says of them.

``made_annotations.json`` holds three systems against one baseline on 30 prompts: words drawn at random, preferences of
a judge that pays for length, and two ties of each system by the older sign 0. The figures are those of
``get_length_controlled_winrate`` in the package alpaca_eval 0.6.6 on these rows: win rate, and win rate by the length
term alone (its ``length_controlled_minimal``, as one logistic regression with ``C=1e9, tol=1e-12``); then wins and
losses.
"""

from __future__ import annotations

from pathlib import Path

MADE = Path(__file__).with_name("made_annotations.json")
ALPACA_EVAL = {
    "terse": (26.88, 3.27729, 3, 25),
    "plain": (41.62667, 42.99666, 11, 17),
    "wordy": (63.38, 43.13578, 20, 8),
}
PROMPTS = 30
