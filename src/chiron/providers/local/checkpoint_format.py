"""How to prompt a checkpoint: its chat template, and the ``chiron.json`` file next to its weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import PositiveInt, ValidationError

from chiron.client.config import LocalModel, Strict, SystemText
from chiron.errors import InputError
from chiron.providers.local.dialogue import system_text
from chiron.providers.local.tiling import Tiling
from chiron.terminal import printable

FORMAT_FILE: Final = "chiron.json"


class CheckpointFormat(Strict):
    """Content of :data:`FORMAT_FILE`."""

    max_tiles: PositiveInt = 6
    """For all images of a row together, or per image; thumbnails are not counted."""
    max_tiles_per: Literal["row", "image"] = "row"
    thumbnail: bool = True
    """Whether an image with several tiles is also shown as a whole."""
    system: SystemText | None = None
    """System message for rows without one."""


@dataclass(frozen=True, slots=True)
class AskedAs:
    """How to prompt one configured model. The configuration overrides the checkpoint's own settings."""

    max_tiles: int
    per_image: bool
    thumbnail: bool
    system: str | None
    """Text of the system message."""

    @classmethod
    def of(cls, config: LocalModel, folder: Path) -> "AskedAs":
        """Read the checkpoint's file, if it exists.

        Raises:
            InputError: the file is invalid.
        """
        own = read_format(folder)
        per = config.max_tiles_per or own.max_tiles_per
        return cls(
            config.max_tiles or own.max_tiles,
            per == "image",
            own.thumbnail if config.thumbnail is None else config.thumbnail,
            system_text(config.system or own.system),
        )

    def tiling(self, tile: int) -> Tiling:
        """Return the tiling for tiles of ``tile`` pixels per side."""
        return Tiling(tile, self.max_tiles, self.thumbnail, self.per_image)

    def identity(self) -> list[str]:
        """Settings that affect replies. Defaults are omitted, so that old ledgers stay valid."""
        words = [f"tiles={self.max_tiles}", f"thumbnail={'yes' if self.thumbnail else 'no'}"]
        words += ["per=image"] if self.per_image else []
        return [*words, f"system={hashlib.sha256(self.system.encode()).hexdigest()[:16]}"] if self.system else words

    def describe(self) -> str:
        """Return a description such as ``up to 6 tiles for all images of a call together``."""
        tiles = f"up to {self.max_tiles} tiles {'for each image' if self.per_image else 'for all images of a call together'}"
        return f"{tiles}{', a system message of its own' if self.system else ''}"


def read_format(folder: Path) -> CheckpointFormat:
    """Read a checkpoint's format file; defaults if it does not exist.

    Raises:
        InputError: the file is invalid.
    """
    path = folder / FORMAT_FILE
    try:
        return CheckpointFormat.model_validate(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return CheckpointFormat()
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{printable(str(path))} cannot be read ({why}): copy it again, or remove it and set the tiles yourself"
        ) from error


def write_format(folder: Path, tiling: Tiling, system: str | None) -> None:
    """Write :data:`FORMAT_FILE`; ``system`` is a name or the message itself."""
    said = CheckpointFormat(
        max_tiles=tiling.max_tiles, max_tiles_per="image" if tiling.per_image else "row", thumbnail=tiling.thumbnail, system=system
    )
    (folder / FORMAT_FILE).write_text(json.dumps(said.model_dump(), indent=2, ensure_ascii=False) + "\n", "utf-8")


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


def exact_template(system: str | None) -> str:
    """Return a Jinja template that adds nothing next to an image, because the text already has the line breaks used in training.

    Args:
        system: system message for conversations without a system turn.
    """
    return (system_block(system) if system else "") + turns_template("<IMG_CONTEXT>")


def system_block(system: str) -> str:
    """Return the part of a template that adds ``system`` if a conversation has no system turn."""
    text = system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    said = "{{- '<|im_start|>system\\n" + text + "<|im_end|>\\n' -}}"
    return "{%- if not messages or messages[0].role != 'system' -%}\n" + said + "\n{%- endif -%}\n"
