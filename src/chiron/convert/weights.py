"""Weights of a checkpoint: names and shapes in both layouts, and the safetensors files that contain them."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from chiron.errors import InputError
from chiron.io import sync
from chiron.providers.local.checkpoint import PICKLED

HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element. Other types are from quantized checkpoints, whose scales cannot be converted."""

# Authors' name, transformers' name, shape. "*" stands for a layer's number, "?" for q, k and v: the authors' layout stores the three in one
# matrix, the query's rows first. The numbers in "mlp1" are positions in an nn.Sequential; 2 is the activation.
_VISION = """
embeddings.class_embedding            embeddings.cls_token                          1,1,vision
embeddings.position_embedding         embeddings.position_embeddings                1,positions,vision
embeddings.patch_embedding.weight     embeddings.patch_embeddings.projection.weight vision,channels,patch,patch
embeddings.patch_embedding.bias       embeddings.patch_embeddings.projection.bias   vision
encoder.layers.*.attn.qkv.weight      encoder.layer.*.attention.?_proj.weight       qkv,vision
encoder.layers.*.attn.qkv.bias        encoder.layer.*.attention.?_proj.bias         qkv
encoder.layers.*.attn.proj.weight     encoder.layer.*.attention.projection_layer.weight vision,vision
encoder.layers.*.attn.proj.bias       encoder.layer.*.attention.projection_layer.bias vision
encoder.layers.*.mlp.fc1.weight       encoder.layer.*.mlp.fc1.weight                vision_mlp,vision
encoder.layers.*.mlp.fc1.bias         encoder.layer.*.mlp.fc1.bias                  vision_mlp
encoder.layers.*.mlp.fc2.weight       encoder.layer.*.mlp.fc2.weight                vision,vision_mlp
encoder.layers.*.mlp.fc2.bias         encoder.layer.*.mlp.fc2.bias                  vision
encoder.layers.*.norm1.weight         encoder.layer.*.layernorm_before.weight       vision
encoder.layers.*.norm1.bias           encoder.layer.*.layernorm_before.bias         vision
encoder.layers.*.norm2.weight         encoder.layer.*.layernorm_after.weight        vision
encoder.layers.*.norm2.bias           encoder.layer.*.layernorm_after.bias          vision
encoder.layers.*.ls1                  encoder.layer.*.lambda_1                      vision
encoder.layers.*.ls2                  encoder.layer.*.lambda_2                      vision
"""
_PROJECTOR = """
0.weight   layer_norm.weight  shuffled
0.bias     layer_norm.bias    shuffled
1.weight   linear_1.weight    text,shuffled
1.bias     linear_1.bias      text
3.weight   linear_2.weight    text,text
3.bias     linear_2.bias      text
"""
_LANGUAGE = """
model.embed_tokens.weight                        = vocabulary,text
model.layers.*.self_attn.q_proj.weight           = query,text
model.layers.*.self_attn.q_proj.bias             = query
model.layers.*.self_attn.k_proj.weight           = key,text
model.layers.*.self_attn.k_proj.bias             = key
model.layers.*.self_attn.v_proj.weight           = key,text
model.layers.*.self_attn.v_proj.bias             = key
model.layers.*.self_attn.o_proj.weight           = text,query
model.layers.*.self_attn.q_norm.weight           = head
model.layers.*.self_attn.k_norm.weight           = head
model.layers.*.mlp.gate_proj.weight              = text_mlp,text
model.layers.*.mlp.up_proj.weight                = text_mlp,text
model.layers.*.mlp.down_proj.weight              = text,text_mlp
model.layers.*.input_layernorm.weight            = text
model.layers.*.post_attention_layernorm.weight   = text
model.norm.weight                                = text
lm_head.weight                                   = vocabulary,text
"""
_PARTS = (
    ("vision_model.", "vision_tower.", _VISION, "vision_layers"),
    ("mlp1.", "multi_modal_projector.", _PROJECTOR, ""),
    ("language_model.", "language_model.", _LANGUAGE, "text_layers"),
)
# transformers uses different names in memory and on disk. Files contain both, because some tools write the names used in memory.
_IN_MEMORY = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


