"""A server as a source, in OpenRLHF's protocol of a remote reward model.

    POST url {"query": [...], "prompts": [...], "labels": [...]}  ->  {"rewards": [...], "extra_logs": {name: [...]}}

A query is the decoded prompt and response of the policy, special tokens kept; a label is the row's column ``label``, or
null. Where prompts have tools, ``tools`` holds them too, a list of JSON schemas or null each, for servers that render.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from odin_rm.core.errors import RewardSourceError
from odin_rm.core.http import NoAnswerError, ServerError, ask
from odin_rm.core.untrusted import parse_json
from odin_rm.data.messages import template_variables
from odin_rm.data.prompts import encode_prompts
from odin_rm.data.render import plain_prompt, plain_response
from odin_rm.rl.records import JudgedResponses, RewardRequest

# Responses per request: one answer stays within the timeout whatever the number of experiences.
MOST_QUERIES = 64
MOST_BYTES = 16 * 2**20  # of an answer: numbers, and what is shown beside each of them
LONGEST_PAUSE = 30.0
_LATER = (408, 425, 429)
_WHOLE_PROMPT = 2**31


class HttpSource:
    """Asks a server; goes on asking while it is busy, restarts or cannot be reached, and then says so.

    No answer within ``timeout``, a connection that breaks and the statuses 408, 425, 429 and 5xx are tried again, after
    pauses of ``pause``, twice as long each time, 30 seconds at most. Anything else that is no answer ends at once.

    Args:
        url: the whole address, path included.
        policy_tokenizer: decodes the responses and renders the prompts; without it queries are plain text.
        chat_template: the policy's, where it is not its tokenizer's own.
        timeout: seconds for one answer.
        retries: further tries after the first.
        pause: seconds before the first further try.

    Raises:
        RewardSourceError: the address is none.
    """

    reward_mean: float | None = None
    reward_std: float | None = None

    def __init__(
        self,
        url: str,
        *,
        policy_tokenizer: Any = None,
        chat_template: str | None = None,
        timeout: float = 180.0,
        retries: int = 5,
        pause: float = 1.0,
    ) -> None:
        parts = _parts(url)
        self.url, self.tokenizer, self.chat_template = url, policy_tokenizer, chat_template
        self.timeout, self.retries, self.pause = timeout, retries, pause
        place = parts.netloc.rpartition("@")[2]
        self.name = f"{parts.scheme}://{place}{parts.path}"  # a query may hold a key: never in logs

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """The server's number for each response.

        Raises:
            RewardSourceError: no answer after all tries, or one without a finite number for each response.
        """
        prompts, queries = self._texts(request)
        labels = [None if label is None else str(label) for label in _labels(request)]
        tools = [template_variables(prompt).get("tools") for prompt in request.prompts]
        quality: list[float] = []
        columns: dict[str, list[Any]] = {}
        for start in range(0, len(queries), MOST_QUERIES):
            part = slice(start, start + MOST_QUERIES)
            body: dict[str, Any] = {"query": queries[part], "prompts": prompts[part], "labels": labels[part]}
            if any(tools):
                body["tools"] = tools[part]
            answer = self._post(json.dumps(body).encode())
            numbers = self._numbers(answer, len(queries[part]), start)
            quality += numbers
            for column, values in _extra_logs(answer, len(numbers)).items():
                columns.setdefault(column, [None] * len(queries))[part] = values
        return JudgedResponses(np.array(quality, dtype=np.float64), log_columns=columns)

    def _texts(self, request: RewardRequest) -> tuple[list[str], list[str]]:
        """Prompts, and prompts with responses, as the policy read and wrote them."""
        if self.tokenizer is None:
            prompts = [plain_prompt(prompt) for prompt in request.prompts]
            return prompts, [p + plain_response(r) for p, r in zip(prompts, request.responses, strict=True)]
        prompt_ids, _ = encode_prompts(
            self.tokenizer, request.prompts, max_prompt_tokens=_WHOLE_PROMPT, chat_template=self.chat_template
        )
        sequences = [[*p, *r] for p, r in zip(prompt_ids, request.response_ids, strict=True)]
        return self._decode(prompt_ids), self._decode(sequences)

    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in sequences]

    def _post(self, body: bytes) -> Any:
        """The parsed answer, after as many tries as it takes and is allowed."""
        for further in range(self.retries + 1):
            try:
                return self._ask(body)
            except _TryAgain as error:
                trouble = str(error)
            if further < self.retries:
                time.sleep(min(self.pause * 2**further, LONGEST_PAUSE))
        tries = f"{self.retries + 1} tries" if self.retries else "1 try"
        fix = "Start the reward server again, then go on with --resume_from_checkpoint true."
        raise RewardSourceError(f"no answer in {tries} ({trouble})", where=self.name, fix=fix)

    def _ask(self, body: bytes) -> Any:
        head = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            answer = ask("POST", self.url, body=body, headers=head, timeout=self.timeout, most_bytes=MOST_BYTES)
        except NoAnswerError as error:
            raise _TryAgain(str(error)) from error
        except ServerError as error:
            raise self._error(str(error)) from error
        if answer.status >= 400:
            said = f": {answer.words}" if answer.words else ""
            what = f"HTTP {answer.status} {answer.reason}{said}"
            if answer.status >= 500 or answer.status in _LATER:
                raise _TryAgain(what)
            raise self._error(f"the server refuses ({what})")
        try:
            return parse_json(answer.content)
        except ValueError as error:  # also bytes that are no UTF-8
            raise self._error(f"the answer is not JSON ({answer.content[:60]!r})") from error

    def _numbers(self, answer: Any, count: int, start: int) -> list[float]:
        if not isinstance(answer, dict) or "rewards" not in answer:
            has = f"has {', '.join(map(str, answer)) or 'nothing'}" if isinstance(answer, dict) else "is no object"
            raise self._error(f"the answer has no 'rewards' (it {has})")
        numbers = answer["rewards"]
        if not isinstance(numbers, list) or len(numbers) != count:
            what = f"{len(numbers)} numbers" if isinstance(numbers, list) else f"{numbers!r:.40}"
            raise self._error(f"'rewards' has {what} for {count} responses")
        for row, number in enumerate(numbers, start=start + 1):
            plain = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not plain or not abs(number) <= sys.float_info.max:  # NaN is not, and no whole number beyond floats
                raise self._error(f"the reward of response {row} is {json.dumps(number):.40}, not a finite number")
        return [float(number) for number in numbers]

    def _error(self, what: str) -> RewardSourceError:
        fix = 'The server must answer {"rewards": [one number per query]}.'
        return RewardSourceError(what, where=self.name, fix=fix)


def _parts(url: str) -> SplitResult:
    fix = "Write http://host:port/path."
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname and parts.hostname.encode("idna")) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, a host that is no name
        usable = False
    if not usable or not url.isascii() or any(character.isspace() for character in url):
        raise RewardSourceError(f"'{url}' is no address", where="--reward", fix=fix)
    return parts


class _TryAgain(Exception):
    """The server may answer next time."""


def _labels(request: RewardRequest) -> list[Any]:
    return request.columns.get("label", [None] * len(request.responses))


def _extra_logs(answer: dict[str, Any], count: int) -> dict[str, list[Any]]:
    """What the server wants shown beside each response; what is no list of one value each is left alone."""
    logs = answer.get("extra_logs")
    logs = logs if isinstance(logs, dict) else {}
    return {str(name): values for name, values in logs.items() if isinstance(values, list) and len(values) == count}
