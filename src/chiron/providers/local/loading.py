"""Load a model from a checkpoint on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import Qwen2VLImageProcessorPil

from chiron.client.config import LocalModel
from chiron.errors import InputError
from chiron.providers.local.backend import VLMBackend
from chiron.providers.local.cache import PrefixCache
from chiron.providers.local.checkpoint import Checkpoint
from chiron.providers.local.checkpoint_format import AskedAs
from chiron.providers.local.families import InternVL, QwenVL


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
    lacking = sorted({*map(str, report["missing_keys"]), *(str(name) for name, *_ in report["mismatched_keys"])})
    if lacking:
        more = len(lacking) - _SHOWN
        names = ", ".join(lacking[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise InputError(f"it lacks weights that a {architecture.__name__} of its config.json has ({names}): fetch or convert it again")
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
        raise InputError("device: cuda, but torch finds no GPU here: take device: cpu, or a build of torch for this GPU")
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
        room = _CPU_BYTES if device == "cpu" else torch.cuda.mem_get_info()[0] // 4
        family = _family(checkpoint, model, tokenizer, settings, room // 4)
    except Exception as error:  # libraries raise many different errors for broken or too large checkpoints
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{folder} cannot be loaded: {reason}") from error
    return family, PrefixCache(room - room // 4)


def _family(checkpoint: Checkpoint, model: Any, tokenizer: Any, settings: LocalModel, features_bytes: int) -> VLMBackend:
    if checkpoint.model_type == "internvl":
        return InternVL(model, tokenizer, asked_as=AskedAs.of(settings, checkpoint.folder), features_bytes=features_bytes)
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint.folder, local_files_only=True)
    return QwenVL(model, tokenizer, processor, features_bytes=features_bytes)
