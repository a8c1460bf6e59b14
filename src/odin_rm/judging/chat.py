"""Calls of an OpenAI-compatible chat endpoint: side by side, paced, made again where that may help.

Calls are spaced by :mod:`odin_rm.judging.pacing`. A call that fails in a way that may pass (rate limit, timeout, server
error, lost connection, a stream that breaks off) is made again after a pause; one whose reply is odd (no chat
completion, longer than anybody reads) is made :data:`TRIES_OF_ODD` times in all and then left without a reply. So is
one that the server refuses for its content (400, 413, 422), and one that has no reply within the time whatever is
tried, while others have.
Anything else (wrong key, unknown model, no quota, a redirect, silence) ends the run in one line. So do
:data:`MOST_LEFT_IN_A_ROW` calls in a row that are left.

What the server sends is read as JSON of unknown shape: nothing of it is believed to have a type.

The key is read from the environment when calls begin. It is in no setting, no file and no message.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from odin_rm.core.errors import ConfigError, MissingExtraError, OdinError
from odin_rm.core.signals import sigterm_cancels
from odin_rm.core.untrusted import plain_text
from odin_rm.judging import pacing
from odin_rm.judging.pacing import Clock, Pacer, pause_before
from odin_rm.judging.replies import BrokenStream, Odd, Reply, join_pieces, read_completion

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_URL = "https://api.openai.com/v1"
CHARACTERS_PER_TOKEN = 4
"""For estimates only; what was used in truth is what the endpoint counts."""
MOST_LEFT_IN_A_ROW = 10
TRIES_OF_ODD = 3
"""Of a call whose reply nobody can use; the next one is likely as odd."""
MOST_BYTES = 16 * 2**20
"""Of a reply, far above what any model writes."""
TRIES_TO_REACH = 3
"""A server that has never answered is given up sooner: its address is likely wrong."""
LONGEST_WAIT = 600.0

_LATE = "no reply within"
_REFUSED = (400, 413, 422)
_MAY_PASS = (408, 409, 425, 429)

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class ChatSettings:
    """Where the model is, how it writes, and how hard it may be pressed.

    Attributes:
        model: the model's name at the endpoint.
        base_url: the API's address, as far as ``/v1``; default ``OPENAI_BASE_URL``, or OpenAI's.
        api_key_env: the environment variable that holds the key.
        temperature, top_p, max_tokens, seed: of the reply; ``None`` is not sent.
        stream: ask for the reply piece by piece.
        concurrency: calls under way at a time.
        requests_per_minute, tokens_per_minute: limits; ``None`` is none.
        timeout: seconds for a whole call.
        retries: how often a call that failed is made again.
    """

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int | None = 512
    seed: int | None = None
    stream: bool = False
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 8


@dataclass(frozen=True)
class Call:
    """A conversation to be answered, with a seed of its own where that of the settings is not meant."""

    messages: Messages
    seed: int | None = None


class ChatClient:
    """See the module.

    Args:
        settings: the endpoint.
        role: what the model is here, for messages ("judge").
        error: what is raised when the endpoint does not answer any more.
        clock: the time that calls go by; default that of the machine.

    Attributes:
        base_url: the address that calls go to.
        retried: calls made again after a failure.
        refused: calls that the endpoint refused for their content.
        left: calls that were left because the endpoint gave no reply to them, or none that can be used.
        problem: what was wrong with the last call that was left; empty without any.

    Raises:
        ConfigError: an address that is none, or that carries a secret.
    """

    def __init__(
        self, settings: ChatSettings, *, role: str, error: type[OdinError], clock: Clock | None = None
    ) -> None:
        self.settings, self.role, self.error = settings, role, error
        self.clock = clock or pacing.CLOCK
        self.base_url = endpoint_address(settings.base_url)
        self.retried = self.refused = self.left = 0
        self.problem = ""
        self._left_in_a_row = self._silent_in_a_row = 0
        self._reached = False
        self._failure: OdinError | None = None
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("is no http(s) address", where="--base_url", fix="Give it as far as /v1.")
        if parts.username or parts.password or parts.query:
            what = "carries a name, a password or a query, which would end up in files"
            raise ConfigError(what, where="--base_url", fix=f"Put the key into {settings.api_key_env}.")

    def prepare(self) -> None:
        """Refuse what cannot work before anything is written.

        Raises:
            MissingExtraError: the client library is not installed.
            ConfigError: there is no key.
        """
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("openai", "judge") from error
        self._key()

    def complete(self, calls: Sequence[Call], take: Callable[[int, Reply], None]) -> None:
        """Make all calls; hand each reply over as soon as it is there.

        Args:
            calls: what to ask.
            take: called with a call's position and its reply; not called for one that is left without.

        Raises:
            OdinError: of the class ``error``: the endpoint has stopped answering. What was handed over stays.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the calls under way are given up.
        """
        try:
            asyncio.run(self._complete(calls, take))
        except asyncio.CancelledError:  # by SIGTERM: asyncio turns its own Ctrl-C into what a caller expects
            raise KeyboardInterrupt from None

    def _key(self) -> str:
        name = self.settings.api_key_env
        key = os.environ.get(name, "").strip()
        if not key:
            fix = f"Set {name} (any word does for a server that asks for none), or name another with --api_key_env."
            raise ConfigError(f"there is no API key: the environment variable {name} is not set", fix=fix)
        if not (key.isascii() and key.isprintable()):
            what = f"the environment variable {name} holds characters that no key has"
            raise ConfigError(what, fix="Set it to the key alone, on one line.")
        return key

    async def _complete(self, calls: Sequence[Call], take: Callable[[int, Reply], None]) -> None:
        from openai import AsyncOpenAI

        from odin_rm.core.http import make_client

        settings = self.settings
        pacer = Pacer(settings.requests_per_minute, settings.tokens_per_minute, self.clock)
        waiting = iter(enumerate(calls))
        self._failure = None
        # The client's own retries are off: ours also cover broken replies, and hold all workers back together.
        client = AsyncOpenAI(
            api_key=self._key(),
            base_url=self.base_url,
            max_retries=0,
            timeout=settings.timeout,
            http_client=make_client(timeout=settings.timeout, most_bytes=MOST_BYTES),
        )
        with sigterm_cancels():
            async with client:
                workers = min(settings.concurrency, len(calls))
                await asyncio.gather(*(self._work(client, pacer, waiting, take) for _ in range(workers)))
        if self._failure is not None:
            raise self._failure

    async def _work(
        self,
        client: AsyncOpenAI,
        pacer: Pacer,
        waiting: Iterator[tuple[int, Call]],
        take: Callable[[int, Reply], None],
    ) -> None:
        """Make one call after another. When one worker fails, the others still take in what is under way."""
        for number, call in waiting:
            try:
                reply = await self._ask(client, pacer, call)
                if reply is not None:
                    take(number, reply)
            except OdinError as error:
                self._failure = self._failure or error
                pacer.stop()
            if self._failure is not None:
                return

    async def _ask(self, client: AsyncOpenAI, pacer: Pacer, call: Call) -> Reply | None:
        """The reply to one call, ``None`` where it is left without one."""
        import openai

        from odin_rm.core.http import RedirectError, UnusableAnswerError

        tokens = estimate_tokens(call.messages) + (self.settings.max_tokens or 0)
        tries = self.settings.retries + 1
        odd, late = 0, True
        for attempt in range(1, tries + 1):
            if not await pacer.turn(tokens):
                return None
            try:
                async with self.clock.limit(self.settings.timeout):
                    reply = await self._call(client, call)
            except openai.APIStatusError as error:
                if error.status_code in _REFUSED:
                    self.refused += 1
                    self._leave("it refuses every question", error.message)
                    return None
                if not self._may_pass(error):
                    raise self._failed(error.message) from None
                problem, pause = self._describe(error), pause_before(attempt, error.response.headers, self.clock)
                if pause > LONGEST_WAIT:
                    raise self._failed(f"it asks to wait {pause:,.0f} s ({problem})") from None
                if error.status_code in (429, 503):
                    pacer.hold(pause)
            except RedirectError as error:
                raise self._failed(str(error)) from None
            except (Odd, UnusableAnswerError) as error:
                self._reached, odd = True, odd + 1
                if odd >= min(TRIES_OF_ODD, tries):
                    self.left += 1
                    self._leave("no reply of it can be used", str(error))
                    return None
                problem, pause = str(error), pause_before(attempt)
            except TimeoutError:
                problem, pause = f"{_LATE} {self.settings.timeout:g} s", pause_before(attempt)
            except (openai.APIError, BrokenStream) as error:
                problem, pause = self._describe(error), pause_before(attempt)
                unreachable = type(error) is openai.APIConnectionError and not self._reached
                if unreachable and attempt >= TRIES_TO_REACH:
                    raise self._failed("it cannot be reached") from None
            else:
                self._reached, self._left_in_a_row, self._silent_in_a_row = True, 0, 0
                return reply
            late = late and problem.startswith(_LATE)
            if attempt < tries:
                self.retried += 1
                await pacer.sleep(pause)
        # A question that a model never ends to answer is left to itself; two of them mean that the server is ill.
        problem = f"{problem}, {tries} times in a row"
        if not late:
            raise self._failed(problem)
        self._silent_in_a_row += 1
        if not self._reached or self._silent_in_a_row > 1:
            raise self._failed(problem)
        self.left += 1
        self._leave("it answers no question", problem)
        return None

    async def _call(self, client: AsyncOpenAI, call: Call) -> Reply:
        settings = self.settings
        decoding = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_completion_tokens": settings.max_tokens,
            "seed": settings.seed if call.seed is None else call.seed,
        }
        request: dict[str, Any] = {
            "model": settings.model,
            "messages": [{name: plain_text(text) for name, text in message.items()} for message in call.messages],
            **{name: value for name, value in decoding.items() if value is not None},
        }
        return await (_streamed if settings.stream else _whole)(client, request)

    def _leave(self, always: str, why: str) -> None:
        """Go on without a reply, unless there has been none for long."""
        self.problem = self._told(why)
        self._left_in_a_row += 1
        if self._left_in_a_row >= MOST_LEFT_IN_A_ROW:
            raise self._failed(f"{always}: {why}")

    def _may_pass(self, error: Any) -> bool:
        return error.code != "insufficient_quota" and (error.status_code in _MAY_PASS or error.status_code >= 500)

    def _describe(self, error: Exception) -> str:
        status = getattr(error, "status_code", None)
        return f"HTTP {status}" if status else str(error) or type(error).__name__

    def _failed(self, what: str) -> OdinError:
        what = self._told(what)
        fix = "Nothing that was answered is lost: put it right and run the same command again."
        return self.error(f"the {self.role} {self.settings.model} fails: {what}", where=self.base_url, fix=fix)

    def _told(self, what: str) -> str:
        """What a server says, fit for a message: some repeat the key that they refuse."""
        return " ".join(what.replace(self._key(), "***").split())[:300]


def endpoint_address(base_url: str | None) -> str:
    """The address that is meant: the given one, that of the environment, or OpenAI's."""
    return (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")


def estimate_tokens(messages: Messages) -> int:
    """Roughly how many tokens a conversation has."""
    return -(-sum(len(message["content"] or "") for message in messages) // CHARACTERS_PER_TOKEN)


async def _whole(client: AsyncOpenAI, request: dict[str, Any]) -> Reply:
    """The reply, in one piece."""
    answer = await client.chat.completions.with_raw_response.create(**request)
    return read_completion(answer.content)


async def _streamed(client: AsyncOpenAI, request: dict[str, Any]) -> Reply:
    """The reply, piece by piece."""
    import openai

    from odin_rm.core.http import ServerError

    lines: list[str] = []
    asked = client.chat.completions.with_streaming_response
    async with asked.create(**request, stream=True, stream_options={"include_usage": True}) as answer:
        try:
            async for line in answer.iter_lines():
                lines.append(line)
        except (openai.OpenAIError, ServerError, TimeoutError):
            raise
        except Exception as error:  # whatever the transport raises
            raise BrokenStream(f"the stream broke off ({type(error).__name__})") from error
    return join_pieces(lines)
