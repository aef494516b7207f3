"""The supported architectures, InternVL, Qwen2-VL and Qwen2.5-VL, and how they are loaded from a checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLImageProcessorPil

from chiron.client.config import LocalModel
from chiron.client.failures import CallerFault
from chiron.errors import InputError
from chiron.providers.local.backend import EncodedImage, PrefixCache, VLMBackend
from chiron.providers.local.checkpoint import AskedAs, Checkpoint
from chiron.providers.local.dialogue import ChatFormat, DialogueTokens
from chiron.providers.local.tiling import Tiling, cut, normalise, tile_budget


class InternVL(VLMBackend):
    """Backend for ``InternVLForConditionalGeneration``."""

    def __init__(self, model: Any, tokenizer: Any, *, asked_as: AskedAs, features_bytes: int) -> None:
        """``asked_as``: tiling of images, and the system message for calls without a system turn.

        Raises:
            InputError: the tokenizer lacks a token, or the language model is not supported.
        """
        self._tiling = asked_as.tiling(tile_side(model.config))
        chat = ChatFormat(system=asked_as.system)
        dialogue = DialogueTokens(tokenizer, tiling=self._tiling, tokens_per_tile=tokens_per_tile(model.config), chat=chat)
        super().__init__(model, tokenizer, dialogue, features_bytes=features_bytes)

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """See :meth:`VLMBackend.encode`; all tiles are encoded together."""
        tiles = normalise(cut(image, budget=self.sharing(n_images), tiling=self._tiling))
        config = self.model.config
        found = self.model.model.get_image_features(
            pixel_values=torch.from_numpy(tiles).to(self.device, self.dtype),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        features = found.reshape(-1, found.shape[-1])
        return features, (1, len(features))

    def sharing(self, n_images: int) -> int:
        """Return the maximum tiles per image of the call."""
        return tile_budget(n_images, self._tiling)


def tokens_per_tile(config: Any) -> int:
    """Return the image tokens per tile of an ``InternVLConfig``: patches per side times the downsampling ratio, squared."""
    vision = config.vision_config
    return int((_side(vision.image_size) // _side(vision.patch_size)) * config.downsample_ratio) ** 2


def tile_side(config: Any) -> int:
    """Return the tile side in pixels that the vision tower of an ``InternVLConfig`` expects."""
    return _side(config.vision_config.image_size)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


_IMAGE_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_SYSTEM = "You are a helpful assistant."
"""Default system message of the published chat template."""


class QwenVL(VLMBackend):
    """Backend for ``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``."""

    axes: ClassVar[int] = 3
    image_separator: ClassVar[str] = ""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, features_bytes: int) -> None:
        """``processor``: the checkpoint's ``Qwen2VLImageProcessorPil``.

        Raises:
            InputError: the tokenizer lacks a token, the patch sizes of processor and model differ, or the language model is not supported.
        """
        self._processor = processor
        vision = model.config.vision_config
        names = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
        for ours, theirs in names.items():
            if getattr(processor, ours) != getattr(vision, theirs):
                raise InputError(
                    f"{ours} in preprocessor_config.json is {getattr(processor, ours)}, but the model's {theirs} is"
                    f" {getattr(vision, theirs)}: copy the settings that belong to these weights"
                )
        dialogue = DialogueTokens(
            tokenizer, tiling=Tiling(), tokens_per_tile=1, chat=ChatFormat(system=_SYSTEM), image_tokens=_IMAGE_TOKENS
        )
        super().__init__(model, tokenizer, dialogue, features_bytes=features_bytes)

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """See :meth:`VLMBackend.encode`; the processor chooses the image size."""
        del n_images
        try:
            seen = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        except ValueError as error:
            raise CallerFault(f"an image of {image.width} x {image.height} pixels is not supported by this model: {error}") from error
        sizes = seen["image_grid_thw"].to(self.device)
        found = self.model.model.get_image_features(
            pixel_values=seen["pixel_values"].to(self.device, self.dtype), image_grid_thw=sizes
        ).pooler_output
        merge = self.model.config.vision_config.spatial_merge_size
        _, rows, columns = sizes[0].tolist()
        return torch.cat(list(found)), (rows // merge, columns // merge)

    def sharing(self, n_images: int) -> int:
        """Return 0: the encoding of an image does not depend on the other images."""
        del n_images
        return 0

    def _positions(self, length: int, images: Sequence[EncodedImage], spans: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Text positions increase by one, equal on all axes. An image's tokens share one time position and have their own row and column.

        The text after an image starts one above the image's largest position.
        """
        positions = np.empty((3, length), np.int64)
        done = following = 0
        for seen, (start, end) in zip(images, spans, strict=True):
            positions[:, done:start] = np.arange(following, following + start - done)
            following += start - done
            rows, columns = seen.grid
            row, column = np.divmod(np.arange(end - start), columns)
            positions[:, start:end] = following + np.stack([np.zeros_like(row), row, column])
            following += max(rows, columns)
            done = end
        positions[:, done:] = np.arange(following, following + length - done)
        return positions, following + length - done


