"""Policies trained on demonstrations or preferences: ``odin-rm sft`` and ``odin-rm dpo``."""
