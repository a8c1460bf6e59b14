"""OpenRLHF: its loader in float32, and the model behind ``openrlhf.cli.serve_rm`` in its own bfloat16.

flash_attn needs a GPU and is only reached with packed samples; empty modules take its place. OpenRLHF knows bf16 and
fp16 only, so for float32 its table of dtypes is answered for it.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import torch
from answer import Answer, batches

TEXTS = ("rendered text", "text as its RL sends it")
SERVED, LOADED = "serve_rm (bf16)", "loader (float32)"


def without_flash_attention() -> None:
    """Put empty modules where flash_attn is imported."""
    for module, names in {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }.items():
        made = types.ModuleType(module)
        made.__spec__ = importlib.machinery.ModuleSpec(module, None)
        for name in names:
            setattr(made, name, None)
        sys.modules[module] = made


def as_rl_sends(tokenizer: Any, rows: list[dict[str, str]]) -> list[str]:
    """Decoded ids of the prompt, of what a policy that follows the template writes, and of the end token.

    Such a policy writes what the template has between the request for an answer and the end token (a space after
    "Assistant:", nothing around a text that the template trims). What the template has after the end token, a line
    break in ChatML, it never writes.
    """
    found = []
    for row in rows:
        chat = [{"role": "user", "content": row["prompt"]}]
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        chat.append({"role": "assistant", "content": row["response"]})
        whole, end = tokenizer.apply_chat_template(chat, tokenize=False), tokenizer.eos_token
        if not whole.startswith(asked) or (end is not None and end not in whole[len(asked) :]):
            raise ValueError("the template does not go on from its request for an answer to an end token")
        written = whole[len(asked) :] if end is None else whole[len(asked) :].rpartition(end)[0]
        parts = (asked, written, end or "")
        ids = [part_id for part in parts for part_id in tokenizer(part, add_special_tokens=False)["input_ids"]]
        found.append(tokenizer.decode(ids, skip_special_tokens=False))
    return found


@torch.no_grad()
def by_loader(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    """Scores in batches padded on the left, as its trainers make them."""
    found: list[float] = []
    for part in batches(texts):
        inputs = tokenizer(part, return_tensors="pt", padding=True, add_special_tokens=False)
        found += model(inputs["input_ids"], inputs["attention_mask"]).tolist()
    return found


def serve(folder: str) -> Any:
    """The model of ``openrlhf.cli.serve_rm`` with its command's own settings, but an attention that a CPU has."""
    from openrlhf.cli.serve_rm import RewardModelProxy

    sections = {
        "reward": {"model_name_or_path": folder, "normalize_enable": False},
        "ds": {
            "attn_implementation": "sdpa",
            "experts_implementation": None,
            "param_dtype": "bf16",
            "load_in_4bit": False,
            "value_head_prefix": "score",
            "packing_samples": False,
        },
        "data": {"disable_fast_tokenizer": False, "max_len": 2048},
    }
    spaces = {key: types.SimpleNamespace(**values) for key, values in sections.items()}
    return RewardModelProxy(types.SimpleNamespace(**spaces, batch_size=8))


def load(folder: str) -> tuple[Any, Any]:
    """Model and tokenizer as its trainers load them, in float32."""
    import openrlhf.utils.utils as utils
    from openrlhf.models import get_llm_for_sequence_regression

    known = utils.convert_to_torch_dtype
    utils.convert_to_torch_dtype = lambda name: torch.float32
    try:
        flags = {"attn_implementation": "sdpa", "value_head_prefix": "score"}
        loaded = get_llm_for_sequence_regression(folder, "reward", **flags).eval()
    finally:
        utils.convert_to_torch_dtype = known
    return loaded, utils.get_tokenizer(folder, loaded, "left")


def score_model(answer: Answer, name: str, model: dict[str, Any]) -> None:
    """One model in all ways."""

    def texts(tokenizer: Any, kind: str) -> list[str]:
        if kind == "rendered text":
            return [tokenizer.apply_chat_template(chat, tokenize=False) for chat in answer.conversations()]
        return as_rl_sends(tokenizer, answer.rows)

    ways = {f"{SERVED}, {kind}": kind for kind in TEXTS}
    proxy = answer.load(name, ways, lambda: serve(model["export"]))
    if proxy is not None:
        for way, kind in ways.items():
            answer.measure(name, way, lambda kind=kind: proxy.get_reward(texts(proxy.tokenizer, kind)))
    ways = {f"{LOADED}, {kind}": kind for kind in TEXTS}
    loaded = answer.load(name, ways, lambda: load(model["export"]))
    if loaded is not None:
        for way, kind in ways.items():
            answer.measure(name, way, lambda kind=kind: by_loader(*loaded, texts(loaded[1], kind)))


def main() -> None:
    without_flash_attention()
    answer = Answer("openrlhf", "transformers", "deepspeed", "torch")
    for name, model in answer.models():
        score_model(answer, name, model)


if __name__ == "__main__":
    main()
