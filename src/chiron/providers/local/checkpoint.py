"""Find and identify a checkpoint on disk, and read how it is prompted, without torch."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal

from pydantic import PositiveInt, ValidationError

from chiron.client.config import LocalModel, Strict, SystemText
from chiron.errors import InputError
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.registry import FAMILIES, known_families
from chiron.providers.local.tiling import DEVIATION, MEAN, ImageLayout, Tiling
from chiron.terminal import printable

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_CHUNK = 64 * 2**20
_SETTINGS = """config.json generation_config.json preprocessor_config.json tokenizer.json tokenizer_config.json
    special_tokens_map.json added_tokens.json vocab.json merges.txt""".split()
"""Files other than weights that affect a model's output. Existing ones are part of the fingerprint."""

_hashed: dict[tuple[str, int, int], str] = {}
_hashing = Lock()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    folder: Path
    family: ModelFamily
    weights: tuple[Path, ...]
    """Its safetensors files."""

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.weights)

    @property
    def described(self) -> str:
        """Location, architecture and size, on one line."""
        return f"{printable(str(self.folder))}: {self.family.name}, {self.bytes / 1e9:.3g} GB of weights"

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over settings, tokenizer and weights. Each file is read once per process unless it changes.

        Raises:
            InputError: a file is missing or cannot be read.
        """
        settings = [path for name in _SETTINGS if (path := self.folder / name).is_file()]
        digest = hashlib.sha256()
        try:
            for path, hashed in _hashes([*settings, *self.weights]).items():
                digest.update(f"{path.name}\0{hashed}\n".encode())
        except OSError as error:
            raise InputError(f"{self.folder} cannot be read: {error}") from error
        return digest.hexdigest()


def find_checkpoint(folder: Path) -> Checkpoint:
    """Find the checkpoint in ``folder``.

    Raises:
        InputError: there is no checkpoint, or it is not supported; the message says what is missing.
    """
    shown = printable(str(folder))
    if not folder.is_dir():
        raise InputError(f"folder {shown} does not exist: set path to the folder of a checkpoint, with config.json and *.safetensors")
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "it contains a LoRA adapter; merge it into its base first" if adapter else "name the folder of a checkpoint"
        raise InputError(f"{shown} has no config.json: {hint}")
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        hint = "; convert it with 'chiron convert'" if kind == "internvl_chat" else ""
        given = printable(str(kind))[:60]
        raise InputError(f"{shown}: the provider local does not support model_type '{given}', only {known_families()}{hint}")
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{shown} has no tokenizer.json: copy the tokenizer's files there")
    if family.needs_processor and not (folder / "preprocessor_config.json").is_file():
        # Without it, images might be shown at sizes that the model was not trained with.
        raise InputError(f"{shown} has no preprocessor_config.json: copy the image processor's settings there")
    if family.tiled and (folder / "preprocessor_config.json").is_file():
        _check_images(_json(folder / "preprocessor_config.json"), shown)
    return Checkpoint(folder, family, _weights(folder, shown))


def _check_images(settings: dict[str, Any], shown: str) -> None:
    """Check that the image processor's settings match InternVL's tiling and normalization."""
    for key, wanted in (("image_mean", MEAN), ("image_std", DEVIATION)):
        if settings.get(key) not in (None, list(wanted)):
            raise InputError(
                f"{shown}: {key} in preprocessor_config.json is {printable(str(settings[key]))[:80]}, but InternVL uses {list(wanted)}:"
                " copy the settings that belong to these weights"
            )


def _weights(folder: Path, shown: str) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise InputError(f"{shown}: model.safetensors.index.json lists no weights: copy the checkpoint again")
        files = sorted({str(name) for name in named.values()})
        # Names in the index must not lead out of the folder.
        missing = [name for name in files if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise InputError(f"{shown}: its index names {printable(missing[0])}, which is missing: copy the checkpoint again")
        return tuple(folder / name for name in files)
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    try:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error}") from error
    if pickled:
        raise InputError(f"{shown} has its weights in {printable(pickled[0])}, which can run code when loaded: convert them to safetensors")
    raise InputError(f"{shown} has no model.safetensors (nor model.safetensors.index.json): copy the weights there")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(str(path))} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{printable(str(path))} does not contain a JSON object: copy the checkpoint again")
    return found


def _hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a hash of each file's chunk hashes. Chunks are hashed in parallel: 16 GB take about ten seconds."""
    with _hashing:
        keys = {}
        for path in paths:
            stat = path.stat()
            keys[path] = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        new = [(path, key) for path, key in keys.items() if key not in _hashed]
        if new:
            chunks = [(path, start) for path, key in new for start in range(0, max(1, key[1]), _CHUNK)]
            digests: dict[Path, list[bytes]] = {path: [] for path, _ in new}
            with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
                for (path, _), digest in zip(chunks, pool.map(_chunk_hash, chunks), strict=True):
                    digests[path].append(digest)
            for path, key in new:
                _hashed[key] = hashlib.sha256(b"".join(digests[path])).hexdigest()
        return {path: _hashed[key] for path, key in keys.items()}


