"""vLLM: a local server that speaks the API of ``vllm serve`` (0.33), and a stand-in for the package itself.

The server answers from a real policy, whose weights it loads when it is told to, so a response that is right shows that
ids, parameters and weights have travelled.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from odin_rm.core.errors import ConfigError, MissingExtraError, OdinError, RolloutError
from odin_rm.model.policy import load_policy
from odin_rm.rl import vllm as vllm_engine
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.rl.vllm import VllmEngine, VllmServerEngine, build_vllm_engine, sampling_parameters
from tests.families import EOS
from tests.model.policies import policy, prompts

ENDS = {EOS, 7, 8, 9, 10, 11}
SAMPLING = SamplingSettings(max_new_tokens=8, temperature=0.8)


class Writer:
    """What vLLM does, in slow motion: weights of a folder, one response at a time."""

    def __init__(self) -> None:
        self.model: Any = None
        self.lock = threading.Lock()

    def load(self, folder: str) -> None:
        self.model = load_policy(folder)[0]

    def write(self, prompt: list[int], p: dict[str, Any]) -> list[int]:
        with self.lock, torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(p["seed"])
            written: list[int] = []
            while len(written) < p["max_tokens"] and not (written and written[-1] in p["stop_token_ids"]):
                logits_V = self.model(torch.tensor([prompt + written])).logits[0, -1]
                greedy = p["temperature"] == 0
                drawn = logits_V.argmax() if greedy else (logits_V / p["temperature"]).softmax(-1).multinomial(1)
                written.append(int(drawn))
            return written


class Server(ThreadingHTTPServer):
    """``answer`` may be replaced to misbehave; ``asked`` keeps what came in."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.writer, self.asked = Writer(), []
        self.misbehave: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "the-policy", "object": "model", "max_model_len": 64}]}
        if path == "/v1/completions":
            return 200, self.complete(body or {})
        if path == "/collective_rpc":
            assert body == {"method": "reload_weights", "kwargs": {"weights_path": body["kwargs"]["weights_path"]}}
            self.writer.load(body["kwargs"]["weights_path"])
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        return 404, {"detail": "Not Found"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["return_token_ids"] is True
        written = self.writer.write(body["prompt"], body)
        reason = "stop" if written[-1] in body["stop_token_ids"] else "length"
        choice = {"index": 0, "text": "?", "finish_reason": reason, "token_ids": written}
        choice["prompt_token_ids"] = body["prompt"]
        return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice], "usage": {}}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(None)

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: dict[str, Any] | None) -> None:
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        found = self.server.misbehave(self.path, body) if self.server.misbehave else None
        status, answer = found or self.server.answer(self.path, body)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(vllm_engine, "_PAUSES", (0.0, 0.0))
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return policy("llama", tmp_path_factory.mktemp("policy"))


def ids(rollouts) -> list[list[int]]:
    return [rollout.response_ids for rollout in rollouts]


def greedy_of(model, tokenizer) -> list[list[int]]:
    own = TransformersEngine(model, tokenizer, rollout_tokens=1000, end_token_ids=ENDS)
    return ids(own.generate(prompts(), SAMPLING, greedy=[True] * 6))


def engine_of(server, loaded, folder) -> VllmServerEngine:
    return build_vllm_engine(server.url, *loaded, ENDS, weights_folder=folder)  # type: ignore[return-value]


def moved(model):
    """A copy of the policy after some training."""
    import copy

    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return other


# ---- a server --------------------------------------------------------------------------------------------------------


