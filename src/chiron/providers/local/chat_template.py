"""Chat templates (Jinja) of checkpoints, with which other programs write a conversation as in training."""

import re

from chiron.providers.local.dialogue import ChatFormat
from chiron.providers.local.families.family import ModelFamily

_TURNS = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- 'IMAGE' -}}
{%- elif part.type == 'video' -%}
{{- 'VIDEO' -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_VIDEO = """{%- elif part.type == 'video' -%}
{{- 'VIDEO' -}}
"""


def turns_template(image: str, video: str | None = None) -> str:
    """Return a Jinja template of ChatML turns with these placeholders for images and videos; ``video=None`` disables videos."""
    turns = _TURNS.replace("'IMAGE'", f"'{image}'")
    return turns.replace(_VIDEO, "") if video is None else turns.replace("'VIDEO'", f"'{video}'")


_ANY_TURNS = """\
{%- macro content(message) -%}
{%- if message.content is string or message.content[0].type != 'image' -%}{{- BEFORE_TEXT -}}{%- endif -%}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{{- IMAGE if part.type == 'image' else part.text -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set names = {'system': SYSTEM, 'user': USER, 'assistant': ASSISTANT} -%}
{%- set turns = messages if not DEFAULT or (messages and messages[0].role == 'system') else
    [{'role': 'system', 'content': DEFAULT}] + messages -%}
{%- set held = namespace(text='') -%}
{{- BEGIN -}}
{%- for message in turns -%}
{%- if message.role == 'system' and SYSTEM_IN_USER -%}
{%- set held.text = content(message) + '\\n\\n' -%}
{%- else -%}
{{- START + names[message.role] + AFTER_ROLE + held.text + content(message) + END + AFTER_TURN -}}
{%- set held.text = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- START + ASSISTANT + AFTER_ROLE -}}
{%- endif -%}
"""


def family_template(family: ModelFamily, system: str | None) -> str:
    """Return a Jinja template of a family's turns that adds nothing next to an image, because the text has the line breaks of training.

    ``system``: system message for conversations without a system turn.
    """
    chat = family.chat
    if chat == ChatFormat():
        return system_block(system) + turns_template(family.image_placeholder)
    values = {
        "BEFORE_TEXT": chat.before_text, "IMAGE": family.image_placeholder, "SYSTEM": chat.roles["system"], "USER": chat.roles["user"],
        "ASSISTANT": chat.roles["assistant"], "DEFAULT": system or "", "BEGIN": chat.begin, "START": chat.start,
        "AFTER_ROLE": chat.after_role, "END": chat.end, "AFTER_TURN": chat.after_turn,
    }  # fmt: skip
    literals = {**{name: f"'{_escaped(value)}'" for name, value in values.items()}, "SYSTEM_IN_USER": str(chat.system_in_user).lower()}
    return re.sub(r"\b[A-Z_]{3,}\b", lambda name: literals[name.group()], _ANY_TURNS)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def system_block(system: str | None) -> str:
    """Return the part of a template that adds a message if a conversation has no system turn; empty without one."""
    if not system:
        return ""
    turn = "{{- '<|im_start|>system\\n" + _escaped(system) + "<|im_end|>\\n' -}}"
    return "{%- if not messages or messages[0].role != 'system' -%}\n" + turn + "\n{%- endif -%}\n"
