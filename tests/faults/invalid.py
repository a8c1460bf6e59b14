"""Invalid invocations of every command, made from its own table of settings: each must end in one line.

A command that would work is spoilt in one place: a flag, a number, a config file, a path, the content of a file, a
model folder or the place of its output. Commands that are new are spoilt by their settings alone, until :data:`GOOD`
has a line for them.
"""

from __future__ import annotations

import dataclasses
import enum
import gzip
import json
import random
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.core.options import flag_of
from odin_rm.core.training_bounds import TRAINING_BOUNDS

TRAINED = "--output out --use_cpu true --max_steps 1"
GOOD: dict[str, str] = {
    "quickstart": "--output out --pairs 16 --held_out_pairs 10",
    "reward": f"--model {{base}} --dataset {{pairs}} {TRAINED} --batch_pairs 8 --save_strategy no",
    "score": "--model {ours} --input {answers} --output out.jsonl",
    "pairs": "--input {scored} --output out.jsonl",
    "audit": "--model {ours} --dataset {pairs} --output out --bootstrap_samples 5",
    "probe": "--model {ours} --dataset {pairs} --output out --bootstrap_samples 5",
    "best-of-n": "--scores {scored} --columns score=quality --output out --bootstrap_samples 5",
    "benchmark": "judgebench --path {benchmark} --model {ours} --output out.json --bootstrap_samples 5",
    "export": "--model {ours} --output out",
    "sft": f"--model {{base}} --dataset {{pairs}} {TRAINED}",
    "dpo": f"--model {{base}} --dataset {{pairs}} {TRAINED}",
    "rl": f"--model {{base}} --reward {{ours}} --prompts {{pairs}} {TRAINED} --minibatch_size 4 --max_new_tokens 4 "
    "--watch_steps 0",
    "generate": "--model {base} --prompts {prompts} --output out.json --max_new_tokens 4 --device cpu",
    "judge": "--candidate {a} --baseline {b} --judge {ours} --output out --device cpu",
    "win-rate": "--annotations {annotations} --output out.json --bootstrap_samples 5",
    "evaluate": "--runs {a} --baseline {b} --judge {ours} --output out --bootstrap_samples 5",
    "retention": "--models {base} {base} --output out --limit 1",
    "sweep": "--config {sweep} --output out",
    "pareto": "--runs {runs} --output out --bootstrap_samples 5",
    "reproduce": "--output out --preset paper",
    "report": "--runs {annotations} --output out.html",
    "serve": "--model {ours} --port 0",
    "study": "--a {a} --b {b} --output out",
    "doctor": "",
    "cache": "",
    "completion": "bash",
}
LASTS = ("quickstart", "retention", "reproduce", "serve", "study", "doctor", "completion")
"""Commands whose good line is not run: they take long, serve until they are stopped, or depend on the machine."""

ROWS = {
    "reward": ("dataset", "eval_dataset"),
    "score": ("input",),
    "pairs": ("input",),
    "audit": ("dataset", "twins", "scores"),
    "probe": ("dataset", "pairs"),
    "best-of-n": ("scores",),
    "benchmark": ("path", "scores"),
    "export": ("parity_dataset",),
    "sft": ("dataset", "eval_dataset"),
    "dpo": ("dataset", "eval_dataset"),
    "rl": ("prompts", "watch_prompts"),
    "generate": ("prompts",),
    "judge": ("candidate", "baseline", "judge"),
    "win-rate": ("annotations",),
    "evaluate": ("baseline",),
    "pareto": ("runs",),
    "report": ("runs",),
    "study": ("a", "b"),
}
MODELS = {
    "reward": ("model",),
    "score": ("model",),
    "audit": ("model", "compare"),
    "probe": ("model",),
    "benchmark": ("model",),
    "export": ("model",),
    "sft": ("model",),
    "dpo": ("model",),
    "rl": ("model", "reward"),
    "generate": ("model",),
    "judge": ("judge",),
    "evaluate": ("judge",),
    "serve": ("model",),
    "retention": ("models",),
}


