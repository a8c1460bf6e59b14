"""TRL's own reward path on an exported model: RLOO loads the folder, scores, and takes a step."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.model.export import export_quality_head
from tests.families import random_sequences, save_base
from tests.model.words import TEXTS, build_tokenizer, reward_model

trl = pytest.importorskip("trl", reason="needs TRL (pip install trl)")
datasets = pytest.importorskip("datasets", reason="needs datasets")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "modernbert"])
def test_rloo_scores_with_the_exported_folder_as_we_do(name, tmp_path):
    settings = EncodingSettings(max_length=60)
    model, tokenizer = reward_model(name, tmp_path / "base", head_scale=2.0), build_tokenizer(name)
    ensure_pad_token(tokenizer, model.config)
    model.info = model.info.with_(encoding=vars(settings))
    export_quality_head(model, tmp_path / "exported", sequences=random_sequences(4), tokenizer=tokenizer)

    policy, writer = save_base("llama", tmp_path / "policy", seed=4), build_tokenizer("llama")
    writer.chat_template = (
        "{{ '<bos>' }}{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
    )
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in TEXTS]
    arguments = trl.RLOOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = trl.RLOOTrainer(
        model=tf.AutoModelForCausalLM.from_pretrained(policy),
        reward_funcs=str(tmp_path / "exported"),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=writer,
    )
    completions = [[{"role": "assistant", "content": response}] for _, response in TEXTS]
    inputs = [{"prompt": prompt} for prompt in prompts]
    found = trainer._calculate_rewards(inputs, prompts, completions, [[5]] * len(TEXTS))[:, 0]
    expected = []
    with torch.no_grad():
        for one in encode_responses(tokenizer, *map(list, zip(*TEXTS, strict=True)), settings):
            ids = torch.tensor([one.input_ids])
            expected.append(float(model(ids, torch.ones_like(ids)).quality))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)

    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/exported/mean" in row]
    assert len(logged) == 1
    assert abs(logged[0]["rewards/exported/mean"]) > 0
