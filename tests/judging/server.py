"""A local server that speaks the chat-completions API and can misbehave on demand. Runs in a thread or as a process:

python -m tests.judging.server PORT LOG [seconds per reply]
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from odin_rm.judging import pacing
from tests.waiting import PATIENCE

KEY = "sk-secret-of-the-tests"
_ANSWERS = re.compile(
    r"<answer_[1a] (\w+)>\n(.*?)\n</answer_[1a] \1>.*<answer_[2b] \1>\n(.*?)\n</answer_[2b] \1>", re.DOTALL
)
_WORTH = re.compile(r"worth (-?\d+)")

Reply = Callable[[str, str, int], str]


def honest(first: str, second: str, times: int) -> str:
    """Scores by the number that the answers of the tests state."""
    return f"{worth(first)} {worth(second)}\nBecause it says so."


def biased(first: str, second: str, times: int) -> str:
    """The same, with two points more for the first place."""
    return f"{min(10, worth(first) + 2)} {worth(second)}\nThe first looks nicer."


def worth(answer: str) -> int:
    return int(_WORTH.search(answer)[1])  # type: ignore[index]


class FakeEndpoint(ThreadingHTTPServer):
    """The server.

    Args:
        reply: the judge's words for the two answers of a prompt (a prompt without any is the first, and the second is
            empty) and how often this very question came before.
        faults: what goes wrong, by the number of the request (from 0): ``429``, ``500``, ``400``, ``hang``,
            ``html``, ``half_json``, ``no_choices``, ``cut``, ``cut_stream``, ``drop``, ``quota``, or a pair of a
            status and headers.
        port: 0 takes a free one.

    Attributes:
        held_from: requests from this number on wait for :meth:`let_go` before they are answered.
        after: by its number, how many requests must have come before a request is answered.
        times: when each request came, by the clock of the judge.
        seconds: of sleep before each answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Reply = honest, faults: dict[int, Any] | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reply, self.faults = reply, faults or {}
        self.seconds = 0.0
        self.held_from: int | None = None
        self.after: dict[int, int] = {}
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.log: Any = None
        self.under_way = 0
        self.guard = threading.Condition()
        self.opened, self.closing = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def until(self, requests: int) -> None:
        """Wait until so many requests have come."""
        with self.guard:
            assert self.guard.wait_for(lambda: len(self.requests) >= requests, PATIENCE), len(self.requests)

    def let_go(self) -> None:
        """Answer what was held back at the gate, and whatever comes."""
        self.opened.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests hang up as they like

    def __exit__(self, *args: Any) -> None:
        self.opened.set()
        self.closing.set()
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeEndpoint

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            number = len(server.requests)
            server.requests.append(body)
            server.times.append(pacing.CLOCK.now())
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.under_way += 1
            server.guard.notify_all()
        try:
            if server.seconds:
                time.sleep(server.seconds)
            if number in server.after:
                server.until(server.after[number])
            if server.held_from is not None and number >= server.held_from:
                server.opened.wait()
            if self.headers.get("Authorization") == f"Bearer {KEY}":
                self.answer(body, server.faults.get(number))
            else:
                bad = self.headers.get("Authorization")
                self.send(401, {"error": {"message": f"Incorrect API key provided: {bad}", "code": "invalid_api_key"}})
        finally:
            with server.guard:
                server.under_way -= 1

    def answer(self, body: dict[str, Any], fault: Any) -> None:
        if fault is None:
            self.complete(body)
        elif isinstance(fault, tuple):
            self.send(fault[0], {"error": {"message": "slow down", "code": None}}, fault[1])
        elif isinstance(fault, int):
            self.send(fault, {"error": {"message": f"made to fail with {fault}", "code": None}})
        elif fault == "quota":
            self.send(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
        elif fault == "hang":
            self.server.closing.wait()
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
        elif fault == "html":
            self.send_bytes(200, b"<html>gateway</html>", {"Content-Type": "text/html"})
        elif fault == "half_json":
            self.send_bytes(200, b'{"id": "x", "choices": [{"mess', {"Content-Type": "application/json"})
        elif fault == "no_choices":
            self.send(200, {"id": "x", "object": "chat.completion"})
        elif fault in ("cut", "cut_stream"):
            self.complete(body, cut=True)

    def complete(self, body: dict[str, Any], cut: bool = False) -> None:
        prompt = body["messages"][-1]["content"]
        name = hashlib.sha256(prompt.encode()).hexdigest()
        with self.server.guard:
            times = self.server.answered[name]
            if not cut:
                self.server.answered[name] += 1
                if self.server.log:
                    print(name, file=self.server.log, flush=True)
        answers = _ANSWERS.search(prompt)
        text = self.server.reply(*(answers.groups()[1:] if answers else (prompt, "")), times)
        finish = "length" if text.endswith("...") else "stop"
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        shape = {"id": "c", "created": 1, "model": body["model"]}
        if body.get("stream"):
            self.stream(text, finish, usage, shape, cut)
            return
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        whole = {**shape, "object": "chat.completion", "choices": [message], "usage": usage}
        self.send_bytes(200, json.dumps(whole).encode(), {"Content-Type": "application/json"}, cut)

    def stream(self, text: str, finish: str, usage: dict[str, int], shape: dict[str, Any], cut: bool) -> None:
        pieces = [{"content": text[k : k + 4]} for k in range(0, len(text), 4)]
        choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in pieces]
        choices += [[{"index": 0, "delta": {}, "finish_reason": finish}]]
        events = [{**shape, "object": "chat.completion.chunk", "choices": choice} for choice in choices]
        events += [{**shape, "object": "chat.completion.chunk", "choices": [], "usage": usage}]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events[: 2 if cut else None]:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        if not cut:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, status: int, content: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


if __name__ == "__main__":
    endpoint = FakeEndpoint(port=int(sys.argv[1]))
    endpoint.log = open(sys.argv[2], "a")  # noqa: SIM115
    endpoint.seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    threading.Event().wait()
