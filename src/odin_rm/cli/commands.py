"""The table of commands. It names classes and functions and imports none of them, so that help is instant."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command of ``odin-rm``. Places are written ``module:name``, see :func:`load`.

    Attributes:
        summary: one line.
        usage: what follows ``odin-rm <command>`` in the usage line.
        example: command lines to copy, shown at the end of its help.
        config: the place of the dataclass of its settings.
        run: the place of the function that takes such a config, does the work and prints what came out; it returns an
            exit code, or ``None`` for 0.
        described: the place of the dataclass that help is made of, where importing ``config`` would take long.
        swept: whether ``odin-rm sweep`` can run it many times.
        kept: what a run that the machine has ended leaves, and how to go on from it.
    """

    summary: str
    usage: str
    example: str
    config: str
    run: str
    described: str = ""
    swept: bool = True
    kept: str = "Then run the same command again."

    @property
    def options(self) -> str:
        """The place of the dataclass that help is made of."""
        return self.described or self.config


def load(place: str) -> Any:
    """What stands at a place: ``odin_rm.rl.config:RLConfig`` is the class of this name in that module."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


_TRAINED = "Checkpoints that were saved are kept: go on with --resume_from_checkpoint auto."
_DONE = "What was done so far is kept: run the same command again to go on."

COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        summary="The whole story on the embedded testbed: train, audit and compare, in minutes on a CPU.",
        usage="--output DIR [--seed N] [options]",
        example="odin-rm quickstart --output quickstart --seed 0",
        config="odin_rm.testbed.quickstart_config:QuickstartConfig",
        run="odin_rm.cli.quickstart:run",
        kept=_DONE,
    ),
    "reward": Command(
        summary="Train a reward model that does not pay for length.",
        usage="--model M --dataset F --output DIR [options]",
        example=(
            "odin-rm reward --model Qwen/Qwen3-0.6B --dataset train.jsonl.gz --eval_dataset val.jsonl.gz \\\n"
            "    --output runs/odin --learning_rate 1e-5 --num_train_epochs 3\n"
            "odin-rm reward --config odin.yaml --objective bradley_terry --output runs/vanilla"
        ),
        config="odin_rm.reward.config:RewardConfig",
        run="odin_rm.cli.training:run_reward",
        described="odin_rm.reward.options:RewardOptions",
        kept=_TRAINED,
    ),
    "score": Command(
        summary="Score rows of prompt and response, or of rendered text; same rows, same order, scores added.",
        usage="--model M --input F --output G [options]",
        example="odin-rm score --model runs/odin/model --input responses.jsonl --output scored.jsonl",
        config="odin_rm.workflows.score.config:ScoreConfig",
        run="odin_rm.cli.score:run",
        kept=_DONE,
    ),
    "pairs": Command(
        summary="Best and worst response to each prompt by their scores, as preferences for DPO.",
        usage="--input F --output G [options]",
        example="odin-rm pairs --input scored.jsonl --output pairs.jsonl --min_margin 0.5",
        config="odin_rm.workflows.pairs.config:PairsConfig",
        run="odin_rm.cli.pairs:run",
    ),
    "audit": Command(
        summary="Audit reward models for length bias: figures with intervals, plots, one HTML page.",
        usage="(--model M --dataset F | --scores F) --output DIR [options]",
        example=(
            "odin-rm audit --model runs/odin/model --dataset val.jsonl.gz --output audits/odin\n"
            "odin-rm audit --scores judge_scores.jsonl --columns score=rating --output audits/judge\n"
            "odin-rm audit --compare runs/vanilla/model runs/odin/model --dataset val.jsonl.gz --output audits/both"
        ),
        config="odin_rm.workflows.audit.config:AuditConfig",
        run="odin_rm.cli.audit:run",
        kept=_DONE,
    ),
    "probe": Command(
        summary="What can this reward be bought with? Edits that change one thing, and what the reward pays for each.",
        usage="--model M --dataset F --output DIR [options]",
        example=(
            "odin-rm probe --model runs/odin/model --dataset val.jsonl.gz --output probes/odin\n"
            "odin-rm probe --model someone/their-reward-model --dataset val.jsonl.gz --pairs twins.jsonl \\\n"
            "    --output probes/theirs"
        ),
        config="odin_rm.workflows.probe.config:ProbeConfig",
        run="odin_rm.cli.probe:run",
    ),
    "best-of-n": Command(
        summary="Best-of-N, exactly: what a reward chooses out of many responses, and what comes along with it.",
        usage="(--scores F | --model M --input F) --output DIR [options]",
        example=(
            "odin-rm best-of-n --scores samples_scored.jsonl --n 1 2 4 8 16 --output bon\n"
            "odin-rm best-of-n --model runs/odin/model --input samples.jsonl --output bon"
        ),
        config="odin_rm.workflows.best_of_n.config:BestOfNConfig",
        run="odin_rm.cli.best_of_n:run",
    ),
    "certify": Command(
        summary="A verdict on every attribute: mitigated, moved, overdone? From audit, probe and best-of-N together.",
        usage="--evidence DIR [DIR ...] --output DIR [--baseline DIR ...] [options]",
        example=(
            "odin-rm certify --evidence audits/odin probes/odin --baseline audits/vanilla probes/vanilla \\\n"
            "    --output certificate\n"
            "odin-rm certify --evidence audits/odin probes/odin bon --chosen probes/odin_chosen --output certificate"
        ),
        config="odin_rm.workflows.certify.config:CertifyConfig",
        run="odin_rm.cli.certify:run",
        swept=False,
    ),
    "benchmark": Command(
        summary="Reward-model benchmarks from their published files, with the published figures and every attribute.",
        usage="NAME --path P (--model M | --scores F) --output G [options]",
        example=(
            "odin-rm benchmark rm-bench --path RM-Bench/data --model runs/odin/model --output rm_bench.json\n"
            "odin-rm benchmark judgebench --path gpt_pairs.jsonl --scores scores.jsonl --output judgebench.json"
        ),
        config="odin_rm.workflows.benchmark.config:BenchmarkConfig",
        run="odin_rm.cli.benchmark:run",
    ),
    "calibrate": Command(
        summary="The dial: the reward's own curve of length taken off in the share that an anchor asks for.",
        usage="(--model M --dataset F | --scores F) --anchor A [--output DIR] [options]",
        example=(
            "odin-rm calibrate --model runs/vanilla/model --dataset val.jsonl --anchor interventions\n"
            "odin-rm calibrate --scores scores.jsonl --anchor writers --output calibrated"
        ),
        config="odin_rm.workflows.calibrate.config:CalibrateConfig",
        run="odin_rm.cli.calibrate:run",
    ),
    "export": Command(
        summary="Export the quality head as a stock one-label classifier, after a proof of equal scores.",
        usage="--model M --output DIR [options]",
        example="odin-rm export --model runs/odin/model --output exported",
        config="odin_rm.workflows.export.config:ExportConfig",
        run="odin_rm.cli.export:run",
    ),
    "sft": Command(
        summary="Fine-tune a policy on demonstrations: prompts and the responses it should give.",
        usage="--model M --dataset F --output DIR [options]",
        example="odin-rm sft --model Qwen/Qwen3-0.6B-Base --dataset demonstrations.jsonl --output runs/sft",
        config="odin_rm.workflows.policy.sft:SFTRunConfig",
        run="odin_rm.cli.training:run_sft",
        described="odin_rm.workflows.policy.options:SFTOptions",
        kept=_TRAINED,
    ),
    "dpo": Command(
        summary="Train a policy on preferences without a reward model (direct preference optimisation).",
        usage="--model M --dataset F --output DIR [options]",
        example="odin-rm dpo --model runs/sft/policy --dataset train.jsonl.gz --beta 0.1 --output runs/dpo",
        config="odin_rm.workflows.policy.dpo:DPORunConfig",
        run="odin_rm.cli.training:run_dpo",
        described="odin_rm.workflows.policy.options:DPOOptions",
        kept=_TRAINED,
    ),
    "rl": Command(
        summary="Train a policy on the quality reward by PPO, ReMax, RLOO or GRPO, watched for reward hacking.",
        usage="--model M --reward R --prompts F --output DIR [options]",
        example=(
            "odin-rm rl --model runs/sft/policy --reward runs/odin/model --prompts train.jsonl --output runs/ppo\n"
            "odin-rm rl --algorithm remax --model runs/sft/policy --reward https://judge.example/reward \\\n"
            "    --prompts train.jsonl --kl_coef 0.02 --output runs/remax"
        ),
        config="odin_rm.rl.config:RLConfig",
        run="odin_rm.cli.training:run_rl",
        kept=_TRAINED,
    ),
    "generate": Command(
        summary="Write a model's responses to a prompt file, in AlpacaEval's output format; resumable.",
        usage="--model P --prompts F --output G [options]",
        example=(
            "odin-rm generate --model runs/ppo --prompts prompts.jsonl --output ppo.json\n"
            "odin-rm generate --model openai:gpt-4.1 --prompts prompts.jsonl --temperature 0 --output gpt.json"
        ),
        config="odin_rm.workflows.generate.config:GenerateConfig",
        run="odin_rm.cli.generate:run",
        kept=_DONE,
    ),
    "judge": Command(
        summary="Judge a candidate's outputs against a baseline's in both orders; cached and resumable.",
        usage="--candidate A --baseline B --judge J --output DIR [options]",
        example=(
            "odin-rm judge --candidate odin.json --baseline sft.json --judge openai:gpt-4o --output judged --dry_run\n"
            "odin-rm judge --candidate odin.json --baseline sft.json --judge runs/odin/model --output judged_by_model"
        ),
        config="odin_rm.workflows.judge.config:JudgeConfig",
        run="odin_rm.cli.judge:run",
        kept=_DONE,
    ),
    "win-rate": Command(
        summary="Win rate, win score and length-controlled win rates from annotation files.",
        usage="--annotations F [F ...] --output G [options]",
        example="odin-rm win-rate --annotations results/*/annotations.json --output win_rates.json",
        config="odin_rm.workflows.win_rate.config:WinRateConfig",
        run="odin_rm.cli.win_rate:run",
    ),
    "evaluate": Command(
        summary="Many policies against one baseline: responses, judgements and win rates of each; resumable.",
        usage="--runs DIR [DIR ...] --baseline F --judge J --output DIR [options]",
        example=(
            "odin-rm evaluate --runs runs/sweep --baseline sft.json --judge openai:gpt-4.1 --output evaluation\n"
            "odin-rm evaluate --runs runs/ppo runs/remax --baseline sft.json --judge runs/odin/model --output by_model"
        ),
        config="odin_rm.workflows.evaluate.config:EvaluateConfig",
        run="odin_rm.cli.evaluate:run",
        swept=False,
        kept=_DONE,
    ),
    "retention": Command(
        summary="What training has cost: MMLU, BBH, DROP, TruthfulQA or other benchmarks before and after, paired.",
        usage="--models BEFORE AFTER [AFTER ...] --output DIR [options]",
        example=(
            "odin-rm retention --models runs/sft runs/ppo --output retention\n"
            "odin-rm retention --models runs/sft runs/ppo --tasks mmlu,truthfulqa_mc2 --limit 100 --output trial"
        ),
        config="odin_rm.workflows.retention.config:RetentionConfig",
        run="odin_rm.cli.retention:run",
        kept=_DONE,
    ),
    "rivals": Command(
        summary="Objectives x seeds x data sets on the same frozen features: content, prices, paired differences.",
        usage="--config F --output DIR [options]",
        example=(
            "odin-rm rivals --config rivals.yaml --output rivals\n"
            "odin-rm rivals --model MODEL --datasets pairs.jsonl --arms bradley_terry odin crm --output rivals"
        ),
        config="odin_rm.workflows.rivals.config:RivalsConfig",
        run="odin_rm.cli.rivals:run",
        swept=False,
        kept=_DONE,
    ),
    "sweep": Command(
        summary="Run a command over a grid or random draws of its settings; resumable, failed runs isolated.",
        usage="--config F --output DIR [options]",
        example="odin-rm sweep --config sweep.yaml --output runs/sweep --workers 2 --max_hours 12",
        config="odin_rm.workflows.sweep.config:SweepConfig",
        run="odin_rm.cli.sweep:run",
        swept=False,
        kept=_DONE,
    ),
    "pareto": Command(
        summary="Fronts of score against length over many runs: intervals, matched lengths, the paper's figures.",
        usage="--runs PATH [PATH ...] --output DIR [options]",
        example=(
            "odin-rm pareto --runs judged/* runs/sweep --arm reward --output fronts --recipe main kl\n"
            "odin-rm pareto --runs runs.csv --y win_score --output fronts"
        ),
        config="odin_rm.workflows.pareto.config:ParetoConfig",
        run="odin_rm.cli.pareto:run",
        swept=False,
    ),
    "reproduce": Command(
        summary="The paper's figures: on the testbed in one go, or the configs of the full-size study.",
        usage="--output DIR [--preset testbed|paper] [options]",
        example=(
            "odin-rm reproduce --preset testbed --output reproduced\n"
            "odin-rm reproduce --preset paper --output paper_study"
        ),
        config="odin_rm.testbed.reproduce_config:ReproduceConfig",
        run="odin_rm.cli.reproduce:run",
        swept=False,
        kept=_DONE,
    ),
    "report": Command(
        summary="One HTML page on a run or several: tables, zoomable figures, texts side by side, settings.",
        usage="--runs PATH [PATH ...] --output F [options]",
        example=(
            "odin-rm report --runs runs/ppo runs/remax --output comparison.html\n"
            "odin-rm report --runs runs/odin audits/both win_rates.json ppo.json --output study.html --samples 12"
        ),
        config="odin_rm.workflows.report.config:ReportConfig",
        run="odin_rm.cli.report:run",
        swept=False,
    ),
    "serve": Command(
        summary="Serve reward models in the protocols of OpenRLHF, verl, vLLM, TEI, Cohere and other clients.",
        usage="--model [NAME=]PATH [[NAME=]PATH ...] [options]",
        example=(
            "odin-rm serve --model runs/odin/model --port 8765\n"
            "odin-rm serve --model odin=runs/odin/model vanilla=runs/vanilla/model --host 0.0.0.0 --token_file token"
        ),
        config="odin_rm.serve.reward.config:ServeConfig",
        run="odin_rm.cli.serve:run",
        swept=False,
    ),
    "study": Command(
        summary="A local web page for blind side-by-side rating of two policies, and what its raters say.",
        usage="--a A --b B --output DIR [options]",
        example=(
            "odin-rm study --a odin.json --b vanilla.json --output study --sample_size 60\n"
            "odin-rm study --results study"
        ),
        config="odin_rm.serve.study.config:StudyConfig",
        run="odin_rm.cli.study:run",
        swept=False,
    ),
    "doctor": Command(
        summary="Examine this machine: versions, accelerator, extras, memory, cache, places to write.",
        usage="[--json]",
        example="odin-rm doctor\nodin-rm doctor --json",
        config="odin_rm.workflows.doctor.config:DoctorConfig",
        run="odin_rm.cli.doctor:run",
        swept=False,
    ),
    "cache": Command(
        summary="The cache of tokenised data: its size, its bound, and emptying it.",
        usage="[--clear] [--json] [--cache_dir DIR]",
        example="odin-rm cache\nodin-rm cache --clear",
        config="odin_rm.workflows.cache.config:CacheConfig",
        run="odin_rm.cli.cache:run",
        swept=False,
    ),
    "completion": Command(
        summary="A script by which a shell completes commands and flags: bash, zsh or fish.",
        usage="SHELL",
        example=(
            'eval "$(odin-rm completion bash)"                      # in ~/.bashrc\n'
            'eval "$(odin-rm completion zsh)"                       # in ~/.zshrc, after compinit\n'
            "odin-rm completion fish > ~/.config/fish/completions/odin-rm.fish"
        ),
        config="odin_rm.cli.completion:CompletionConfig",
        run="odin_rm.cli.completion:run",
        swept=False,
    ),
}