@dataclass(frozen=True)
class Invocation:
    """A command line that cannot work, and what makes it so.

    Attributes:
        command: of odin-rm.
        kind: what is spoilt: ``flag``, ``number``, ``word``, ``config``, ``path``, ``rows``, ``model``, ``output``.
        argv: the words behind the command.
        what: for the list of failures.
        prepare: makes the files that it needs in the folder where it runs.
        may_work: a word that may also be right: then the command must end well.
    """

    command: str
    kind: str
    argv: list[str]
    what: str
    prepare: Callable[[Path], None] = lambda room: None
    may_work: bool = False


def stock(shop: Path) -> None:
    """Make the files of the good lines, beside those that the kit's commands have made."""
    texts = [f"question {k}" for k in range(8)]
    lines: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"prompt": text} for text in texts],
        "scored": [
            {"prompt": text, "response": f"good words {k}" * (k + 1), "quality": float(k)}
            for text in texts
            for k in (0, 1, 2)
        ],
        "benchmark": [
            {"pair_id": str(k), "source": "mmlu-pro", "question": text, "response_A": "good", "response_B": "bad one",
             "label": "A>B", "response_model": "m"}
            for k, text in enumerate(texts)
        ],
    }  # fmt: skip
    for name, rows in lines.items():
        (shop / f"{name}.jsonl").write_bytes(_rows(*rows))
    annotations = [
        {"instruction": f"q {k}", "output_1": f"b {k} w", "output_2": f"a {k} w w", "generator_1": "b",
         "generator_2": "a", "preference": 1.0 + k % 2}
        for k in range(8)
    ]  # fmt: skip
    (shop / "annotations.json").write_text(json.dumps(annotations))
    sweep = {"command": "score", "base": {"model": str(shop / "ours"), "input": str(shop / "answers.jsonl")}}
    (shop / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"grid": {"chunk_rows": [2, 4]}}))
    runs = [{"name": f"r{k}", "arm": "ab"[k % 2], "mean_tokens": 10 + k, "win_score": 50 + k} for k in range(8)]
    (shop / "runs").mkdir(exist_ok=True)
    header = ",".join(runs[0])
    (shop / "runs" / "runs.csv").write_text("\n".join([header, *(",".join(map(str, r.values())) for r in runs)]) + "\n")


def all_invocations(shop: Path) -> list[Invocation]:
    """All that are made, in a fixed order."""
    return [one for command in COMMANDS for one in _of_command(command, shop)]


def draw(shop: Path, count: int, seed: str) -> list[Invocation]:
    """So many of them, drawn evenly from each pair of command and kind."""
    groups: dict[tuple[str, str], list[Invocation]] = {}
    for one in all_invocations(shop):
        groups.setdefault((one.command, one.kind), []).append(one)
    rng, drawn = random.Random(seed), []
    for group in groups.values():
        rng.shuffle(group)
    while len(drawn) < count and any(groups.values()):
        drawn += [group.pop() for group in groups.values() if group]
    return drawn[:count]


def good_argv(command: str, shop: Path) -> list[str]:
    """A command line that works."""
    names = (
        {name: str(shop / name) for name in ("base", "ours", "runs")}
        | {name: str(shop / f"{name}.jsonl") for name in ("pairs", "answers", "scored", "prompts", "benchmark")}
        | {"a": str(shop / "a.json"), "b": str(shop / "b.json"), "annotations": str(shop / "annotations.json")}
    )
    return GOOD.get(command, "").format(**names, sweep=shop / "sweep.yaml").split()


def with_flag(argv: list[str], flag: str, *values: str) -> list[str]:
    """The command line with other values of a flag."""
    words, name = list(argv), f"--{flag}"
    if name in words:
        at = words.index(name)
        end = next((k for k in range(at + 1, len(words)) if words[k].startswith("--")), len(words))
        del words[at:end]
    return [*words, name, *values]


