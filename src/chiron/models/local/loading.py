"""From a checkpoint on disk to a model that can be run."""

from typing import Any

import torch
import transformers
from transformers import Qwen2VLImageProcessorPil

from chiron.errors import InputError
from chiron.models.config import LocalModel
from chiron.models.local.checkpoint import Checkpoint
from chiron.models.local.checkpoint_format import AskedAs
from chiron.models.local.family import Family
from chiron.models.local.internvl import InternVL
from chiron.models.local.prefixes import PrefixCache
from chiron.models.local.pretrained import load_whole
from chiron.models.local.qwen_vl import QwenVL

_CPU_BYTES = 768 * 2**20
"""What encoded images and the beginnings of prompts may take on a CPU."""


def load(checkpoint: Checkpoint, settings: LocalModel) -> tuple[Family, PrefixCache]:
    """The model, in evaluation mode, and an empty memory for beginnings of prompts; takes seconds to minutes.

    Raises:
        InputError: there is no such device, or the checkpoint cannot be loaded.
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
    except Exception as error:  # libraries fail at a broken checkpoint in many ways, at one too large in others
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{folder} cannot be loaded: {reason}") from error
    return family, PrefixCache(room - room // 4)


def _family(checkpoint: Checkpoint, model: Any, tokenizer: Any, settings: LocalModel, features_bytes: int) -> Family:
    if checkpoint.model_type == "internvl":
        return InternVL(model, tokenizer, asked_as=AskedAs.of(settings, checkpoint.folder), features_bytes=features_bytes)
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint.folder, local_files_only=True)
    return QwenVL(model, tokenizer, processor, features_bytes=features_bytes)
