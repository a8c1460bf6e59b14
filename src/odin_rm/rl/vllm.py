"""Responses written by vLLM: a server that runs beside the training, or vLLM in this process (the extra ``vllm``).

vLLM has weights of its own, so the policy's are handed over after each change: written as safetensors to a folder that
vLLM reads, by its worker method ``reload_weights``, after which the cache of prefixes is emptied. Prompts and responses
travel as token ids; nothing is rendered or tokenised on the way.

A server is started as ``VLLM_SERVER_DEV_MODE=1 vllm serve MODEL``, on the same model and with the folder in its sight;
the development mode is what lets it take new weights. Its address is no secret-keeper: keep it off public networks. An
API key is read from ``VLLM_API_KEY``, as the server does. Written against vLLM 0.33; greedy responses were compared
with 0.32 on a CPU, where the server needs ``--no-enable-chunked-prefill``: a prompt with a seed that is read in parts
ends it.

Each response has a seed of its own, drawn from torch's global generator, so what is asked is the same in every run with
a seed; vLLM's kernels do not promise the same bits under another load. Their log-probs differ from those of the trained
model in rounding, so training computes its own.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from odin_rm.core.errors import ConfigError, MissingExtraError, OdinError, RolloutError
from odin_rm.core.files import atomic_folder
from odin_rm.core.http import Answer, NoAnswerError, ServerError, ask
from odin_rm.core.ranks import is_main_process
from odin_rm.core.untrusted import parse_json
from odin_rm.model.policy import save_policy
from odin_rm.rl.records import Rollout, RolloutEngine, SamplingSettings
from odin_rm.rl.rollout import read_response

# Requests on their way at a time; the server batches what it has.
_AT_ONCE = 128
# The pause before the n-th further try of a request, seconds.
_PAUSES = (0.5, 2.0)


def build_vllm_engine(
    server: str | None,
    model: Any,
    tokenizer: Any,
    end_token_ids: Collection[int],
    *,
    weights_folder: str | Path | None = None,
) -> RolloutEngine:
    """The vLLM engine of a run, with the policy's present weights.

    Args:
        server: address of a server; without one vLLM runs in this process.
        model: the policy, wrapped or not.
        tokenizer: the policy's.
        end_token_ids: tokens that end a response.
        weights_folder: where weights are handed over; default a temporary folder. A server must see it.

    Raises:
        RolloutError: the server does not answer, or does not take weights.
        MissingExtraError: vLLM is not installed.
    """
    folder = Path(weights_folder or tempfile.mkdtemp(prefix="odin_rm_vllm_"))
    if server is None:
        return VllmEngine(model, tokenizer, end_token_ids=end_token_ids, weights_folder=folder)
    engine = VllmServerEngine(server, tokenizer, end_token_ids=end_token_ids, weights_folder=folder)
    engine.update_weights(model)
    return engine


def sampling_parameters(
    sampling: SamplingSettings, end_token_ids: Collection[int], *, greedy: bool, seed: int
) -> dict[str, Any]:
    """vLLM's parameters of one response, by the names that its API and its ``SamplingParams`` share.

    All that shapes the distribution is said, for a server fills gaps from the model's generation config.
    """
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": 0.0 if greedy else sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 0 if greedy else sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": sorted(end_token_ids),
        "seed": seed,
    }


def _parameters(
    count: int, sampling: SamplingSettings, end_token_ids: Collection[int], greedy: Sequence[bool] | None
) -> list[dict[str, Any]]:
    seeds = torch.randint(2**31, (count,)).tolist()
    flags = [False] * count if greedy is None else greedy
    return [
        sampling_parameters(sampling, end_token_ids, greedy=flag, seed=seed)
        for flag, seed in zip(flags, seeds, strict=True)
    ]


class VllmServerEngine:
    """A :class:`odin_rm.rl.records.RolloutEngine` on a vLLM server's documented HTTP API.

    Args:
        url: address of the server, with or without ``/v1``.
        tokenizer: the policy's.
        end_token_ids: tokens that end a response.
        weights_folder: where weights are handed over; the server must see it under the same name.
        timeout: seconds for one answer.

    Raises:
        RolloutError: the server does not answer, or serves no model.
    """

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        *,
        end_token_ids: Collection[int],
        weights_folder: str | Path,
        timeout: float = 600.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"'{url}' is no address", where="--vllm_server", fix="Write it as http://host:port.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tokenizer, self.end_token_ids = tokenizer, set(end_token_ids)
        self.folder, self.timeout = Path(weights_folder).resolve(), timeout
        served = self._ask("/v1/models").get("data")
        if not (isinstance(served, list) and served and isinstance(served[0], dict) and "id" in served[0]):
            raise self._error("/v1/models", "names no model")
        self.model_name = str(served[0]["id"])

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: SamplingSettings,
        *,
        greedy: Sequence[bool] | None = None,
    ) -> list[Rollout]:
        """One response per prompt, in order; see :class:`odin_rm.rl.records.RolloutEngine`.

        Raises:
            RolloutError: the server does not answer, refuses (a prompt too long for it), or answers something else.
        """
        parameters = _parameters(len(prompt_ids), sampling, self.end_token_ids, greedy)
        with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(prompt_ids)))) as pool:
            return list(pool.map(self._write, map(list, prompt_ids), parameters))

    def _write(self, prompt_ids: list[int], parameters: dict[str, Any]) -> Rollout:
        body = {"model": self.model_name, "prompt": prompt_ids, "return_token_ids": True, **parameters}
        path = "/v1/completions"
        answer = self._ask(path, body)
        try:
            choice = answer["choices"][0]
            written, read = choice["token_ids"], choice["prompt_token_ids"]
            usable = bool(written) and all(type(token) is int and 0 <= token < 2**31 for token in written)
        except (KeyError, IndexError, TypeError) as error:
            raise self._error(path, "gives no token ids", "Update the vLLM server.") from error
        if not usable:
            raise self._error(path, f"gives {str(written)[:60]} as token ids", "Update the vLLM server.")
        if read != prompt_ids:
            raise self._error(path, "read another prompt than it was given", "Serve the policy's own model.")
        return read_response(self.tokenizer, prompt_ids, written, self.end_token_ids)

    def update_weights(self, model: Any) -> None:
        """Hand the policy's present weights to the server; of several processes the first does it, and all wait.

        Raises:
            RolloutError: the server does not take weights, or cannot read them.
            OutputError: the folder cannot be written.
        """
        failed: list[OdinError | None] = [None]
        if is_main_process():
            try:
                self._update(model)
            except OdinError as error:
                failed = [error]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(failed, src=0)
        if failed[0] is not None:
            raise failed[0]

    def _update(self, model: Any) -> None:
        _hand_over(model, self.tokenizer, self.folder)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder)}}
        self._ask("/collective_rpc", body, fix=_DEV_MODE)
        # What is cached of prompts was computed with the old weights.
        if self._ask("/reset_prefix_cache", {}, fix=_DEV_MODE).get("success") is False:
            raise self._error("/reset_prefix_cache", "did not empty its cache", "Let nobody else use the server.")

    def _ask(self, path: str, body: dict[str, Any] | None = None, *, fix: str = "") -> dict[str, Any]:
        """GET, or POST of a body; a server that is busy or cannot be reached is asked again."""
        key = os.environ.get("VLLM_API_KEY")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        for pause in (*_PAUSES, None):
            try:
                answer = ask(method, self.url + path, body=data, headers=headers, timeout=self.timeout)
                # A failure of weights would only be repeated; a request that is wrong stays wrong.
                if answer.status < 400:
                    break
                if answer.status not in (429, 502, 503, 504) or pause is None:
                    raise self._error(path, f"answers {answer.status}{_reason(answer)}", fix)
            except NoAnswerError as error:
                if pause is None:
                    fix = "Start it, or correct --vllm_server; then resume the run."
                    raise self._error(path, f"does not answer ({error})", fix) from error
            except ServerError as error:
                raise self._error(path, f"cannot be used ({error})", "Check that it is a vLLM server.") from error
            time.sleep(pause or 0.0)
        try:
            said = parse_json(answer.content or b"{}")
        except ValueError as error:
            raise self._error(path, "does not answer in JSON", "Check that it is a vLLM server.") from error
        if not isinstance(said, dict):
            raise self._error(path, "does not answer with an object", "Check that it is a vLLM server.")
        return said

    def _error(self, path: str, what: str, fix: str = "") -> RolloutError:
        return RolloutError(f"the vLLM server {what}", where=self.url + path, fix=fix)


_DEV_MODE = "Start it with VLLM_SERVER_DEV_MODE=1, on the policy's model and where it sees the weights folder."


def _reason(answer: Answer) -> str:
    """What the server says of a failure, in a few words."""
    try:
        said = parse_json(answer.content)
        said = said.get("error", said.get("detail", said))
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    except (ValueError, AttributeError):
        return ""
    return f" ({' '.join(text.split())[:200]})"


class VllmEngine:
    """A :class:`odin_rm.rl.records.RolloutEngine` on vLLM in this process.

    Args:
        model: the policy, whose present weights it starts from.
        tokenizer: the policy's.
        end_token_ids: tokens that end a response.
        weights_folder: where weights are handed over.
        gpu_memory_utilization: share of the accelerator's memory for vLLM; training needs the rest.

    Raises:
        MissingExtraError: vLLM is not installed.
        RolloutError: vLLM cannot start.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        end_token_ids: Collection[int],
        weights_folder: str | Path,
        gpu_memory_utilization: float = 0.3,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm") from error
        self._vllm = vllm
        self.tokenizer, self.end_token_ids = tokenizer, set(end_token_ids)
        self.folder = Path(weights_folder).resolve()
        _hand_over(model, tokenizer, self.folder)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        try:
            self.llm = vllm.LLM(model=str(self.folder), dtype=dtype, gpu_memory_utilization=gpu_memory_utilization)
        except (RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            fix = "Use --rollout_engine transformers, or a vLLM server."
            raise RolloutError(f"vLLM cannot start ({reason})", where="--rollout_engine vllm", fix=fix) from error

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: SamplingSettings,
        *,
        greedy: Sequence[bool] | None = None,
    ) -> list[Rollout]:
        """One response per prompt, in order; see :class:`odin_rm.rl.records.RolloutEngine`."""
        asked = [list(ids) for ids in prompt_ids]
        parameters = _parameters(len(asked), sampling, self.end_token_ids, greedy)
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in asked],
            [self._vllm.SamplingParams(**one) for one in parameters],
            use_tqdm=False,
        )
        return [
            read_response(self.tokenizer, ids, list(output.outputs[0].token_ids), self.end_token_ids)
            for ids, output in zip(asked, outputs, strict=True)
        ]

    def update_weights(self, model: Any) -> None:
        """Hand the policy's present weights to vLLM."""
        _hand_over(model, self.tokenizer, self.folder)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self.folder)})
        self.llm.reset_prefix_cache()


def _hand_over(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the policy, an adapter merged, to the folder that vLLM reads."""
    with atomic_folder(folder, overwrite=True) as place:
        save_policy(model, tokenizer, place, merged=True)
