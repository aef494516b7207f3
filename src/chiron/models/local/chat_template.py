"""The chat template of checkpoints made here: turns exactly as training wrote them."""

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
    """A Jinja template of ChatML turns, with what stands for an image and for a video; without ``video`` there are none."""
    turns = _TURNS.replace("'IMAGE'", f"'{image}'")
    return turns.replace(_VIDEO, "") if video is None else turns.replace("'VIDEO'", f"'{video}'")


def exact_template(system: str | None) -> str:
    """A Jinja template that puts nothing next to an image: a row's text has the line breaks that it was trained with.

    Args:
        system: Said before conversations that do not begin with a system turn.
    """
    return (system_block(system) if system else "") + turns_template("<IMG_CONTEXT>")


def system_block(system: str) -> str:
    """The piece of a template that says ``system`` where a conversation brings no system turn."""
    text = system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    said = "{{- '<|im_start|>system\\n" + text + "<|im_end|>\\n' -}}"
    return "{%- if not messages or messages[0].role != 'system' -%}\n" + said + "\n{%- endif -%}\n"
