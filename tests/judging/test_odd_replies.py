"""Replies of judges as no API describes them: read where they are whole, else asked again and left, never a crash."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from odin_rm.core.errors import JudgeError
from odin_rm.judging import chat
from odin_rm.judging.replies import BrokenStream, Odd, join_pieces, read_completion
from odin_rm.workflows.judge.run import run_judge
from tests.judging.conftest import annotations, write_outputs

DEEP = "[" * 100_000 + "]" * 100_000


def completion(text: Any = "8 2", finish: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    usage = {"prompt_tokens": 3, "completion_tokens": 2} if usage is None else usage
    return {"id": "c", "choices": [{"index": 0, "message": said, "finish_reason": finish}], "usage": usage}


WHOLE = {
    "plain": completion(),
    **{f"finish {finish}": completion(finish=finish) for finish in (None, "eos_token", "end_turn", "STOP", "eos")},
    "no finish": {"choices": [{"message": {"content": "8 2"}}]},
    "counts as text": completion(usage={"prompt_tokens": "many", "completion_tokens": "7"}),
    "counts too large": completion(usage={"prompt_tokens": 10**30, "completion_tokens": 2**63}),
    "counts below 0": completion(usage={"prompt_tokens": -1, "completion_tokens": -(10**25)}),
    "counts no numbers": completion(usage={"prompt_tokens": float("nan"), "completion_tokens": float("inf")}),
    "counts in lists": completion(usage={"prompt_tokens": [1], "completion_tokens": {}}),
    "usage a list": completion(usage=[1, 2]),
    "usage a word": completion(usage="free"),
    "half a character": completion("8 2\nGood \ud83d"),
    "a NUL": completion("8 2\nGood \x00"),
    "escapes": completion("8 2\n\x1b]0;owned\x07"),
    "parts": completion([{"type": "thinking", "thinking": "1 9"}, {"type": "text", "text": "8 2"}]),
    "reasoning beside": completion(reasoning_content="1 9"),
    "more fields": completion() | {"object": 7, "created": "x", "model": None},
}

UNREADABLE = {
    f"finish {finish}": completion(finish=finish)
    for finish in ("content_filter", "tool_calls", "error", "", "nonsense", 7, {"type": "stop"}, ["stop"])
} | {
    "no words": completion(None),
    "a number for words": completion(8.2),
    "a refusal": completion("8 2", refusal="I will not"),
    "an object for words": completion({"text": "8 2"}),
}

NONE = {
    "message a string": {"choices": [{"message": "8 2", "finish_reason": "stop"}]},
    "message a list": {"choices": [{"message": ["8 2"]}]},
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "choices empty": {"choices": []},
    "choices an object": {"choices": {"0": {"message": {"content": "8 2"}}}},
    "choices of strings": {"choices": ["8 2"]},
    "choices null": {"choices": None},
    "an error": {"error": {"message": "overloaded", "code": 503}},
    "an error in a word": {"error": "overloaded"},
    "a list": [completion()],
    "a string": "8 2",
    "null": None,
    "html": b"<html>gateway</html>",
    "empty": b"",
    "half": b'{"choices": [{"mess',
    "not UTF-8": b'{"choices": "\xff"}',
    "deep": DEEP.encode(),
    "deep in the words": b'{"choices": [{"message": {"content": ' + DEEP.encode() + b"}}]}",
    "many digits": b'{"choices": ' + b"9" * 5000 + b"}",
    "huge": b'{"choices": [{"message": {"content": "' + b"8 2" * 20_000 + b'"}}]}',
}

MOST_BYTES = 50_000


def encoded(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@contextmanager
def endpoint(odd: Any, *, always: bool = True) -> Iterator[Any]:
    """Answers "8 2" or "2 8" for the candidate, and as told for the question that says odd (once, or always)."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            seen.append(prompt)
            candidate_first = prompt.index("of new") < prompt.index("of old")
            if "odd question" in prompt and candidate_first and (always or seen.count(prompt) == 1):
                content = encoded(odd)
            else:
                content = encoded(completion("8 2" if candidate_first else "2 8"))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.seen = seen  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def judged(room: Path, make_config, monkeypatch: pytest.MonkeyPatch):
    """Three prompts, one of which has an odd reply, judged by a reply of the endpoint."""
    monkeypatch.setattr(chat, "MOST_BYTES", MOST_BYTES)
    write_outputs(room / "candidate.json", [8, 8, 8], "new")
    write_outputs(room / "baseline.json", [2, 2, 2], "old")
    for name in ("candidate.json", "baseline.json"):
        (room / name).write_text((room / name).read_text().replace("question 1", "odd question"))

    def run(odd: Any, *, always: bool = True, **settings: Any) -> tuple[dict[str, Any], list[Any], int]:
        with endpoint(odd, always=always) as server:
            report = run_judge(make_config(base_url=server.url, **settings))
            return report, [row["preference"] for row in annotations(settings.get("output", "out"))], len(server.seen)

    return run


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_verdict_is_read_whatever_stands_beside_it(judged, name):
    report, preferences, calls = judged(WHOLE[name])
    assert preferences == [2.0, 2.0, 2.0]
    assert (calls, report["missing"], report["judgements"]["left"]) == (6, 0, 0)
    assert report["prompt_tokens"] in (15, 18)  # of five or six replies


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_reply_that_says_nothing_is_asked_again_and_then_left(judged, name):
    report, preferences, calls = judged(UNREADABLE[name])
    assert preferences == [2.0, None, 2.0]
    assert (calls, report["missing"], report["judgements"]["unparsed"]) == (7, 1, 1)


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_reply_is_asked_again_and_then_left(judged, name):
    report, preferences, calls = judged(NONE[name])
    # Nothing is kept that another run would take for a reply.
    assert preferences == [2.0, None, 2.0]
    assert calls == 5 + chat.TRIES_OF_ODD
    assert (report["missing"], report["judgements"]["unparsed"]) == (1, 0)
    with closing(sqlite3.connect("out/cache.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM replies").fetchone() == (5,)


@pytest.mark.parametrize("name", [*UNREADABLE, *NONE])
def test_what_passes_is_asked_again_and_read(judged, name):
    odd = {**UNREADABLE, **NONE}[name]
    report, preferences, calls = judged(odd, always=False)
    assert preferences == [2.0, 2.0, 2.0]
    assert (calls, report["missing"]) == (7, 0)


def test_the_reason_is_named_where_no_reply_can_be_used(judged):
    with endpoint(None) as server:
        server.RequestHandlerClass.do_POST = _always({"error": {"message": "model\x1b[2J is gone"}})
        with pytest.raises(JudgeError, match="model") as caught:
            run_judge_at(server)
    assert "template" not in str(caught.value)
    with endpoint(None) as server:
        server.RequestHandlerClass.do_POST = _always(completion(finish="nonsense"))
        with pytest.raises(JudgeError, match=r"its reply ended with finish_reason 'nonsense'") as caught:
            run_judge_at(server, output="other")
    assert "template" not in str(caught.value)


def run_judge_at(server: Any, **changes: Any) -> None:
    from odin_rm.workflows.judge.config import JudgeConfig

    settings = {"judge": "openai:m", "candidate": "candidate.json", "baseline": "baseline.json", "output": "out"}
    run_judge(JudgeConfig(**(settings | {"base_url": server.url, "retries": 1} | changes)))


def _always(content: Any) -> Any:
    def do_POST(self: BaseHTTPRequestHandler) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = encoded(content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    return do_POST


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_no_question_to_another_address(judged, status):
    with endpoint(None) as other, endpoint(None) as server:

        def do_POST(self: BaseHTTPRequestHandler) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", f"{other.url}/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()

        server.RequestHandlerClass.do_POST = do_POST
        with pytest.raises(JudgeError, match=rf"it sends elsewhere \(HTTP {status}") as caught:
            run_judge_at(server)
        assert other.seen == []
    assert "\n" not in str(caught.value)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def events(*bodies: Any) -> list[str]:
    return [f"data: {body if isinstance(body, str) else json.dumps(body)}" for body in bodies]


def piece(text: Any, finish: Any = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def test_pieces_become_a_reply():
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": "x"}}
    reply = join_pieces(events(piece("8"), piece(" 2"), piece(None, "stop"), usage, "[DONE]"))
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("8 2", "stop", 5, None)
    assert join_pieces(events(piece("8 2"), "[DONE]")).whole  # no finish reason, but a whole stream
    assert join_pieces([": ping", "", *events(piece("8 2", "eos_token"))]).whole
    assert join_pieces([json.dumps(completion())]).text == "8 2"  # a server that does not stream
    assert join_pieces(events({"choices": [{"delta": "8"}]}, piece("2", "stop"))).text == "2"


@pytest.mark.parametrize("lines", [[], [""], events(piece("8")), [*events(piece("8")), 'data: {"choi']])
def test_a_stream_without_its_end_is_broken(lines):
    with pytest.raises(BrokenStream):
        join_pieces(lines)


@pytest.mark.parametrize(
    "lines",
    [events("nonsense", piece("8", "stop")), events({"error": {"message": "x"}}), events("[1]", "[DONE]"), ["<html>"]],
)
def test_a_stream_of_something_else_is_odd(lines):
    with pytest.raises(Odd):
        join_pieces(lines)


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS"])
def test_a_reply_that_was_cut_is_readable_but_not_whole(finish):
    reply = read_completion(json.dumps(completion(finish=finish)))
    assert (reply.whole, reply.readable) == (False, True)


# ---- any change of a reply -------------------------------------------------------------------------------------------

VALUES = [None, True, 0, -1, 10**30, 1.5, float("nan"), "", "x", "\ud83d", [], [[]], {}, {"text": 1}, "8 2"]


def changed(rng: random.Random) -> bytes:
    """A completion with one to three of its parts replaced, taken out or doubled, perhaps cut as bytes."""
    body: Any = completion()
    for _ in range(rng.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        waiting = [body]
        while waiting:
            node = waiting.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
            for key in keys:
                places.append((node, key))
                waiting.append(node[key])
        if not places:
            break
        node, key = rng.choice(places)
        act = rng.randrange(3)
        if act == 0:
            del node[key]
        else:
            node[key] = rng.choice(VALUES) if act == 1 else [node[key], node[key]]
    content = json.dumps(body).encode()
    return content[: rng.randrange(len(content))] if rng.random() < 0.2 else content


def test_five_thousand_changed_replies_are_replies_or_odd():
    rng = random.Random(12)
    kinds = {True: 0, False: 0}
    for _ in range(5000):
        content = changed(rng)
        try:
            reply = read_completion(content)
        except Odd:
            kinds[False] += 1
            continue
        kinds[True] += 1
        reply.text.encode()
        assert reply.whole in (True, False)
        for count in (reply.prompt_tokens, reply.completion_tokens):
            assert count is None or 0 <= count <= 2**53
    assert min(kinds.values()) > 500


@pytest.mark.slow
def test_a_run_ends_well_whatever_is_changed_in_a_reply(judged):
    rng = random.Random(34)
    for number in range(100):
        content = changed(rng)
        _, preferences, _ = judged(content, output=f"out{number}")
        assert (preferences[0], preferences[2]) == (2.0, 2.0)
        assert preferences[1] in (None, 1.0, 1.25, 1.5, 1.75, 2.0)
