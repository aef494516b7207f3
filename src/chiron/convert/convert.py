"""Convert InternVL checkpoints from the authors' layout to transformers' and back.

InternVL3 and Chiron-o1 are published in the layout of the authors' training code (``internvl_chat``), which needs code downloaded with the
weights. This project reads transformers' own ``InternVLForConditionalGeneration``. Both compute the same function with the same weights, so
the conversion is exact in both directions: tensors are renamed, and one fused matrix per layer is split.
"""

import errno
import math
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from chiron.convert.config_json import Layout, Settings, read_chat, read_hf, write_chat, write_hf
from chiron.convert.side_files import REWRITTEN, VERBATIM, Tokenizer, Written, read_tokenizer, tile_limits, write_chat_files, write_hf_files
from chiron.convert.weights import (
    EMBEDDING,
    HEAD,
    INDEX,
    SINGLE,
    Joined,
    StoredTensor,
    Weight,
    equal,
    find_weights,
    on_disk,
    read_json,
    weights,
    write_json,
    write_weights,
)
from chiron.errors import DiskError, InputError
from chiron.providers.local.dialogue import system_text

SHARD_BYTES = 4_000_000_000
_LAYOUTS: dict[Any, Layout] = {"internvl_chat": "internvl_chat", "internvl": "hf"}
# Disk space for the small files; those of a tokenizer take about 20 MB.
_MARGIN = 64 << 20
_NAMES_SHOWN = 3
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ConversionReport:
    source: Path
    out: Path
    layout: Layout
    """Layout of the output."""
    tensors: int
    """Number of tensors written."""
    parameters: int
    """Number of elements in these tensors."""
    size: int
    """Size of these tensors in bytes."""
    shards: tuple[str, ...]
    """Names of the files with weights."""
    copied: tuple[str, ...]
    """Files copied unchanged."""
    left_out: tuple[str, ...]
    """Source files and folders that were not converted: code, other weight formats, folders."""
    notes: tuple[str, ...]
    """Notes for the user; each is a sentence without a final period."""


