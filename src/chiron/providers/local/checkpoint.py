"""Find and identify a checkpoint on disk, without torch."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from chiron.errors import InputError
from chiron.terminal import printable

FAMILIES = {"internvl": "InternVL", "qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL"}
"""Supported architectures, by the ``model_type`` in ``config.json``."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_CHUNK = 64 * 2**20
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Files other than weights that affect a model's output. Existing ones are part of the fingerprint."""

_hashed: dict[tuple[str, int, int], str] = {}
_hashing = Lock()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with a supported model."""

    folder: Path
    model_type: str
    """A key of :data:`FAMILIES`."""
    weights: tuple[Path, ...]
    """Its safetensors files."""

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.weights)

    @property
    def described(self) -> str:
        """Location, architecture and size, on one line."""
        return f"{printable(str(self.folder))}: {FAMILIES[self.model_type]}, {self.bytes / 1e9:.3g} GB of weights"

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
        raise InputError(f"there is no folder {shown}: give path the folder of a checkpoint, with config.json and *.safetensors")
    if not (folder / "config.json").is_file():
        hint = (
            "it holds a LoRA adapter: merge it into its base first"
            if (folder / "adapter_config.json").is_file()
            else "give the folder of a checkpoint"
        )
        raise InputError(f"{shown} has no config.json: {hint}")
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        hint = "; 'chiron convert' makes one that can be run of it" if kind == "internvl_chat" else ""
        raise InputError(
            f"{shown} is of model_type '{printable(str(kind))[:60]}', which the provider local cannot run{hint}:"
            f" it runs {', '.join(f'{name} ({key})' for key, name in FAMILIES.items())}"
        )
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{shown} has no tokenizer.json: copy the tokenizer's files beside the weights")
    if kind != "internvl" and not (folder / "preprocessor_config.json").is_file():
        # Without it, images might be shown at sizes that the model was not trained with.
        raise InputError(f"{shown} has no preprocessor_config.json: copy the image processor's settings beside the weights")
    if kind == "internvl" and (folder / "preprocessor_config.json").is_file():
        _check_images(_json(folder / "preprocessor_config.json"), shown)
    return Checkpoint(folder, str(kind), _weights(folder, shown))


def _check_images(settings: dict[str, Any], shown: str) -> None:
    """Check that the image processor's settings match InternVL's tiling and normalization."""
    from chiron.providers.local.tiling import DEVIATION, MEAN

    for key, wanted in (("image_mean", MEAN), ("image_std", DEVIATION)):
        if settings.get(key) not in (None, list(wanted)):
            raise InputError(
                f"{shown}: {key} in preprocessor_config.json is {printable(str(settings[key]))[:80]}, and images are shown to InternVL with"
                f" {list(wanted)}: put the settings that belong to these weights there"
            )


def _weights(folder: Path, shown: str) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _json(index).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise InputError(f"{shown}: model.safetensors.index.json names no weights: copy the checkpoint again")
        files = sorted({str(name) for name in named.values()})
        # Names in the index must not lead out of the folder.
        missing = [name for name in files if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise InputError(f"{shown}: its index names {printable(missing[0])}, which is not there: copy the checkpoint again")
        return tuple(folder / name for name in files)
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    try:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error}") from error
    if pickled:
        raise InputError(
            f"{shown} has its weights in {printable(pickled[0])}, which can run code when it is loaded: only safetensors are; convert them"
        )
    raise InputError(f"{shown} has no model.safetensors (nor model.safetensors.index.json): copy the weights there")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(str(path))} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{printable(str(path))} holds no JSON object: copy the checkpoint again")
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
