"""The model card: what the model is, how it was trained, what the audit measured. Written beside every saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from odin_rm.core.files import atomic_write_text
from odin_rm.model.info import RewardModelInfo

# The figures of audit.json that a reader of the card wants first.
CARD_FIGURES = (
    "accuracy",
    "accuracy_chosen_longer",
    "accuracy_chosen_shorter",
    "accuracy_length_balanced",
    "pearson",
    "spearman",
    "kendall",
    "pearson_within_prompt",
    "information_beyond_length",
)

_INTRO = """\
---
{{ front_matter }}---

# Reward model ({{ info.objective }})

Trained with [odin-rm](https://pypi.org/project/odin-rm/). {% if "length" in info.heads -%}
Two heads on one feature: `quality`, the reward, and `length`, which absorbed what pays for length in training and is
never part of the reward.
{%- else -%}
One head, `quality`: the plain Bradley-Terry baseline.
{%- endif %} {% if info.pooling == "backbone" -%}
The folder loads as a stock one-label classifier whose label is `quality`
(`AutoModelForSequenceClassification.from_pretrained`); the heads by name are in `reward_heads.safetensors`.
{%- else -%}
The heads read {{ info.pooling }}-pooled features, so only odin-rm scores with this model:
`odin_rm.RewardModel.from_pretrained`.
{%- endif %}
{% if info.base_model %}
This is a LoRA adapter for `{{ info.base_model }}`; `odin-rm export` merges it into a stock classifier.
{% endif %}
"""

_EXPORT_INTRO = """\
---
{{ front_matter }}---

# Quality reward ({{ info.objective }})

The quality head of a reward model trained with [odin-rm](https://pypi.org/project/odin-rm/), as a stock
one-label sequence classifier: the single logit is the reward of a response, higher is better. {% if "length" in
info.heads -%}
The length head that absorbed what pays for length in training is not part of it.
{%- else -%}
It is the plain Bradley-Terry baseline; nothing was done about length in its training.
{%- endif %}

{% if chat_template -%}
```python
from transformers import pipeline

score = pipeline("text-classification", model="this folder", function_to_apply="none")
messages = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."}]
text = score.tokenizer.apply_chat_template(messages, tokenize=False)
print(score(text, add_special_tokens=False))  # the template has written them already
```

Texts longer than {{ info.encoding.get("max_length", 1024) }} tokens did not occur in training. TRL takes the folder as
it is (`reward_funcs="this folder"`).
{% else -%}
The tokenizer has no chat template that gives the token ids of the training; score with `odin-rm score`, or render texts
as odin-rm's documentation of the plain template says.
{% endif %}
"""

_FIGURES = """\
{% if info.reward_std is not none -%}
On the reference set ({{ info.reference.get("responses", "?") }} responses) the quality reward has mean
{{ "%.4f"|format(info.reward_mean) }} and deviation {{ "%.4f"|format(info.reward_std) }}.
{% endif %}
{% if info.audit -%}
## Audit

On {{ info.audit.get("dataset", "held-out pairs") }}: {{ info.audit.get("pairs", "?") }} pairs, length in
{{ info.length_unit }}, 95 % bootstrap intervals.

| figure | value | low | high |
|---|---|---|---|
{% for name in figures if name in info.audit and info.audit[name].value is not none -%}
| {{ row(name, info.audit[name]) }} |
{% endfor %}
{% endif -%}
{% if info.training -%}
## Training

| setting | value |
|---|---|
{% for name, value in info.training.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
{% endif -%}
## Reference

Chen et al., "ODIN: Disentangled Reward Mitigates Hacking in RLHF", ICML 2024, arXiv 2402.07319.
"""


def write_export_card(folder: Path, info: RewardModelInfo, *, chat_template: bool) -> None:
    """Write ``README.md`` of an exported quality head.

    Args:
        folder: the exported folder.
        info: the reward model's description with audit and training figures.
        chat_template: whether the exported tokenizer renders conversations as the training did.
    """
    _write(folder, info, _EXPORT_INTRO + _FIGURES, chat_template=chat_template)


def write_model_card(folder: Path, info: RewardModelInfo) -> None:
    """Write ``README.md`` with front matter that the hub reads.

    Args:
        folder: the model folder.
        info: the model's description with audit and training figures.
    """
    _write(folder, info, _INTRO + _FIGURES)


def _write(folder: Path, info: RewardModelInfo, template: str, **values: Any) -> None:
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "odin-rm", info.objective],
    }
    base = info.base_model or info.training.get("model")
    if base and "/" in str(base) and not Path(base).exists():  # a hub id; a folder means nothing to others
        front["base_model"] = base
    header = yaml.safe_dump(front, sort_keys=False)
    render = jinja2.Template(template, keep_trailing_newline=True).render
    text = render(front_matter=header, info=info, figures=CARD_FIGURES, row=_row, **values)
    atomic_write_text(folder / "README.md", text)


def _row(name: str, figure: dict[str, float | None]) -> str:
    numbers = ["-" if figure.get(part) is None else f"{figure[part]:.3f}" for part in ("value", "low", "high")]
    return " | ".join([name.replace("_", " "), *numbers])