def test_greedy_rows_are_those_of_the_policy_and_sampled_ones_stand_beside_them(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    asked = prompts()
    rollouts = engine.generate(asked + asked, SAMPLING, greedy=[False] * 6 + [True] * 6)
    assert ids(rollouts[6:]) == greedy_of(*loaded)
    assert ids(rollouts[:6]) != ids(rollouts[6:])
    assert [r.prompt_ids for r in rollouts] == asked + asked
    for rollout in rollouts:
        assert rollout.ended == (rollout.response_ids[-1] in ENDS)
        assert len(rollout.response_ids) == 8 or rollout.ended
    assert rollouts[0].text == loaded[1].decode(
        rollouts[0].response_ids[: rollouts[0].response_tokens], skip_special_tokens=True
    )


def test_the_request_says_all_that_shapes_the_distribution(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    engine.generate([[5, 6]], SamplingSettings(max_new_tokens=3, temperature=0.7, top_p=0.9, top_k=4))
    path, body, _ = server.asked[-1]
    seed = body.pop("seed")
    assert 0 <= seed < 2**31
    assert (path, body) == (
        "/v1/completions",
        {
            "model": "the-policy",
            "prompt": [5, 6],
            "return_token_ids": True,
            "max_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 4,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(ENDS),
        },
    )
    hot = sampling_parameters(SamplingSettings(temperature=2.0, top_p=0.5, top_k=3), ENDS, greedy=True, seed=1)
    assert (hot["temperature"], hot["top_p"], hot["top_k"]) == (0.0, 1.0, 0)


def test_the_seed_decides_and_equal_prompts_differ(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(ids(engine.generate([[5, 6]] * 8, SAMPLING)))
    assert runs[0] == runs[1] != runs[2]
    assert len({tuple(response) for response in runs[0]}) > 1


def test_new_weights_are_written_with_and_the_cache_is_emptied(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    trained = moved(loaded[0])
    before = ids(engine.generate(prompts(), SAMPLING, greedy=[True] * 6))
    engine.update_weights(trained)
    after = ids(engine.generate(prompts(), SAMPLING, greedy=[True] * 6))
    assert after == greedy_of(trained, loaded[1])
    assert after != before
    updates = [path for path, _, _ in server.asked if path in ("/collective_rpc", "/reset_prefix_cache")]
    assert updates == ["/collective_rpc", "/reset_prefix_cache"] * 2


def test_an_adapter_is_merged_on_the_way(server, loaded, tmp_path):
    model, tokenizer = policy("llama", tmp_path, lora_r=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    engine = engine_of(server, (model, tokenizer), tmp_path / "weights")
    assert ids(engine.generate(prompts(), SAMPLING, greedy=[True] * 6)) == greedy_of(model, tokenizer)
    assert greedy_of(model, tokenizer) != greedy_of(*loaded)


def test_the_key_and_the_address_are_understood(server, loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    engine = VllmServerEngine(server.url + "/v1/", loaded[1], end_token_ids=ENDS, weights_folder=tmp_path)
    assert engine.url == server.url
    assert server.asked[-1][2] == "Bearer secret"
    with pytest.raises(ConfigError, match="no address"):
        VllmServerEngine("localhost", loaded[1], end_token_ids=ENDS, weights_folder=tmp_path)


# ---- a server that fails ---------------------------------------------------------------------------------------------


def one_line(error: OdinError, *words: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert error.exit_code == 2
    for word in words:
        assert word in text


def test_no_server_is_one_line(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_engine, "_PAUSES", (0.0,))
    with pytest.raises(RolloutError) as raised:
        VllmServerEngine("http://127.0.0.1:9", loaded[1], end_token_ids=ENDS, weights_folder=tmp_path)
    one_line(raised.value, "does not answer", "--vllm_server", "http://127.0.0.1:9/v1/models")


def test_a_server_that_is_busy_is_asked_again(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    busy = [503, 429]
    server.misbehave = lambda path, body: (busy.pop(), {}) if busy else None
    assert ids(engine.generate(prompts(1), SAMPLING, greedy=[True])) == greedy_of(*loaded)[:1]
    server.misbehave = lambda path, body: (503, {})
    before = len(server.asked)
    with pytest.raises(RolloutError, match="answers 503"):
        engine.generate([[5]], SAMPLING)
    assert len(server.asked) - before == 3


def completion(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"token_ids": [5, EOS], "prompt_token_ids": [5, 6], **choice}]}


@pytest.mark.parametrize(
    "status, answer, words",
    [
        (400, {"error": {"message": "maximum context length is 64", "code": 400}}, "maximum context length is 64"),
        (404, {"detail": "Not Found"}, "answers 404"),
        (500, b"oops", "answers 500"),
        (200, b"<html>", "does not answer in JSON"),
        (200, [1], "does not answer with an object"),
        (200, {"choices": []}, "no token ids"),
        (200, {"choices": [{"text": "a"}]}, "no token ids"),
        (200, completion(token_ids=None), "as token ids"),
        (200, completion(token_ids=[]), "as token ids"),
        (200, completion(token_ids=["a"]), "as token ids"),
        (200, completion(prompt_token_ids=[1, 5, 6]), "another prompt"),
    ],
)
def test_rubbish_is_one_line(status, answer, words, server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    server.misbehave = lambda path, body: (status, answer) if path == "/v1/completions" else None
    with pytest.raises(RolloutError) as raised:
        engine.generate([[5, 6]], SAMPLING)
    one_line(raised.value, words, "/v1/completions")


@pytest.mark.parametrize(
    "path, status, answer, words",
    [
        ("/collective_rpc", 404, {"detail": "Not Found"}, "VLLM_SERVER_DEV_MODE"),
        ("/collective_rpc", 500, {"error": {"message": "no such file"}}, "no such file"),
        ("/reset_prefix_cache", 200, {"success": False}, "did not empty"),
        ("/v1/models", 200, {"data": []}, "names no model"),
    ],
)
def test_a_server_that_takes_no_weights_is_one_line(path, status, answer, words, server, loaded, tmp_path):
    server.misbehave = lambda asked, body: (status, answer) if asked == path else None
    with pytest.raises(RolloutError) as raised:
        engine_of(server, loaded, tmp_path / "weights")
    one_line(raised.value, words, path)


def test_a_slow_server_times_out(server, loaded, tmp_path):
    engine = engine_of(server, loaded, tmp_path / "weights")
    engine.timeout = 0.05
    waiting = threading.Event()
    server.misbehave = lambda path, body: waiting.wait(1.0) and None
    with pytest.raises(RolloutError, match=r"nothing within 0\.05 s"):
        engine.generate([[5]], SAMPLING)
    waiting.set()


# ---- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package with the calls that the engine makes of it."""
    module: Any = ModuleType("vllm")
    module.started = []

    class LLM:
        def __init__(self, *, model: str, dtype: str, gpu_memory_utilization: float) -> None:
            if module.started and module.started[-1] == "broken":
                raise RuntimeError("no device\nfound")
            self.writer = Writer()
            self.writer.load(model)
            self.calls: list[str] = []
            module.started.append((model, dtype, gpu_memory_utilization))

        def generate(self, asked, parameters, *, use_tqdm: bool):
            return [
                SimpleNamespace(
                    outputs=[SimpleNamespace(token_ids=tuple(self.writer.write(one["prompt_token_ids"], p)))]
                )
                for one, p in zip(asked, parameters, strict=True)
            ]

        def collective_rpc(self, method: str, *, kwargs: dict[str, str]) -> None:
            self.calls.append(method)
            self.writer.load(kwargs["weights_path"])

        def reset_prefix_cache(self) -> bool:
            self.calls.append("reset_prefix_cache")
            return True

    module.LLM, module.SamplingParams = LLM, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_in_process_it_starts_from_the_policy_and_follows_it(package, loaded, tmp_path):
    model, tokenizer = loaded
    engine = build_vllm_engine(None, model, tokenizer, ENDS, weights_folder=tmp_path / "weights")
    assert isinstance(engine, VllmEngine)
    assert package.started == [(str(tmp_path / "weights"), "float32", 0.3)]
    mixed = engine.generate(prompts() * 2, SAMPLING, greedy=[True] * 6 + [False] * 6)
    assert ids(mixed[:6]) == greedy_of(model, tokenizer)
    assert ids(mixed[6:]) != ids(mixed[:6])
    trained = moved(model)
    engine.update_weights(trained)
    assert ids(engine.generate(prompts(), SAMPLING, greedy=[True] * 6)) == greedy_of(trained, tokenizer)
    assert engine.llm.calls == ["reload_weights", "reset_prefix_cache"]


def test_in_process_a_failed_start_is_one_line(package, loaded, tmp_path):
    package.started.append("broken")
    with pytest.raises(RolloutError) as raised:
        VllmEngine(*loaded, end_token_ids=ENDS, weights_folder=tmp_path / "weights")
    one_line(raised.value, "cannot start", "no device found", "--rollout_engine")


def test_without_the_package_the_extra_is_named(loaded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError) as raised:
        build_vllm_engine(None, *loaded, ENDS, weights_folder=tmp_path / "weights")
    one_line(raised.value, ".[vllm]")
    assert not (tmp_path / "weights").exists()
