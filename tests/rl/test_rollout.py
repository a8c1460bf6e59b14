"""Rollouts: what is written, with which probability, and that neither company nor batching changes a response."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from odin_rm.core.errors import ConfigError
from odin_rm.model.policy import collate_responses, end_token_ids, load_policy, response_log_probs
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.rollout import TransformersEngine, read_response
from tests.families import EOS, VOCABULARY
from tests.model.policies import FAMILIES, prompts, save_policy_folder
from tests.model.words import build_tokenizer

NEW_TOKENS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One policy of each family, whose end token is likely enough to come up; never written to."""
    place = tmp_path_factory.mktemp("policies")
    for name in FAMILIES:
        save_policy_folder(name, place / name)
    return place


def engine_of(folder: Path, name: str = "llama", tokens: int = 10_000, ends: set[int] | None = None, **kwargs):
    model, tokenizer = load_policy(folder / name, **kwargs)
    ends = ends or {EOS, 7, 8, 9, 10, 11}
    return TransformersEngine(model, tokenizer, rollout_tokens=tokens, end_token_ids=ends)


def write(engine, asked=None, *, greedy=None, seed=0, **sampling):
    torch.manual_seed(seed)
    settings = SamplingSettings(**({"max_new_tokens": NEW_TOKENS} | sampling))
    return engine.generate(asked or prompts(), settings, greedy=greedy)


def ids(rollouts) -> list[list[int]]:
    return [rollout.response_ids for rollout in rollouts]


class Recorder:
    """Runs ``generate`` as it is and keeps what each token was drawn from, by row and step."""

    def __init__(self, model) -> None:
        self.calls: list[SimpleNamespace] = []
        own = model.generate

        def generate(input_ids, *, generation_config, **kwargs):
            generation_config.output_scores = True
            out = own(input_ids, generation_config=generation_config, **kwargs)
            scores = torch.stack(out.scores, 1)
            self.calls.append(SimpleNamespace(input_ids=input_ids, ids=out.sequences, scores_BTV=scores))
            return out

        model.generate = generate


# ---- the log-probs of training are those of sampling -----------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_log_probs_equal_those_that_the_tokens_were_drawn_with(name, temperature, folder):
    engine = engine_of(folder, name)
    recorder = Recorder(engine.model)
    rollouts = write(engine, temperature=temperature)
    batch = collate_responses([r.prompt_ids for r in rollouts], ids(rollouts), pad_token_id=0)
    found_BT = response_log_probs(engine.model, batch, temperature)
    (call,) = recorder.calls
    drawn_BTV = call.scores_BTV.log_softmax(-1)
    order = sorted(range(len(rollouts)), key=lambda i: -len(rollouts[i].prompt_ids))
    for row, position in enumerate(order):
        response = torch.tensor(rollouts[position].response_ids)
        expected_T = drawn_BTV[row, torch.arange(len(response)), response]
        torch.testing.assert_close(found_BT[position, : len(response)], expected_T, rtol=0, atol=1e-5)
    assert any(r.ended for r in rollouts)  # the end token's log-prob is among those compared


def test_the_settings_that_come_with_a_model_do_not_touch_the_distribution(folder):
    engine = engine_of(folder)
    expected = ids(write(engine))
    config = engine.model.generation_config
    config.repetition_penalty, config.top_p, config.top_k, config.temperature = 5.0, 0.1, 2, 0.1
    config.max_length, config.no_repeat_ngram_size, config.eos_token_id = 5, 1, 33
    assert ids(write(engine)) == expected
    assert engine.model.generation_config is config
    assert config.repetition_penalty == 5.0


@torch.no_grad()
def test_samples_come_from_the_policys_distribution_at_the_temperature(folder):
    engine = engine_of(folder)
    (asked,) = prompts(1)
    shares = {}
    for temperature in (1.0, 0.3):
        rollouts = write(engine, [asked] * 4000, max_new_tokens=1, temperature=temperature)
        found_V = torch.bincount(torch.tensor([r.response_ids[0] for r in rollouts]), minlength=VOCABULARY) / 4000
        expected_V = (engine.model(torch.tensor([asked])).logits[0, -1] / temperature).softmax(-1)
        assert (found_V - expected_V).abs().max() < 0.03
        shares[temperature] = float(found_V.max())
    assert shares[0.3] > shares[1.0] + 0.05


def test_top_k_and_top_p_cut_the_distribution(folder):
    engine = engine_of(folder)
    greedy = ids(write(engine, greedy=[True] * 6))
    assert ids(write(engine, top_k=1)) == greedy
    assert ids(write(engine, top_p=1e-6)) == greedy
    assert ids(write(engine)) != greedy


# ---- company, order, batches, greedy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_rows_in_a_mixed_batch_equal_a_greedy_run_and_each_row_alone(name, folder):
    engine = engine_of(folder, name)
    asked = prompts()
    expected = ids(write(engine, asked, greedy=[True] * 6))
    mixed = write(engine, asked + asked, greedy=[False] * 6 + [True] * 6)
    assert ids(mixed[6:]) == expected
    assert ids(mixed[:6]) != expected
    assert [ids(write(engine, [one], greedy=[True]))[0] for one in asked] == expected
    for position, prompt in enumerate(asked):  # by the definition: the argmax, token by token, without a cache
        text = list(prompt)
        for token in expected[position]:
            with torch.no_grad():
                assert int(engine.model(torch.tensor([text])).logits[0, -1].argmax()) == token
            text.append(token)


