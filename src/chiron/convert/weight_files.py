"""Find, check and copy weights as byte ranges of safetensors files, without loading them.

A safetensors file consists of an eight-byte header length, a JSON header and the raw rows of the tensors. The conversion renames tensors
and splits or joins them along the first dimension, which only moves whole byte ranges. Copying bytes keeps all values exact, and memory use
stays at one buffer for models of any size.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from chiron.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_BUFFER = 1 << 24
# Other types are from quantized checkpoints. Their scales cannot be converted here.
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Span:
    """Byte range in a file."""

    file: Path
    start: int
    size: int


@dataclass(frozen=True)
class Tensor:
    """A tensor stored in files: safetensors element type, shape, and byte ranges in order."""

    dtype: str
    shape: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(span.size for span in self.spans)

    def cut(self, parts: int) -> list["Tensor"]:
        """Split into equal parts along the first dimension, which must be a multiple of ``parts``. Requires a single span."""
        (span,) = self.spans
        size, shape = span.size // parts, (self.shape[0] // parts, *self.shape[1:])
        return [Tensor(self.dtype, shape, (Span(span.file, span.start + i * size, size),)) for i in range(parts)]


def join(parts: list[Tensor]) -> Tensor:
    """Concatenate tensors along the first dimension. Types and all other dimensions must be equal."""
    first = parts[0]
    return Tensor(first.dtype, (sum(p.shape[0] for p in parts), *first.shape[1:]), tuple(s for p in parts for s in p.spans))


def find_weights(folder: Path) -> dict[str, Tensor]:
    """Find every tensor of a checkpoint, sharded or not, by its name in the file.

    Raises:
        InputError: The folder does not contain a safetensors checkpoint, a shard is missing or broken, the index and the shards disagree,
            or a tensor does not have a supported floating-point type.
    """
    index = folder / INDEX
    if index.is_file():
        return _indexed(folder, index)
    if (folder / SINGLE).is_file():
        return _read_header(folder / SINGLE)
    names = sorted(p.name for p in folder.iterdir())
    if found := [n for n in names if n in ADAPTER]:
        raise InputError(f"{folder} holds an adapter ({found[0]}), not a model: merge it into its base model first, then convert that")
    if found := [n for n in names if n.endswith(".safetensors")]:
        raise InputError(f"{folder} holds {found[0]} but neither {SINGLE} nor {INDEX}: fetch the whole checkpoint")
    if found := [n for n in names if n.endswith(_PICKLED)]:
        raise InputError(
            f"{folder} holds pickled weights only ({found[0]}), which can run code when read and are not read here:"
            " save it again with save_pretrained(..., safe_serialization=True) where you trust it"
        )
    raise InputError(f"{folder} holds no {SINGLE} and no {INDEX}: it is no checkpoint, or its weights were not fetched")


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bytes. Both must have a single span."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    (a,), (b,) = one.spans, other.spans
    with a.file.open("rb") as left, b.file.open("rb") as right:
        left.seek(a.start)
        right.seek(b.start)
        remaining = a.size
        while remaining:
            size = min(_BUFFER, remaining)
            if _read(left, size) != _read(right, size):
                return False
            remaining -= size
    return True


def write_weights(folder: Path, tensors: dict[str, Tensor], shard_bytes: int) -> list[str]:
    """Write a checkpoint as one file, or as shards with an index.

    A shard has at most ``shard_bytes`` bytes; a larger tensor gets its own shard.

    Returns:
        Names of the files with weights.

    Raises:
        OSError: A file cannot be written.
        InputError: A source file ended early.
    """
    shards = _share_out(tensors, shard_bytes)
    if len(shards) == 1:
        _write_file(folder / SINGLE, tensors, shards[0])
        return [SINGLE]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, tensors, shard)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(t.size for t in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: The file cannot be read or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object to a file and flush it to disk.

    Raises:
        OSError: The file cannot be written.
    """
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _indexed(folder: Path, index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{index} has no weight_map from tensors to files: fetch it again")
    files = sorted(set(weight_map.values()))
    for name in files:
        # The index is untrusted: a shard must be a file in the same folder.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}, which is no safetensors file beside it")
    if missing := [n for n in files if not (folder / n).is_file()]:
        raise InputError(f"{folder} lacks {len(missing)} of the {len(files)} shards that {INDEX} names, {missing[0]} first: fetch them")
    found: dict[str, Tensor] = {}
    for name in files:
        for tensor, value in _read_header(folder / name).items():
            if weight_map.get(tensor) != name:
                place = f"places it in {weight_map[tensor]}" if tensor in weight_map else "does not know it"
                raise InputError(f"{index} is wrong: {name} holds {tensor}, and the index {place}")
            found[tensor] = value
    if absent := sorted(weight_map.keys() - found.keys()):
        raise InputError(f"{index} is wrong: it places {absent[0]} in {weight_map[absent[0]]}, which does not hold it")
    return found


def _read_header(file: Path) -> dict[str, Tensor]:
    try:
        # Opening checks the header against the file: no gaps or overlaps, sizes that match shapes, file not truncated.
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no whole safetensors file ({error}): fetch it again") from error
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _BYTES:
            raise InputError(f"{file}: {name} is of type {entry['dtype']}; only {', '.join(_BYTES)} convert (a quantised model does not)")
        start, end = entry["data_offsets"]
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), (Span(file, 8 + length + start, end - start),))
    return tensors


def _share_out(tensors: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.size
    return shards


def _write_file(path: Path, tensors: dict[str, Tensor], names: Iterable[str]) -> None:
    # Wide types first, so that each tensor starts at a multiple of its element size, as readers that map the file expect.
    ordered = sorted(names, key=lambda n: -_BYTES[tensors[n].dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        start, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (math.ceil(len(encoded) / 8) * 8 - len(encoded))
    with path.open("wb") as target:
        target.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in ordered:
            for span in tensors[name].spans:
                _copy(span, target)
        target.flush()
        os.fsync(target.fileno())


def _copy(span: Span, target: BinaryIO) -> None:
    with span.file.open("rb") as source:
        source.seek(span.start)
        remaining = span.size
        while remaining:
            chunk = _read(source, min(_BUFFER, remaining))
            target.write(chunk)
            remaining -= len(chunk)


def _read(file: BinaryIO, size: int) -> bytes:
    chunk = file.read(size)
    if len(chunk) != size:
        raise InputError(f"{file.name} ended early: it changed while it was read")
    return chunk