@dataclass(frozen=True)
class Weight:
    """Name and shape of a weight in both layouts."""

    chat: str
    """Name in the authors' layout."""
    hf: tuple[str, ...]
    """Name in transformers' layout, or the three names of its equal parts along the first dimension."""
    shape: tuple[int, ...]
    """Shape in the authors' layout."""

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of each part in transformers' layout."""
        return (self.shape[0] // len(self.hf), *self.shape[1:])


def weights(sizes: Mapping[str, int], *, qkv_bias: bool, head: bool, normalized: bool = False) -> Iterator[Weight]:
    """Yield every weight of a model.

    Args:
        sizes: The names used in the tables above, and the numbers of layers.
        qkv_bias: Whether the vision tower's query, key and value have a bias.
        head: Whether the output matrix is stored; a tied one may be omitted.
        normalized: Whether the language model normalizes query and key (Qwen3), instead of giving them and the value a bias (Qwen2).
    """
    absent = "_proj.bias" if normalized else "_norm.weight"
    for chat_prefix, hf_prefix, table, layers in _PARTS:
        for line in table.split("\n")[1:-1]:
            chat, hf, shape = line.split()
            if (chat.endswith("qkv.bias") and not qkv_bias) or (chat.startswith("lm_head") and not head):
                continue
            if chat_prefix == "language_model." and chat.endswith(absent):
                continue
            hf = chat if hf == "=" else hf
            names = [f"{hf_prefix}{hf}".replace("?", part) for part in ("qkv" if "?" in hf else " ")]
            sides = tuple(sizes[side] if side in sizes else int(side) for side in shape.split(","))
            for layer in range(sizes[layers]) if "*" in chat else (0,):
                number = str(layer)
                yield Weight(f"{chat_prefix}{chat}".replace("*", number), tuple(name.replace("*", number) for name in names), sides)


def on_disk(name: str) -> str:
    """Convert a weight's name, in memory or on disk, to the name that transformers uses on disk."""
    for prefix, replacement in _IN_MEMORY.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, or some of its rows."""

    file: Path
    name: str
    dtype: str
    """The format's name of the element type, such as ``BF16``."""
    shape: tuple[int, ...]
    first: int = 0
    """First row in the stored tensor."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * _BYTES[self.dtype]

    def split(self, parts: int) -> list["StoredTensor"]:
        """Split into equal parts along the first dimension, which must be a multiple of ``parts``."""
        rows = self.shape[0] // parts
        return [StoredTensor(self.file, self.name, self.dtype, (rows, *self.shape[1:]), i * rows) for i in range(parts)]


Joined = tuple[StoredTensor, ...]
"""Tensors to concatenate along the first dimension. Types and other dimensions are equal."""


def find_weights(folder: Path) -> dict[str, StoredTensor]:
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
    if found := [n for n in names if n in _ADAPTER]:
        raise InputError(f"{folder} contains an adapter ({found[0]}), not a model: merge it into its base model first, then convert that")
    if found := [n for n in names if n.endswith(".safetensors")]:
        raise InputError(f"{folder} contains {found[0]} but neither {SINGLE} nor {INDEX}: download the whole checkpoint")
    if found := [n for n in names if n.endswith(PICKLED)]:
        raise InputError(
            f"{folder} contains only pickled weights ({found[0]}), which can run code when loaded: on a machine where you trust them, save"
            " them again with save_pretrained(..., safe_serialization=True)"
        )
    raise InputError(f"{folder} contains neither {SINGLE} nor {INDEX}: download the weights, or name another folder")


def equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with ExitStack() as files:
        return torch.equal(_load((one,), {}, files).view(torch.uint8), _load((other,), {}, files).view(torch.uint8))


def write_weights(folder: Path, tensors: Mapping[str, Joined], shard_bytes: int) -> list[str]:
    """Write a checkpoint as one file, or as shards with an index; a tensor larger than ``shard_bytes`` gets its own shard.

    Only one shard is loaded at a time. Tensors that are not joined are mapped from their files, not copied to memory.

    Returns:
        Names of the files with weights.

    Raises:
        OSError: A file cannot be written.
        SafetensorError: A file cannot be written; the message contains the operating system's.
        InputError: A source file changed meanwhile.
    """
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda parts: sum(part.size for part in parts),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for name, members in split.filename_to_tensors.items():
        with ExitStack() as files:
            opened: dict[Path, Any] = {}
            save_file({member: _load(tensors[member], opened, files) for member in members}, folder / name, metadata={"format": "pt"})
        sync(folder / name)
    if split.is_sharded:
        write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))})
    return list(split.filename_to_tensors)


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
        raise InputError(f"{path} does not contain a JSON object")
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
    path.write_bytes(content)
    sync(path)


def _indexed(folder: Path, index: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{index} has no weight_map from tensors to files: download it again")
    files = sorted(set(weight_map.values()))
    for name in files:
        # The index is untrusted: a shard must be a file in the same folder.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}, which is not a safetensors file in the same folder")
    if missing := [n for n in files if not (folder / n).is_file()]:
        raise InputError(f"{folder} lacks {len(missing)} of the {len(files)} shards in {INDEX} (first: {missing[0]}): download them")
    found: dict[str, StoredTensor] = {}
    for name in files:
        for tensor, value in _read_header(folder / name).items():
            if weight_map.get(tensor) != name:
                place = f"places it in {weight_map[tensor]}" if tensor in weight_map else "does not contain it"
                raise InputError(f"{index} is wrong: {name} contains {tensor}, but the index {place}")
            found[tensor] = value
    if absent := sorted(weight_map.keys() - found.keys()):
        raise InputError(f"{index} is wrong: it places {absent[0]} in {weight_map[absent[0]]}, which does not contain it")
    return found


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        # Opening checks the header against the file: no gaps or overlaps, sizes that match shapes, file not truncated.
        with safe_open(path, framework="pt") as file:
            stored = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 - it is not a dict
            tensors = {name: StoredTensor(path, name, str(part.get_dtype()), tuple(part.get_shape())) for name, part in stored}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a complete safetensors file ({error}): download it again") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _BYTES:
            raise InputError(f"{path}: {name} is of type {tensor.dtype}; only {', '.join(_BYTES)} can be converted, not quantized models")
    return tensors


def _load(parts: Joined, opened: dict[Path, Any], files: ExitStack) -> torch.Tensor:
    """Map tensors from their files and join them. ``opened``: the files already open, closed by ``files``."""
    loaded = []
    for part in parts:
        try:
            if part.file not in opened:
                opened[part.file] = files.enter_context(safe_open(part.file, framework="pt"))
            rows = opened[part.file].get_slice(part.name)
            loaded.append(rows[part.first : part.first + part.shape[0]])
        except (SafetensorError, OSError) as error:
            raise InputError(f"{part.file} changed during the conversion ({error}): run it again") from error
    return loaded[0] if len(loaded) == 1 else torch.cat(loaded)