@pytest.mark.parametrize("name", [*FAMILIES, "mamba"])
def test_rows_go_on_without_those_that_have_ended(name, folder):
    asked = [prompts(8)[i % 8][: 1 + i] for i in range(24)]
    engine = mamba_engine() if name == "mamba" else engine_of(folder, name, ends={EOS})
    unended = ids(write(engine, asked, greedy=[True] * 24))
    engine.end_token_ids = {row[(1 + i) % len(row)] for i, row in enumerate(unended[:12])}
    expected = [ids(write(engine, [one], greedy=[True]))[0] for one in asked]
    recorder = Recorder(engine.model)
    assert ids(write(engine, asked, greedy=[True] * 24)) == expected
    assert ids(write(engine, asked * 2, greedy=[False] * 24 + [True] * 24))[24:] == expected
    sizes = [len(call.input_ids) for call in recorder.calls]
    assert sizes[0] == 24
    assert all(later <= earlier / 2 for earlier, later in pairwise(sizes) if later < 48)
    assert len(sizes) > 2, "nothing was thinned out"


def mamba_engine() -> TransformersEngine:
    """A state-space model, whose cache is of another kind."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, eos_token_id=EOS)
    model = MambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return TransformersEngine(model, build_tokenizer("llama"), rollout_tokens=10_000, end_token_ids={EOS})


@torch.no_grad()
def test_samples_of_thinned_batches_are_drawn_from_the_same_distribution(folder):
    engine = engine_of(folder)
    (asked,) = prompts(1)
    rollouts = write(engine, [asked] * 4000, max_new_tokens=3, temperature=1.0)
    # The third token of the responses that begin with the likeliest pair, against the model asked at once.
    pairs = Counter(tuple(r.response_ids[:2]) for r in rollouts if len(r.response_ids) == 3)
    (first, count), *_ = pairs.most_common(1)
    thirds = torch.tensor([r.response_ids[2] for r in rollouts if tuple(r.response_ids[:2]) == first])
    found_V = torch.bincount(thirds, minlength=VOCABULARY) / count
    expected_V = engine.model(torch.tensor([[*asked, *first]])).logits[0, -1].softmax(-1)
    assert (found_V - expected_V).abs().max() < 4 * (0.25 / count) ** 0.5


def test_results_are_in_the_order_of_the_prompts_whatever_the_batches(folder):
    asked = prompts(8)
    expected = ids(write(engine_of(folder), asked, greedy=[True] * 8))
    for tokens in (1, 30, 64):
        engine = engine_of(folder, tokens=tokens)
        recorder = Recorder(engine.model)
        rollouts = write(engine, asked, greedy=[True] * 8)
        assert ids(rollouts) == expected
        assert [r.prompt_ids for r in rollouts] == asked
        for call in recorder.calls:
            rows, width = call.input_ids.shape
            assert rows == 1 or rows * (width + NEW_TOKENS) <= tokens
    assert ids(write(engine, asked[::-1], greedy=[True] * 8)) == expected[::-1]


def test_the_seed_decides(folder):
    engine = engine_of(folder, tokens=40)
    assert ids(write(engine, seed=3)) == ids(write(engine, seed=3))
    assert ids(write(engine, seed=3)) != ids(write(engine, seed=4))


def test_equal_prompts_get_different_samples(folder):
    rollouts = write(engine_of(folder), [prompts(1)[0]] * 8)
    assert len({tuple(r.response_ids) for r in rollouts}) > 1


def test_no_prompts_give_no_responses(folder):
    assert engine_of(folder).generate([], SamplingSettings()) == []


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_a_response_stops_at_its_first_end_token_which_it_keeps(folder):
    ends = {EOS, 7, 8, 9, 10, 11}
    rollouts = write(engine_of(folder, ends=ends), prompts(8) * 3)
    assert {r.ended for r in rollouts} == {True, False}
    for rollout in rollouts:
        *body, last = rollout.response_ids
        assert not ends & set(body)
        assert rollout.ended == (last in ends)
        assert len(rollout.response_ids) == NEW_TOKENS or rollout.ended
        assert rollout.response_tokens == len(rollout.response_ids) - rollout.ended


@torch.no_grad()
def test_a_policy_that_ends_at_once_writes_its_end_token_alone(folder):
    engine = engine_of(folder, ends=set(range(VOCABULARY)))
    recorder = Recorder(engine.model)
    rollouts = write(engine)
    assert all(len(r.response_ids) == 1 and r.ended and r.response_tokens == 0 and r.text == "" for r in rollouts)
    assert recorder.calls[0].scores_BTV.shape[1] == 1  # it stopped early
    batch = collate_responses([r.prompt_ids for r in rollouts], ids(rollouts), 0)
    assert batch.response_mask_BT.tolist() == [[1.0]] * 6
    assert bool((response_log_probs(engine.model, batch, 1.0) < 0).all())


def test_a_policy_that_never_ends_is_cut_at_the_limit(folder):
    engine = engine_of(folder)
    engine.end_token_ids = {VOCABULARY - 1}
    with torch.no_grad():
        engine.model.lm_head.weight[VOCABULARY - 1] = 0
        engine.model.lm_head.weight.mul_(20)
    rollouts = write(engine, greedy=[True] * 6)
    assert all(len(r.response_ids) == NEW_TOKENS and not r.ended for r in rollouts)
    assert all(r.response_tokens == NEW_TOKENS for r in rollouts)


def test_a_pad_token_that_is_the_end_token_is_no_trap(folder, tmp_path):
    save_policy_folder("llama", tmp_path / "llama")
    build_tokenizer("llama", pad=False).save_pretrained(tmp_path / "llama")
    engine = engine_of(tmp_path)
    assert engine.tokenizer.pad_token_id == EOS
    greedy = [True] * 8
    assert ids(write(engine, prompts(8), greedy=greedy)) == ids(write(engine_of(folder), prompts(8), greedy=greedy))


def test_reading_a_response_by_hand():
    tokenizer = build_tokenizer("llama")
    red, house = tokenizer.convert_tokens_to_ids(["red", "house"])
    found = read_response(tokenizer, [5], [red, house, EOS, 0, 0], {EOS})
    assert (found.response_ids, found.ended, found.text, found.response_tokens) == (
        ([red, house, EOS], True, "red house", 2)
    )
    found = read_response(tokenizer, [5], [red, EOS, house], {house})
    assert (found.response_ids, found.ended, found.text) == ([red, EOS, house], True, "red")
    found = read_response(tokenizer, [5], [red, house], {EOS})
    assert (found.ended, found.text) == (False, "red house")


# ---- state of the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_no_graph_is_kept(training, folder):
    engine = engine_of(folder)
    engine.model.train(training)
    modes = []
    engine.model.model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    write(engine)
    assert engine.model.training is training
    assert set(modes) == {False}
    assert all(p.grad is None for p in engine.model.parameters())


def test_the_mode_is_restored_after_a_failure(folder):
    engine = engine_of(folder)
    engine.model.train()
    live = engine.model.generation_config
    with pytest.raises(IndexError):
        write(engine, [[VOCABULARY + 5]])
    assert engine.model.training
    assert engine.model.generation_config is live


def test_recomputation_of_activations_does_not_switch_the_cache_off(folder):
    plain, recomputing = engine_of(folder), engine_of(folder, gradient_checkpointing=True)
    recomputing.model.train()
    widths = []
    recomputing.model.model.register_forward_pre_hook(
        lambda module, inputs, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    assert ids(write(recomputing)) == ids(write(plain))
    assert widths[0] == 14
    assert set(widths[1:]) == {1}


def test_wrapped_and_lora_models_are_written_with(folder):
    model, tokenizer = load_policy(folder / "llama", lora_r=2)
    base = engine_of(folder)
    engine = TransformersEngine(
        torch.compile(model, backend="eager"), tokenizer, rollout_tokens=10_000, end_token_ids={EOS}
    )
    base.end_token_ids = {EOS}
    assert ids(write(engine)) == ids(write(base))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    adapted = write(engine)
    assert ids(adapted) != ids(write(base))  # the adapter writes along
    engine.update_weights(model)
    assert ids(write(engine)) == ids(adapted)


def test_a_context_too_long_for_the_position_table_is_one_line(folder):
    with pytest.raises(ConfigError, match="64 positions") as raised:
        write(engine_of(folder, "gpt2"), max_new_tokens=60)
    assert "\n" not in str(raised.value)
    assert len(write(engine_of(folder, "gpt2"), max_new_tokens=50)) == 6


def write_along(rank: int, folder: Path, place: Path) -> None:
    meet = {"init_method": f"file://{place}/meet", "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, **meet)
    model, tokenizer = load_policy(folder / "llama")
    engine = TransformersEngine(model, tokenizer, rollout_tokens=1, end_token_ids={EOS, 7, 8, 9}, synced=True)
    asked = prompts()[: 5 if rank == 0 else 1]
    torch.save(ids(write(engine, asked, greedy=[True] * len(asked))), place / f"rank{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_ranks_that_hold_parts_of_layers_write_until_the_last_is_done(folder, tmp_path):
    # Five batches here, one there: without those of the others they would wait for each other for ever.
    torch.multiprocessing.start_processes(write_along, (folder, tmp_path), nprocs=2, start_method="fork")
    expected = ids(write(engine_of(folder, ends={EOS, 7, 8, 9}), greedy=[True] * 6))
    assert torch.load(tmp_path / "rank0") == expected[:5]
    assert torch.load(tmp_path / "rank1") == expected[:1]


def test_end_tokens_of_the_loaded_policy(folder):
    engine = engine_of(folder)
    assert end_token_ids(engine.model, engine.tokenizer) == {EOS}
