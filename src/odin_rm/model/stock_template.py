"""One chat template around another: the same text, and the roles ``query`` and ``document`` of tools that score pairs.

The model's own template is rendered whole, into a variable, and never parsed. Around it:

- ``query`` is ``user`` and ``document`` is ``assistant``, so that a pair is the conversation of one question and one
  answer. Tools that score pairs (vLLM's ``/score`` and ``/rerank``) let the tokenizer add its special tokens to the
  text, so for a pair the ones that it adds are left out. sentence-transformers renders pairs like any conversation,
  without adding any; it hands ``common_kwargs`` to the template, which tells the two apart.
- Content in parts of text is joined, for templates that read strings.
- What the template writes after the end-of-turn token can be left off a finished answer.
- ``{% generation %}`` marks where the assistant speaks by counting what has been written, so it cannot stand inside a
  variable: its two ends become a mark in the text, and the text is written out again between real tags.
"""

from __future__ import annotations

import re
from typing import Literal

Pairs = Literal["both", "rendered", "none"]

_MARK = "\x02odin-rm\x03"

_ROLES = """\
{#- The conversation as the reward model was trained to read it. Written by odin-rm. -#}
{%- set odin = namespace(messages=[], pair=false) -%}
{%- for message in messages -%}
{%- set odin_role = {'query': 'user', 'document': 'assistant'}.get(message['role'], message['role']) -%}
{%- set odin_said = namespace(text=message['content'], changed=odin_role != message['role']) -%}
{%- set odin.pair = odin.pair or odin_said.changed -%}
{%- set odin_parts = message['content'] -%}
{%- if odin_parts is defined and odin_parts is sequence and odin_parts is not string and odin_parts is not mapping -%}
{%- set odin_joined = namespace(text='', whole=true) -%}
{%- for part in odin_parts -%}
{%- if part is mapping and part['text'] is string -%}{%- set odin_joined.text = odin_joined.text + part['text'] -%}
{%- else -%}{%- set odin_joined.whole = false -%}{%- endif -%}
{%- endfor -%}
{%- if odin_joined.whole -%}
{%- set odin_said.text = odin_joined.text -%}{%- set odin_said.changed = true -%}
{%- endif -%}
{%- endif -%}
{%- set odin.messages = odin.messages +
 [dict(message, role=odin_role, content=odin_said.text) if odin_said.changed else message] -%}
{%- endfor -%}
{%- set messages = odin.messages -%}
"""

_NO_PAIRS = """\
{%- if odin.pairWHEN -%}
{{- raise_exception('this tokenizer cannot write a query and a document as the model was trained to read them') -}}
{%- endif -%}
"""

_TEXT = "{%- set odin_text %}\nINNER{{ '' }}{% endset -%}\n"

_CUT = """\
{%- set odin_end = odin_text | length -%}
{%- if not add_generation_prompt and messages[-1]['role'] == 'assistant' and odin_text.endswith(BEYOND) -%}
{%- set odin_end = odin_end - BEYOND | length -%}
{%- endif -%}
"""

_BARE = """\
{%- set odin_start = 0 -%}
{%- if odin.pair and common_kwargs is not defined -%}
{%- if odin_text.startswith(PREFIX) -%}{%- set odin_start = PREFIX | length -%}{%- endif -%}
{%- if odin_text[:odin_end].endswith(SUFFIX) -%}{%- set odin_end = odin_end - SUFFIX | length -%}{%- endif -%}
{%- endif -%}
"""

_WRITE = "{{- odin_text[odin_start:odin_end] -}}"

_SPLIT = "{%- set odin_pieces = odin_text.split(MARK) -%}\n{%- set odin_text = odin_pieces | join -%}\n"

_WRITE_PIECES = """\
{%- set odin = namespace(at=0) -%}
{%- for piece in odin_pieces -%}
{%- set odin_kept = piece[[odin_start - odin.at, 0] | max:[odin_end - odin.at, 0] | max] -%}
{%- if loop.index0 % 2 -%}{%- generation -%}{{- odin_kept -}}{%- endgeneration -%}
{%- else -%}{{- odin_kept -}}{%- endif -%}
{%- set odin.at = odin.at + piece | length -%}
{%- endfor -%}
"""

_GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")


def around(template: str, *, beyond: str, prefix: str, suffix: str, pairs: Pairs = "both") -> str:
    """The template around ``template``; see the module.

    Args:
        template: the model's own, in Jinja as chat templates have it (``trim_blocks``, ``lstrip_blocks``).
        beyond: what it writes after the end-of-turn token, left off where a finished answer ends the conversation.
        prefix: the special tokens that the tokenizer puts before a text by itself.
        suffix: those that it puts after.
        pairs: whether ``query`` and ``document`` are taken from every tool, from those that add no special tokens to
            what is ``rendered``, or from none; the others are refused.
    """
    marked = _GENERATION.sub(r"{%\1 if true %}{{ MARK }}{% endif \2%}", template).replace("{{ MARK }}", _quoted(_MARK))
    spoken = marked != template
    refusal = {
        "both": "",
        "rendered": _NO_PAIRS.replace("WHEN", " and common_kwargs is not defined"),
        "none": _NO_PAIRS.replace("WHEN", ""),
    }[pairs]
    parts = [_ROLES, refusal, _TEXT, _SPLIT if spoken else "", _CUT, _BARE]
    whole = "".join([*parts, _WRITE_PIECES if spoken else _WRITE])
    for name, value in (("BEYOND", beyond), ("PREFIX", prefix), ("SUFFIX", suffix), ("MARK", _MARK)):
        whole = whole.replace(name, repr(value))
    # Jinja drops one line break at the end of a template, and it is no longer at the end.
    return whole.replace("INNER", marked.removesuffix("\n"), 1)


def _quoted(text: str) -> str:
    return "{{ " + repr(text) + " }}"
