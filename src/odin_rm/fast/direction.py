"""Which way a model reads."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def reads_left_to_right(model: nn.Module) -> bool:
    """Whether no token's state depends on later tokens, by what the attention layers (else the config) say."""
    flags = {bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")}
    if flags:
        return all(flags)
    config = next((m.config for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    return hasattr(config, "use_cache") and getattr(config, "is_decoder", True) is not False
