"""Bad requests of every kind for each protocol of ``odin-rm serve``; tests send them to a tiny model, the benchmark to
the command.
"""

from __future__ import annotations

from typing import Any

Case = tuple[str, str, Any]
DEEP = b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
FIELD = {
    "/get_reward": "query",
    "/classify": "input",
    "/pooling": "input",
    "/v1/embeddings": "input",
    "/score": "text_2",
    "/rerank": "documents",
    "/predict": "inputs",
    "/v1/score/evaluation": "messages",
    "/api/score": "responses",
}
NOT_TEXTS = [None, True, False, 0, -1, 1.5, 1e308, {}, {"text": None}, {"text": 5}, {"content": []}, {"a": "b"}]

BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"query=a",
    "half": b'{"query": ["a"',
    "list": b"[]",
    "text": b'"a"',
    "number": b"5",
    "null": b"null",
    "NaN": b'{"input": NaN}',
    "infinite": b'{"query": [Infinity]}',
    "long number": b'{"input": ' + b"9" * 6000 + b"}",
    "no UTF-8": b'{"query": ["\xff\xfe"]}',
    "UTF-16 mark": b"\xff\xfe{\x00}\x00",
    "NUL": b"\x00",
    "single quotes": b"{'query': ['a']}",
    "a comma too many": b'{"query": ["a"],}',
    "true": b"true",
    "deep": DEEP,
    "empty object": b"{}",
    "other keys": b'{"prompt_": "a"}',
}


def good_bodies(text: str) -> dict[str, dict[str, Any]]:
    """What each protocol takes; each bad request changes one thing of it.

    Args:
        text: a conversation in the form of the model's template.
    """
    return {
        "/get_reward": {"query": [text], "prompts": [""], "labels": [None]},
        "/classify": {"model": "rm", "input": [text]},
        "/pooling": {"model": "rm", "input": [text]},
        "/v1/embeddings": {"model": "rm", "input": [text]},
        "/score": {"model": "rm", "text_1": "Why?", "text_2": ["No."]},
        "/rerank": {"model": "rm", "query": "Why?", "documents": ["No."]},
        "/predict": {"inputs": [["Why?", "No."]]},
        "/v1/score/evaluation": {"model": "model", "messages": [text]},
        "/api/score": {"prompt": "Why?", "responses": ["No."]},
    }


def bad_values(text: str) -> dict[str, Any]:
    """What may not stand where a protocol has its texts."""
    return {
        **{f"{value!r}": value for value in NOT_TEXTS},
        **{f"[{value!r}]": [value] for value in NOT_TEXTS if value is not None or value != 0},
        **{f"[text,{value!r}]": [text, value] for value in (None, True, {}, [], 7, ["a", "b", "c"])},
        "nested": [[["No."]]],
        "deep": [[[[[[[[]]]]]]]],
        "empty text": [""],
        "white space": [" \n\t "],
        "half character": ["half \ud83d"],
        "half character alone": "\udc00",
        "too long": ["rice " * 5000],
        "ids and text": [5, "a"],
        "ids beyond the vocabulary": [[5, 10**9]],
        "negative ids": [[-1, 5]],
        "ids beyond any": [[10**400]],
        "true ids": [[True, False]],
        "an empty list of ids": [[]],
        "lists of lists of lists": [[[5]]],
        "ids, then words": [[5], ["a"]],
        "a picture": {"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        "a part without text": [{"content": [{"type": "text", "text": 5}]}],
        "one good, one too long": [text, "rice " * 5000],
        "one good, one half character": [text, "\ud83d"],
    }


def bad_requests(text: str) -> list[Case]:
    """Path, name, and body (bytes as they are, else JSON) of each bad request."""
    good = good_bodies(text)
    of_values = [
        (path, f"{FIELD[path]}={name}", {**good[path], FIELD[path]: value})
        for path in good
        for name, value in bad_values(text).items()
    ]
    return [*of_values, *((path, name, body) for path in good for name, body in BAD_BODIES.items())]


def takes(path: str, name: str) -> bool:
    """What is wrong elsewhere and fine here: a list of whole numbers is a list of ids."""
    return path in ("/classify", "/pooling", "/v1/embeddings") and name.partition("=")[2] == "[0]"
