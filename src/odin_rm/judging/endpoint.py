"""A language model behind an OpenAI-compatible chat endpoint (:mod:`odin_rm.judging.chat`) as the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odin_rm.core.errors import JudgeError
from odin_rm.core.untrusted import plain_text
from odin_rm.evaluation.judge_template import JudgeTemplate
from odin_rm.evaluation.judgements import Judgement, Question
from odin_rm.judging.chat import Call, ChatClient, ChatSettings, estimate_tokens
from odin_rm.judging.judge import Judge, Record
from odin_rm.judging.replies import Reply


class EndpointJudge(Judge):
    """See the module. A question that the endpoint refuses, or answers with what is no reply, is left unjudged.

    Args:
        settings: the endpoint.
        template: what is asked.

    Attributes:
        client: makes the calls, and counts those that were made again or refused.
    """

    ask_again = True

    def __init__(self, settings: ChatSettings, template: JudgeTemplate) -> None:
        self.settings, self.template = settings, template
        self.name = settings.model
        self.client = ChatClient(settings, role="judge", error=JudgeError)

    def identity(self) -> dict[str, Any]:
        settings, template = self.settings, self.template
        return {
            "kind": "endpoint",
            "model": settings.model,
            "base_url": self.client.base_url,
            "template": {"system": template.system, "prompt": template.prompt, "reply": template.reply},
            "decoding": {name: getattr(settings, name) for name in ("temperature", "max_tokens", "seed")},
        }

    def prepare(self, questions: Sequence[Question]) -> None:
        self.client.prepare()

    def judge(self, questions: Sequence[Question], record: Record) -> None:
        calls = [Call(self.template.messages(question)) for question in questions]
        self.client.complete(calls, lambda number, reply: record(number, self._read(reply)))

    def estimate_tokens(self, question: Question) -> int:
        """Roughly how many tokens the question has."""
        return estimate_tokens(self.template.messages(question))

    def _read(self, reply: Reply) -> Judgement:
        # A reply that a filter or a tool call ended says nothing that may be read.
        preference = self.template.parse(reply.text, complete=reply.whole) if reply.readable else None
        if not reply.readable:
            self.client.problem = f"its reply ended with finish_reason {plain_text(str(reply.finish))[:40]!r}"
        return Judgement(preference, reply.text, reply.prompt_tokens or 0, reply.completion_tokens or 0)
