"""``odin-rm best-of-n``."""