# ---- what is spoilt --------------------------------------------------------------------------------------------------


def _of_command(command: str, shop: Path) -> Iterator[Invocation]:
    argv = good_argv(command, shop)
    for kind, maker in (("flag", _flags), ("number", _numbers), ("config", _configs)):
        for what, words, prepare in maker(command, argv):
            yield Invocation(command, kind, words, what, prepare)
    if command not in LASTS:
        for what, words in _words(command, argv):
            yield Invocation(command, "word", words, what, may_work=True)
    for flag in ROWS.get(command, ()):
        for name, content in BAD_FILES.items():
            file = f"{flag}{name}"
            base = [w for w in argv if w] if flag != "scores" else _without(argv, "model", "dataset")
            yield Invocation(command, "rows", with_flag(base, flag, file), f"{flag}: {file}", _writer(file, content))
        for what, name in BAD_PATHS.items():
            yield Invocation(command, "path", with_flag(argv, flag, name), f"{flag}: {what}", _odd_places)
    for flag in MODELS.get(command, ()):
        for what, damage in MODEL_FAULTS.items():
            prepare = _damaged(shop / ("base" if command in ("sft", "dpo", "generate") else "ours"), damage)
            yield Invocation(command, "model", with_flag(argv, flag, "./damaged"), f"{flag}: {what}", prepare)
    if any(word in argv for word in ("out", "out.jsonl", "out.json", "out.html")):
        suffix = next(word for word in argv if word.startswith("out"))[3:]
        for what, (name, prepare) in _outputs(suffix).items():
            yield Invocation(command, "output", with_flag(argv, "output", name), what, prepare)


def _without(argv: list[str], *flags: str) -> list[str]:
    for flag in flags:
        if f"--{flag}" in argv:
            words = with_flag(argv, flag)
            argv = words[:-1]
    return argv


Spoilt = tuple[str, list[str], Callable[[Path], None]]


def _nothing(room: Path) -> None:
    pass


def _flags(command: str, argv: list[str]) -> Iterator[Spoilt]:
    for word in ("--no_such_flag", "--Output", "--modle=x", "--\x1b[2Jred", "--" + "x" * 3000, "---", "--\u202e"):
        yield f"flag {word[:30]!r}", [*argv, word, "1"], _nothing
    yield "a stray value", [*argv, "--quiet", "stray"], _nothing
    yield "a flag without its value", [*argv, "--config"], _nothing
    if any(word.startswith("--") for word in argv):
        first = next(word for word in argv if word.startswith("--"))
        yield "a required flag is missing", _without(argv, first[2:]), _nothing
        yield "an empty value", with_flag(argv, first[2:], ""), _nothing
        yield "a blank value", with_flag(argv, first[2:], "  "), _nothing


WRONG = {
    int: ("x", "1.5", "", "nan", "1e3x", "0x10", "1,000", "--", "\u0663\u0663x", "[1]", "9" * 5000),
    float: ("x", "", "1,5", "0.1.2", "[1]", "0x1p3", "one"),
    bool: ("maybe", "2", "", "nein", "[true]"),
}


def _numbers(command: str, argv: list[str]) -> Iterator[Spoilt]:
    config = load(COMMANDS[command].config)
    hints = typing.get_type_hints(config)
    for item in dataclasses.fields(config):
        if not item.init or item.metadata.get("positional"):
            continue
        flag, hint = flag_of(item), hints[item.name]
        kinds = {hint, *typing.get_args(hint)}
        for kind, words in WRONG.items():
            if kind in kinds and str not in kinds and not (kind is int and float in kinds):
                for word in words:
                    if word != "--":
                        yield f"--{flag} {word[:20]!r}", with_flag(argv, flag, word), _nothing
        if item.metadata.get("choices") or typing.get_origin(hint) is typing.Literal:
            yield f"--{flag} of no choice", with_flag(argv, flag, "nonsense"), _nothing
        bounds = item.metadata.get("bounds") or (TRAINING_BOUNDS.get(item.name) if command != "rl" else None)
        if bounds is not None and not {int, float}.isdisjoint(kinds):
            for value in ("-1", "0", "1e30", "nan", "inf", "-inf", "1e999", "99999999999999999999"):
                number = float(value)
                whole = int in kinds and float not in kinds
                if not bounds.holds(number) or (whole and not value.lstrip("-").isdigit()):
                    yield f"--{flag} {value}", with_flag(argv, flag, value), _nothing


