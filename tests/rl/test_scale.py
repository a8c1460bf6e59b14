"""Less memory, same run: LoRA, a reference in main memory, recomputed activations; and that models share no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from odin_rm.model.policy import load_policy
from odin_rm.workflows.rl.parts import load_parts
from odin_rm.workflows.rl.run import train_policy
from tests.rl.conftest import MakeConfig
from tests.rl.test_runs import metrics, same, weights

ROOT = Path(__file__).parents[2]
ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize("algorithm", ["ppo", "remax"])
def test_lora_trains_an_adapter_against_its_base(make_config: MakeConfig, bench: Path, algorithm: str) -> None:
    settings: dict[str, Any] = {"algorithm": algorithm, "lora_r": 2, "learning_rate": 1e-2, "max_steps": 4}
    run = train_policy(make_config("whole", **settings))
    adapter = load_file(run / "policy" / ADAPTER)
    assert all(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert not (run / "policy" / "model.safetensors").exists()
    kl = [row["kl_to_reference"] for row in metrics(run) if "kl_to_reference" in row]
    assert kl[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(kl[-1]) > 1e-4
    # The folder is a policy: base and adapter, merged.
    policy, _ = load_policy(run)
    start = load_file(bench / "policy" / "model.safetensors")
    learnt = policy.state_dict()
    assert any(not torch.equal(learnt[name], tensor) for name, tensor in start.items())
    # And it goes on where it stopped, bit by bit.
    train_policy(make_config("part", **settings | {"max_steps": 2}))
    part = train_policy(make_config("part", **settings, resume_from_checkpoint="true"))
    assert same(load_file(part / "policy" / ADAPTER), adapter)


@pytest.mark.parametrize("changes", [{"offload_reference": True}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_no_weight(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    plain = train_policy(make_config("plain"))
    saving = train_policy(make_config("saving", **changes))
    assert same(weights(plain), weights(saving))


def storages(module: torch.nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.parametrize(
    "changes",
    [
        {"critic_init": "policy"},
        {"critic_init": "reward"},
        {"lora_r": 2, "critic_init": "reward"},
        {"watch_reward": "SAME", "critic_init": "reward"},
    ],
)
def test_policy_reference_critic_and_reward_models_share_no_tensor(
    make_config: MakeConfig, bench: Path, changes: dict[str, Any]
) -> None:
    changes = {name: str(bench / "odin") if value == "SAME" else value for name, value in changes.items()}
    parts = load_parts(make_config(**changes), torch.device("cpu"))
    models: dict[str, Any] = {"policy": parts.policy, "critic": parts.critic, "reference": parts.reference}
    for name, source in (("reward", parts.source), ("held out", parts.held_out)):
        models[name] = None if source is None else source.scorer.model  # type: ignore[attr-defined]
    owners: dict[int, str] = {}
    for name, model in models.items():
        for pointer in storages(model) if model is not None else ():
            assert owners.setdefault(pointer, name) == name, f"{name} shares a tensor with {owners[pointer]}"
    assert {"policy", "critic", "reward"} <= set(owners.values())
    assert ("reference" in owners.values()) == ("lora_r" not in changes)
    assert parts.reference is None or not any(p.requires_grad for p in parts.reference.parameters())


def test_training_moves_neither_reference_nor_reward_model(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_rm.workflows.rl import own as rl

    seen: list[Any] = []

    def remember(*args: Any) -> Any:
        parts = load_parts(*args)
        frozen = [parts.reference, parts.source.scorer.model]  # type: ignore[attr-defined]
        seen.extend((model, {n: t.clone() for n, t in model.state_dict().items()}) for model in frozen)
        return parts

    monkeypatch.setattr(rl, "load_parts", remember)
    train_policy(make_config(critic_init="reward", learning_rate=1e-2))
    for model, before in seen:
        assert same(before, model.state_dict())


@pytest.mark.parametrize(
    "name, engine",
    [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("deepspeed_zero2", "DEEPSPEED"), ("deepspeed_zero3", "DEEPSPEED")],
)
def test_accelerate_takes_the_shipped_configs(name: str, engine: str) -> None:
    config: Any = load_config_from_file(str(ROOT / "examples" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == engine
    assert config.num_processes == 2
    # The command's own flag decides on precision.
    assert config.mixed_precision == "no"
