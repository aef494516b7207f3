"""How a checkpoint is asked: its chat template, and chiron.json next to its weights."""

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
    """The content of :data:`FORMAT_FILE`."""

    max_tiles: PositiveInt = 6
    """For all images of a row together or for each of them, thumbnails apart."""
    max_tiles_per: Literal["row", "image"] = "row"
    thumbnail: bool = True
    """Whether an image of several tiles is also shown whole."""
    system: SystemText | None = None
    """The system message of rows that bring none."""


@dataclass(frozen=True, slots=True)
class AskedAs:
    """How one configured model is asked: what its configuration says, else what its checkpoint says."""

    max_tiles: int
    per_image: bool
    thumbnail: bool
    system: str | None
    """The message itself."""

    @classmethod
    def of(cls, config: LocalModel, folder: Path) -> "AskedAs":
        """Read the checkpoint's file, if it has one.

        Raises:
            InputError: the file is broken.
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
        """For tiles of ``tile`` pixels a side."""
        return Tiling(tile, self.max_tiles, self.thumbnail, self.per_image)

    def identity(self) -> list[str]:
        """What of it shapes replies. What is as it always was says nothing, so that old ledgers stay valid."""
        words = [f"tiles={self.max_tiles}", f"thumbnail={'yes' if self.thumbnail else 'no'}"]
        words += ["per=image"] if self.per_image else []
        return [*words, f"system={hashlib.sha256(self.system.encode()).hexdigest()[:16]}"] if self.system else words

    def describe(self) -> str:
        """For people: ``up to 6 tiles for all images of a call together``."""
        tiles = f"up to {self.max_tiles} tiles {'for each image' if self.per_image else 'for all images of a call together'}"
        return f"{tiles}{', a system message of its own' if self.system else ''}"


def read_format(folder: Path) -> CheckpointFormat:
    """What a checkpoint says of itself; the usual values where it has no such file.

    Raises:
        InputError: the file is broken.
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