@contextmanager
def no_bars() -> Iterator[None]:
    """Disable the progress bars of transformers inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


_SHOWN = 3


def load_whole(architecture: Any, source: str, **settings: Any) -> Any:
    """Call ``architecture.from_pretrained(source, **settings)``, but raise an error if weights are missing.

    Transformers initializes missing weights at random and only warns. The model would run but be useless.

    Args:
        architecture: a transformers model class.
        source: a folder, or the name of a checkpoint on a hub.
        settings: passed to ``from_pretrained``.

    Raises:
        InputError: the checkpoint lacks weights of this architecture, or their shapes differ.
    """
    with no_bars():
        model, report = architecture.from_pretrained(source, output_loading_info=True, **settings)
    missing = sorted({*map(str, report["missing_keys"]), *(str(name) for name, *_ in report["mismatched_keys"])})
    if missing:
        more = len(missing) - _SHOWN
        names = ", ".join(missing[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise InputError(f"it lacks weights of the {architecture.__name__} in its config.json ({names}): download or convert it again")
    return model


_CPU_BYTES = 768 * 2**20
"""Memory limit on a CPU for encoded images and for prompt prefixes."""


def load(checkpoint: Checkpoint, settings: LocalModel) -> tuple[VLMBackend, PrefixCache]:
    """Load the model in evaluation mode, with an empty prefix cache. It takes seconds to minutes.

    Raises:
        InputError: the device does not exist, or the checkpoint cannot be loaded.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch finds no GPU: set device: cpu, or install a build of torch for this GPU")
    precision = settings.precision if settings.precision != "auto" else ("bf16" if device == "cuda" else "fp32")
    classes = {
        "internvl": "InternVLForConditionalGeneration",
        "qwen2_vl": "Qwen2VLForConditionalGeneration",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    }
    folder = str(checkpoint.folder)
    try:
        model = load_whole(
            getattr(transformers, classes[checkpoint.model_type]),
            folder,
            dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = model.eval().requires_grad_(False).to(device)
        memory = _CPU_BYTES if device == "cpu" else torch.cuda.mem_get_info()[0] // 4
        backend = _backend(checkpoint, model, tokenizer, settings, memory // 4)
    except Exception as error:  # libraries raise many different errors for broken or too large checkpoints
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{folder} cannot be loaded: {reason}") from error
    return backend, PrefixCache(memory - memory // 4)


def _backend(checkpoint: Checkpoint, model: Any, tokenizer: Any, settings: LocalModel, features_bytes: int) -> VLMBackend:
    if checkpoint.model_type == "internvl":
        return InternVL(model, tokenizer, asked_as=AskedAs.of(settings, checkpoint.folder), features_bytes=features_bytes)
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint.folder, local_files_only=True)
    return QwenVL(model, tokenizer, processor, features_bytes=features_bytes)
