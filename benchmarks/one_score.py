"""One text, one score: every layout, the export and the last attended token, by tokenizer and family.

    python -m benchmarks.one_score                       # ours: 6 kinds of pad token x families x short and long texts
    python -m benchmarks.one_score --part foreign        # somebody's classifiers against stock transformers, one by one
    python -m benchmarks.one_score --keep DIR --python .venv-interop-transformers4/bin/python   # and by transformers 4

Models are random, at weights where a reading one token off changes a score by tenths of its deviation.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.families import FAMILIES, family_configs
from tests.model.words import ENCODERS, TEXTS, build_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.export import export_quality_head
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer, score_sequences

PADS = ("missing", "eos", "bos", "own", "config only", "different")
LAYOUTS = ("tree", "packed", "padded", "single")
POSITIONS = 640
SETTINGS = EncodingSettings(max_length=600, read_at="end_of_turn")
CHATML = (
    "{% for m in messages %}{{ '<bos>' + m['role'] + ' : ' + m['content'] + '<eos>' + ' .' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>assistant : ' }}{% endif %}"
)


def texts(long: bool) -> list[tuple[str, str]]:
    """Prompts with two responses each; long ones have over 256 tokens."""
    times = 22 if long else 1
    prompts = [(" ".join([p] * (times // 2 or 1)), " ".join([r] * times)) for p, r in TEXTS]
    return [(p, r) for p, r in prompts] + [(prompts[i][0], prompts[i - 1][1]) for i in range(len(prompts))]


def base_model(name: str, pad: str, folder: Path) -> Any:
    """A base model as its author saved it, and its tokenizer; the pad token as ``pad`` says."""
    config = copy.deepcopy(family_configs()[name])
    for field in ("max_position_embeddings", "n_positions"):
        if hasattr(config, field):
            setattr(config, field, POSITIONS)
    tokenizer = build_tokenizer(name, pad=pad in ("own", "different"))
    if pad in ("eos", "bos"):
        tokenizer.pad_token = f"<{pad}>"
    ids = {"missing": None, "eos": config.eos_token_id, "bos": config.bos_token_id, "own": config.pad_token_id}
    config.pad_token_id = ids.get(pad, config.pad_token_id if pad == "config only" else config.eos_token_id)
    if name in ENCODERS:
        config.pad_token_id = family_configs()[name].pad_token_id  # an encoder's embedding knows its own
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).base_model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return tokenizer


def reward_model(name: str, pad: str, folder: Path, *, chat: bool) -> tuple[RewardModel, Any, Path]:
    """A reward model as a training run would save it: its folder, with the pad token that the run chose."""
    tokenizer = base_model(name, pad, folder / "base")
    if chat:
        tokenizer.chat_template = CHATML
    torch.manual_seed(2)
    model = RewardModel.from_backbone(folder / "base", head_scale=3.0).eval()
    ensure_sound_pad_token(tokenizer, model.config, SETTINGS)
    model.grow_vocabulary(int(tokenizer.pad_token_id) + 1)
    model.info = model.info.with_(encoding=vars(SETTINGS))
    model.save_pretrained(folder / "model", tokenizer=tokenizer)
    return model, tokenizer, folder / "model"


def by_layout(path: Path, rows: list[tuple[str, str]]) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Scores of the saved model in each layout that it has, and one by one."""
    scorer = load_scorer(path)
    encoded = encode_responses(scorer.tokenizer, *map(list, zip(*rows, strict=True)), scorer.settings)
    sequences = [np.array(e.input_ids, dtype=np.int32) for e in encoded]
    found = {}
    for layout in LAYOUTS:
        scorer.batch_layout = layout
        try:
            support = scorer.layout(sequences)
        except Exception as error:
            if layout in ("padded", "single"):
                raise
            logging.debug("%s", error)
            continue
        found[layout], _ = score_sequences(
            scorer.model,
            sequences,
            pad_token_id=scorer.pad_token_id,
            microbatch_tokens=4096,
            device=scorer.device,
            layout=support,
        )
    return found, [e.input_ids for e in encoded]