_GROWING = b"b0: &b0 [x]\n" + b"".join(
    b"b%d: &b%d [%s]\n" % (k, k, b", ".join([b"*b%d" % (k - 1)] * 9)) for k in range(1, 12)
)
WORDS = ("nonsense", "(", "\x1b[2J\u202e", "a=b", "-1", "{}", "[", "../..", "%s", "\u00e9\u4e2d.", "0", "w" * 5000)
NEVER = ("output", "output_dir", "config", "base_url")
"""Texts that say where something is written, or whom to ask."""


def _words(command: str, argv: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Texts in place of texts: names of fields, devices, templates, schedules, patterns, losses."""
    config = load(COMMANDS[command].config)
    hints = typing.get_type_hints(config)
    refused = getattr(config, "refused", {})
    known = (*ROWS.get(command, ()), *MODELS.get(command, ()), *NEVER, *refused)
    for item in dataclasses.fields(config):
        hint, flag = hints[item.name], flag_of(item)
        kinds = {hint, *typing.get_args(hint)}
        if not item.init or item.name in known or item.metadata.get("positional") or item.metadata.get("choices"):
            continue
        if str in kinds or any(isinstance(kind, type) and issubclass(kind, enum.Enum) for kind in kinds):
            for word in WORDS:
                yield f"--{flag} {word[:20]!r}", with_flag(argv, flag, word)


BAD_CONFIGS: dict[str, bytes] = {
    "a list": b"[1, 2]\n",
    "a text": b"hello\n",
    "open": b"model: {\n",
    "tabs": b"model:\n\t- x\n",
    "an unknown key": b"no_such_key: 1\n",
    "a key twice": b"seed: 1\nseed: 2\n",
    "a number as key": b"1: 2\n",
    "deep": b"seed: " + b"[" * 5000 + b"]" * 5000 + b"\n",
    "deep mapping": b"seed: " + b"{a: " * 3000 + b"1" + b"}" * 3000 + b"\n",
    "references that grow": _GROWING,
    "a reference to itself": b"seed: &a [*a]\n",
    "an object": b"seed: !!python/object/apply:os.system ['true']\n",
    "binary": bytes(range(256)) * 8,
    "utf-16": "seed: 1\n".encode("utf-16"),
    "a control character": b"model: \"a\\x1b[2J\"\nno\x07: 1\n",
    "a NUL": b"no_such_key: \"a\\0b\"\n",
    "a date as seed": b"seed: 2020-01-01\nno_such_key: 1\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
}  # fmt: skip


def _configs(command: str, argv: list[str]) -> Iterator[Spoilt]:
    for what, content in BAD_CONFIGS.items():
        yield what, [*_without(argv, "config"), "--config", "c.yaml"], _writer("c.yaml", content)
    words = _without(argv, "config")
    yield "no config", [*words, "--config", "none.yaml"], _nothing
    yield "a folder as config", [*words, "--config", "."], _nothing
    yield "a long name as config", [*words, "--config", "n" * 300], _nothing
    yield "a config below a file", [*words, "--config", "c.yaml/x"], _writer("c.yaml", b"")


def _writer(name: str, content: bytes) -> Callable[[Path], None]:
    def write(room: Path) -> None:
        (room / name).write_bytes(content)

    return write


def _rows(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


_NOISE = random.Random("noise").randbytes(4096)
_TEXTS = (b"prompt", b"response", b"chosen", b"rejected", b"instruction", b"output", b"output_1", b"question")
BAD_FILES: dict[str, bytes] = {
    "_empty.jsonl": b"",
    "_blank.jsonl": b"\n \n\r\n",
    "_noise.jsonl": _NOISE,
    "_noise.json": _NOISE,
    "_noise.csv": _NOISE,
    "_noise.parquet": _NOISE,
    "_noise.jsonl.gz": _NOISE,
    "_cut.jsonl.gz": gzip.compress(_rows(*[{"prompt": str(k)} for k in range(500)]))[:-30],
    "_empty.json": b"",
    "_null.json": b"null",
    "_text.json": b'"prompt"',
    "_no_rows.json": b"[]",
    "_open.json": b'[{"prompt": "a"',
    "_numbers.json": b"[1, 2, 3]",
    "_deep.json": b"[" * 100000 + b"]" * 100000,
    "_deep.jsonl": b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}\n",
    "_lists.jsonl": b"[1]\n[2]\n",
    "_not_json.jsonl": b"prompt: a\n",
    "_half.jsonl": b"{" + b", ".join(b'"%s": "\\ud800"' % name for name in _TEXTS) + b"}\n",
    "_latin.jsonl": b'{"prompt": "caf\xe9"}\n',
    "_utf16.csv": "prompt,response\na,b\n".encode("utf-16"),
    "_header.csv": b"prompt,response\n",
    "_twice.csv": b"prompt,prompt\na,b\n",
    "_ragged.csv": b"prompt,response\na\n",
    "_quotes.csv": b'prompt,response\n"a,b\n',
    "_other.jsonl": _rows({"x": 1}, {"y": 2}),
    "_none.jsonl": _rows({name.decode(): None for name in _TEXTS}),
    "_wrong_types.jsonl": _rows({name.decode(): k for k, name in enumerate(_TEXTS)}),
    "_lists_in.jsonl": _rows({name.decode(): [k] for k, name in enumerate(_TEXTS)}),
    "_empty_texts.jsonl": _rows({name.decode(): "" for name in _TEXTS}),
    "_huge_number.jsonl": b'{"prompt": 1' + b"0" * 6000 + b"}\n",
    "_long_key.jsonl": _rows({"k" * 5000: "\x1b[2J\x1b]0;title\x07"}),
    "_zip.json": b"PK\x03\x04" + _NOISE,
    ".txt": b"hello\n",
    "_pickle.pkl": b"\x80\x04K\x01.",
}  # fmt: skip
BAD_PATHS = {
    "missing": "none.jsonl",
    "missing, odd name": "n\x1b[2J\u202eo.jsonl",
    "a long name": "n" * 300 + ".jsonl",
    "a long path": "/".join(["d" * 200] * 30) + "/x.jsonl",
    "below a file": "file/x.jsonl",
    "a loop of links": "loop.jsonl",
    "a link to nothing": "dead.jsonl",
    "an empty folder": "empty",
    "a name without end": "here.",
}


def _odd_places(room: Path) -> None:
    (room / "file").write_text("x")
    (room / "loop.jsonl").symlink_to("loop.jsonl")
    (room / "dead.jsonl").symlink_to("nowhere.jsonl")
    (room / "empty").mkdir()


def _outputs(suffix: str) -> dict[str, tuple[str, Callable[[Path], None]]]:
    def file(room: Path) -> None:
        (room / f"taken{suffix}").write_text("here first")

    def folder(room: Path) -> None:
        (room / f"taken{suffix}").mkdir()
        (room / f"taken{suffix}" / "config.yaml").write_text("mine: 1\n")
        (room / f"taken{suffix}" / "thesis.txt").write_text("mine\n")

    def loop(room: Path) -> None:
        (room / f"taken{suffix}").symlink_to(f"taken{suffix}")

    return {
        "output: a foreign file": (f"taken{suffix}", file),
        "output: a foreign folder": (f"taken{suffix}", folder),
        "output: a loop of links": (f"taken{suffix}", loop),
        "output: below a file": (f"taken{suffix}/x{suffix}", file),
        "output: a name too long": ("n" * 300 + suffix, _nothing),
        "output: a path too long": ("/".join(["d" * 200] * 30) + suffix, _nothing),
        "output: nowhere to write": (f"/proc/none/x{suffix}", _nothing),
        "output: empty": ("", _nothing),
    }


# ---- model folders ---------------------------------------------------------------------------------------------------


def _damaged(good: Path, damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(room: Path) -> None:
        import shutil

        shutil.copytree(good, room / "damaged")
        damage(room / "damaged")

    return prepare


def _config_with(**fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def _content(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return damage


def _gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _weights_as(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


def _with_nan(weights: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = float("nan")
    return weights


def _other_shape(weights: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    return weights | {name: weights[name][:, :-1].contiguous()}


def _without_layer(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if "down_proj" not in name}


def _index_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"x": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _header_length(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


_ENDLESS = b"{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}{{ messages }}"
MODEL_FAULTS: dict[str, Callable[[Path], None]] = {
    "no config.json": _gone("config.json"),
    "config.json empty": _content("config.json", b""),
    "config.json a list": _content("config.json", b"[]"),
    "config.json noise": _content("config.json", _NOISE),
    "config.json cut": _cut("config.json", 0.5),
    "config.json deep": _content("config.json", b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}"),
    "hidden_size a word": _config_with(hidden_size="big"),
    "hidden_size -5": _config_with(hidden_size=-5),
    "hidden_size NaN": _config_with(hidden_size=float("nan")),
    "hidden_size 0": _config_with(hidden_size=0),
    "hidden_size huge": _config_with(hidden_size=2**40),
    "hidden_size null": _config_with(hidden_size=None),
    "heads 0": _config_with(num_attention_heads=0),
    "heads 3": _config_with(num_attention_heads=3),
    "layers -1": _config_with(num_hidden_layers=-1),
    "layers a list": _config_with(num_hidden_layers=[1]),
    "model_type unknown": _config_with(model_type="no_such_model"),
    "model_type a number": _config_with(model_type=7),
    "architectures other": _config_with(model_type="t5"),
    "vocab_size 3": _config_with(vocab_size=3),
    "pad_token_id beyond": _config_with(pad_token_id=10**7),
    "dtype unknown": _config_with(dtype="float3"),
    "rope unknown": _config_with(rope_parameters={"rope_type": "no_such", "rope_theta": 10000.0}),
    "weights gone": _gone("model.safetensors"),
    "weights empty": _content("model.safetensors", b""),
    "weights cut": _cut("model.safetensors", 0.7),
    "weights noise": _content("model.safetensors", _NOISE),
    "weights of another shape": _weights_as(_other_shape),
    "weights of a layer gone": _weights_as(_without_layer),
    "weights header too long": _header_length,
    "weights outside of the folder": _index_outside,
    "tokenizer gone": _gone("tokenizer.json"),
    "tokenizer noise": _content("tokenizer.json", _NOISE),
    "tokenizer empty": _content("tokenizer.json", b""),
    "tokenizer a list": _content("tokenizer.json", b"[]"),
    "tokenizer cut": _cut("tokenizer.json", 0.5),
    "tokenizer_config noise": _content("tokenizer_config.json", _NOISE),
    "tokenizer_config a list": _content("tokenizer_config.json", b"[1]"),
    "template broken": _content("chat_template.jinja", b"{% for m in messages %}{{ m"),
    "template endless": _content("chat_template.jinja", _ENDLESS),
    "template huge": _content("chat_template.jinja", b"{{ 'x' * 10**10 }}{{ messages }}"),
    "template refuses": _content("chat_template.jinja", b"{{ raise_exception('\x1b[2J no') }}"),
}  # fmt: skip
