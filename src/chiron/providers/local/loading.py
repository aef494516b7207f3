"""Load a checkpoint of a supported family."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
import transformers

from chiron.client.config import LocalModel
from chiron.errors import InputError
from chiron.providers.local.backend import VLMBackend
from chiron.providers.local.checkpoint import AskedAs, Checkpoint
from chiron.providers.local.dialogue import DialogueTokens
from chiron.providers.local.generation import PrefixCache


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
_loading = Lock()
"""Transformers replaces methods of its classes while it loads. If two threads load at once, the replacements can stay: tied weights would
then be missing from every later model."""


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
    with _loading, no_bars():
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
    folder = str(checkpoint.folder)
    try:
        model = load_whole(
            getattr(transformers, checkpoint.family.architecture),
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
    family, asked_as = checkpoint.family, AskedAs.of(settings, checkpoint)
    layout = family.layout(model.config, str(checkpoint.folder), tiling=asked_as.tiling())
    dialogue = DialogueTokens(tokenizer, **family.dialogue_settings(model.config, layout, asked_as.system))
    return VLMBackend(model, tokenizer, family, dialogue, image_separator=asked_as.image_separator, features_bytes=features_bytes)