@torch.no_grad()
def by_stock(path: Path, rows: list[tuple[str, str]], *, causal: bool) -> dict[str, np.ndarray]:
    """Scores of the export by stock transformers: padded on either side, and at the last attended token."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in rows]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    found = {}
    # Stock GPT-2 counts positions from the padding on; the tokenizer of the export pads on the right.
    for side in ("right", "left") if causal and model.config.model_type != "gpt2" else ("right",):
        inputs = tokenizer(rendered, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)
        found[f"export, padded on the {side}"] = model(**inputs).logits[:, 0].double().numpy()
    if causal:
        inputs = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        states = model.base_model(**inputs).last_hidden_state
        last = inputs["attention_mask"].sum(-1) - 1
        found["last attended token"] = model.score(states)[torch.arange(len(last)), last, 0].double().numpy()
    return found


def ours(keep: Path | None) -> list[dict[str, Any]]:
    """The matrix: largest difference to the sequences one by one, by family, pad token, length and way."""
    rows = []
    for name in FAMILIES:
        for pad in PADS:
            for chat in (False, True) if name not in ENCODERS else (False,):
                with tempfile.TemporaryDirectory() as scratch:
                    kind = f"{name}-{pad}-{'chat' if chat else 'plain'}".replace(" ", "_")
                    folder = keep / kind if keep else Path(scratch)
                    model, tokenizer, path = reward_model(name, pad, folder, chat=chat)
                    encoded = encode_responses(tokenizer, *map(list, zip(*texts(False), strict=True)), SETTINGS)
                    sequences = [e.input_ids for e in encoded]
                    export_quality_head(model, folder / "export", sequences=sequences, tokenizer=tokenizer)
                    for long in (False, True):
                        pairs = texts(long)
                        found, ids = by_layout(path, pairs)
                        single = found.pop("single")
                        found |= by_stock(folder / "export", pairs, causal=name not in ENCODERS)
                        rows.append(
                            {
                                "family": name,
                                "pad": pad,
                                "template": "chat" if chat else "plain",
                                "length": "long" if long else "short",
                                "tokens": max(map(len, ids)),
                                "deviation": float(single.std()),
                                "differences": {k: float(np.abs(v - single).max()) for k, v in found.items()},
                            }
                        )
                        if keep:
                            content = {"rows": pairs, "scores": single.tolist()}
                            (folder / f"texts-{'long' if long else 'short'}.json").write_text(json.dumps(content))
                    print(json.dumps(rows[-2]), json.dumps(rows[-1]), sep="\n", flush=True)
    return rows


def add_other_release(rows: list[dict[str, Any]], python: str, keep: Path) -> None:
    """Add what another release of transformers makes of the exports to the rows."""
    script = Path(__file__).parent / "shared" / "stock_readings.py"
    answer = json.loads(subprocess.run([python, script, keep], check=True, capture_output=True, text=True).stdout)
    for row in rows:
        differences = answer["differences"][f"{row['family']}-{row['pad']}-{row['template']}".replace(" ", "_")]
        row["differences"][f"transformers {answer['version']}"] = differences[f"texts-{row['length']}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("ours", "foreign"), default="ours")
    parser.add_argument("--keep", type=Path, help="folder to keep exports and texts in")
    parser.add_argument("--python", help="interpreter with another release of transformers that scores what is kept")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.part == "foreign":
        from benchmarks.shared.foreign_readings import foreign

        rows = foreign()
    else:
        rows = ours(options.keep)
    if options.python and options.keep:
        add_other_release(rows, options.python, options.keep)
    worst = max(d for row in rows for d in row["differences"].values())
    print(f"{len(rows)} cells, largest difference {worst:.1e}")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