def _chunk_hash(chunk: tuple[Path, int]) -> bytes:
    path, start = chunk
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = _CHUNK
        while left and (piece := file.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


FORMAT_FILE: Final = "chiron.json"


class CheckpointFormat(Strict):
    """Content of :data:`FORMAT_FILE`."""

    max_tiles: PositiveInt = 6
    """For all images of a row together, or per image; thumbnails are not counted."""
    max_tiles_per: Literal["row", "image"] = "row"
    thumbnail: bool = True
    """Whether an image with several tiles is also shown as a whole."""
    system: SystemText | None = None
    """System message for rows without one; ``none`` for none. Default: that of the family's published template."""
    image_separator: str | None = None
    """Separator between an image and adjacent text. Default: that of the family's published training."""


@dataclass(frozen=True, slots=True)
class AskedAs:
    """How to prompt one configured model. The configuration overrides the checkpoint's own settings."""

    max_tiles: int
    per_image: bool
    thumbnail: bool
    system: str | None
    """Text of the system message."""
    image_separator: str
    family: ModelFamily

    @classmethod
    def of(cls, config: LocalModel, checkpoint: Checkpoint) -> "AskedAs":
        """Read the checkpoint's file, if it exists.

        Raises:
            InputError: the file is invalid.
        """
        own, family = read_format(checkpoint.folder), checkpoint.family
        per = config.max_tiles_per or own.max_tiles_per
        return cls(
            config.max_tiles or own.max_tiles,
            per == "image",
            own.thumbnail if config.thumbnail is None else config.thumbnail,
            family.system(config.system or own.system),
            family.image_separator if own.image_separator is None else own.image_separator,
            family,
        )

    def tiling(self) -> Tiling:
        """Return the tiling; the model determines the tile side."""
        return Tiling(max_tiles=self.max_tiles, thumbnail=self.thumbnail, per_image=self.per_image)

    def identity(self) -> list[str]:
        """Settings that affect replies. Defaults are omitted, so that old ledgers stay valid."""
        words = []
        if self.family.tiled:
            words += [f"tiles={self.max_tiles}", f"thumbnail={'yes' if self.thumbnail else 'no'}"]
            words += ["per=image"] if self.per_image else []
        if self.system != self.family.default_system:
            words.append(f"system={hashlib.sha256((self.system or '').encode()).hexdigest()[:16]}")
        if self.image_separator != self.family.image_separator:
            words.append(f"separator={self.image_separator!r}")
        return words

    def describe(self) -> str:
        """Return a description such as ``up to 6 tiles for all images of a call together``; empty if nothing can be set."""
        tiles = f"up to {self.max_tiles} tiles {'for each image' if self.per_image else 'for all images of a call together'}"
        parts = [tiles] if self.family.tiled else []
        if self.system != self.family.default_system:
            parts.append("a system message of its own" if self.system else "no system message")
        return ", ".join(parts)


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


def write_format(folder: Path, layout: ImageLayout, system: str | None, *, image_separator: str | None = None) -> None:
    """Write :data:`FORMAT_FILE`; ``system`` is a name or the message itself."""
    if isinstance(layout, Tiling):
        per: Literal["row", "image"] = "image" if layout.per_image else "row"
        content = CheckpointFormat(max_tiles=layout.max_tiles, max_tiles_per=per, thumbnail=layout.thumbnail, system=system)
        written = content.model_dump(exclude={"image_separator"})
    else:
        written = {"system": system, "image_separator": image_separator}
    (folder / FORMAT_FILE).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", "utf-8")