def detect(path: Path) -> Layout:
    """Detect the layout of a checkpoint.

    Raises:
        InputError: The folder does not exist or does not contain an InternVL checkpoint.
    """
    if not os.path.isdir(path):
        raise InputError(f"{path} is not a folder: name one with a checkpoint's files ('hf download' downloads a published one)")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise InputError(
            f"{path} is a LoRA adapter, not a checkpoint: merge it into its base first ('chiron train' writes the merged model into model/"
            " next to adapter/; with peft: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder))"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{path} has no config.json: name a folder with a checkpoint")
    kind = read_json(path / "config.json").get("model_type")
    if not isinstance(kind, str) or kind not in _LAYOUTS:
        raise InputError(
            f"{path}/config.json: model_type is {kind!r}; only internvl_chat (the authors') and internvl (transformers') can be converted"
        )
    return _LAYOUTS[kind]


def to_hf(source: Path, out: Path, *, shard_bytes: int = SHARD_BYTES, system: str | None = None) -> ConversionReport:
    """Convert a checkpoint in the authors' layout to transformers' ``InternVLForConditionalGeneration``.

    Args:
        source: Folder with the authors' files. Code in it is neither run nor copied.
        out: Folder to create. It appears only when the conversion is complete.
        shard_bytes: Maximum size of a file with weights, in bytes.
        system: System message for conversations without one: ``internvl2_5`` (the authors') or a text; none by default.

    Raises:
        InputError: The source is not such a checkpoint, is incomplete, or has a setting that transformers' InternVL does not support; or
            ``out`` is not empty.
        DiskError: The disk is full; ``out`` was not written.
    """
    _expect(source, "internvl_chat")
    settings = read_chat(read_json(source / "config.json"))
    tokenizer = read_tokenizer(source)
    identity = _image_token(settings, tokenizer)
    found = find_weights(source)
    tied = _tied(settings, found)
    plan = _plan(settings, found, source, lambda w: (w.chat,))
    tensors: dict[str, Joined] = {}
    for weight in plan:
        parts = found[weight.chat].split(len(weight.hf))
        tensors.update((name, (part,)) for name, part in zip(weight.hf, parts, strict=True))

    def write(folder: Path) -> Written:
        write_json(folder / "config.json", write_hf(settings, image_token_id=identity, tied=tied))
        return write_hf_files(tokenizer, settings, folder, system=system_text(system))

    return _write(source, out, "hf", tensors, shard_bytes, write)


def to_internvl_chat(source: Path, out: Path, *, shard_bytes: int = SHARD_BYTES) -> ConversionReport:
    """Convert a checkpoint of transformers' ``InternVLForConditionalGeneration`` to the authors' layout.

    Args:
        source: Folder written by ``save_pretrained`` or :func:`to_hf`, including the tokenizer.
        out: Folder to create. It appears only when the conversion is complete.
        shard_bytes: Maximum size of a file with weights, in bytes.

    Raises:
        InputError: The source is not such a checkpoint, is incomplete, or has a setting that the authors' code does not support; or
            ``out`` is not empty.
        DiskError: The disk is full; ``out`` was not written.
    """
    _expect(source, "hf")
    settings = read_hf(read_json(source / "config.json"))
    tokenizer = read_tokenizer(source)
    _image_token(settings, tokenizer)
    found: dict[str, StoredTensor] = {}
    for name, tensor in find_weights(source).items():
        if on_disk(name) in found:
            raise InputError(f"{source} contains {on_disk(name)} twice, once as {name}: remove one")
        found[on_disk(name)] = tensor
    tied = _tied(settings, found)
    plan = _plan(settings, found, source, lambda w: w.hf)
    tensors: dict[str, Joined] = {}
    for weight in plan:
        parts = tuple(found[name] for name in weight.hf)
        if len({part.dtype for part in parts}) > 1:
            kinds = ", ".join(f"{name} is {part.dtype}" for name, part in zip(weight.hf, parts, strict=True))
            raise InputError(f"{weight.chat} is joined from tensors of different types ({kinds}): save them in one type")
        tensors[weight.chat] = parts
    config = write_chat(settings, tied=tied)
    if "max_dynamic_patch" not in settings.kept:
        config.update(tile_limits(source))

    def write(folder: Path) -> Written:
        write_json(folder / "config.json", config)
        return write_chat_files(tokenizer, settings, folder)

    return _write(source, out, "internvl_chat", tensors, shard_bytes, write)


def _expect(source: Path, layout: Layout) -> None:
    if (found := detect(source)) != layout:
        raise InputError(f"{source} is in the layout {found} already: nothing to convert")


def _image_token(settings: Settings, tokenizer: Tokenizer) -> int:
    identity = tokenizer.image_token_id
    if settings.image_token_id not in {None, identity}:
        raise InputError(f"config.json: image_token_id is {settings.image_token_id}, but the tokenizer's <IMG_CONTEXT> is {identity}")
    if identity >= settings.text["vocab_size"]:
        rows = settings.text["vocab_size"]
        raise InputError(f"the tokenizer's <IMG_CONTEXT> is {identity}, but the embedding has {rows} rows: use the model's own tokenizer")
    return identity


def _tied(settings: Settings, found: dict[str, StoredTensor]) -> bool:
    """Decide from the source's settings and weights whether the output matrix is tied to the embedding."""
    if HEAD not in found or EMBEDDING not in found or not settings.tied:
        return settings.tied
    if equal(found[HEAD], found[EMBEDDING]):
        return True
    if settings.sure_tied:
        raise InputError(
            f"config.json: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}: set it to false if the model was trained so"
        )
    return False


def _plan(settings: Settings, found: dict[str, StoredTensor], source: Path, names: Callable[[Weight], tuple[str, ...]]) -> list[Weight]:
    """List the model's weights and check that the source has exactly these, with the right shapes."""
    head, qwen3 = HEAD in found or not settings.tied, settings.text["model_type"] == "qwen3"
    plan = list(weights(settings.sizes, qkv_bias=settings.vision["qkv_bias"], head=head, normalized=qwen3))
    wanted = {name: weight for weight in plan for name in names(weight)}
    if missing := [name for name in wanted if name not in found]:
        raise InputError(f"{source} lacks {_listed(missing)}, which config.json requires: download the whole checkpoint")
    if strange := sorted(found.keys() - wanted.keys()):
        raise InputError(f"{source} contains {_listed(strange)}, which config.json does not include: such a model cannot be converted")
    for name, weight in wanted.items():
        shape = weight.shape if len(names(weight)) == 1 else weight.part_shape
        if found[name].shape != shape:
            raise InputError(f"{source}: {name} has shape {list(found[name].shape)}, but config.json requires {list(shape)}")
    return plan


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more tensors" if more > 0 else "")


def _write(
    source: Path, out: Path, layout: Layout, tensors: dict[str, Joined], shard_bytes: int, write_files: Callable[[Path], Written]
) -> ConversionReport:
    out = out.absolute()
    draft = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    size = sum(part.size for parts in tensors.values() for part in parts)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is not an empty folder: name another")
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_room(out.parent, size)
        draft.mkdir()
        written = write_files(draft)
        shards = write_weights(draft, tensors, shard_bytes)
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    except (OSError, SafetensorError) as error:
        if (isinstance(error, OSError) and error.errno in _FULL) or any(f"(os error {number})" in str(error) for number in _FULL):
            raise DiskError(f"{out} was not written: no space left on its disk; free {_gigabytes(size)} and run it again") from error
        raise InputError(f"{out} was not written: {error}") from error
    finally:
        # After the rename the draft no longer exists; after a failure or an interrupt it is an incomplete checkpoint.
        shutil.rmtree(draft, ignore_errors=True)
    parameters = sum(math.prod(part.shape) for parts in tensors.values() for part in parts)
    return ConversionReport(
        source=source,
        out=out,
        layout=layout,
        tensors=len(tensors),
        parameters=parameters,
        size=size,
        shards=tuple(shards),
        copied=tuple(written.copied),
        left_out=_left_out(source),
        notes=tuple(written.notes),
    )


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise DiskError(f"{folder} has {_gigabytes(free)} free, but the checkpoint takes {_gigabytes(size + _MARGIN)}: free some space")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _left_out(source: Path) -> tuple[str, ...]:
    index = source / INDEX
    read = {INDEX, *read_json(index)["weight_map"].values()} if index.is_file() else {SINGLE}
    handled = read | set(VERBATIM) | set(REWRITTEN)
    return tuple(sorted(p.name for p in source.iterdir() if p.name not in handled and not p.name.startswith(".")))
