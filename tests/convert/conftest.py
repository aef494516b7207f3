"""Checkpoints to convert, in both layouts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.conversions import CHAT_SHAPES, published_config, tiny_internvl, write_tokenizer


@pytest.fixture(scope="session")
def hf_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "hf"
    tiny_internvl().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def chat_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the authors publish theirs, written by hand."""
    folder = tmp_path_factory.mktemp("made") / "chat"
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(published_config()))
    generator = torch.Generator().manual_seed(1)
    tensors = {name: (torch.randn(shape, generator=generator) * 0.2).bfloat16() for name, shape in CHAT_SHAPES.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").write_text('{"_from_model_config": true, "eos_token_id": 16}')
    (folder / "preprocessor_config.json").write_text('{"feature_extractor_type": "CLIPFeatureExtractor", "size": 28}')
    (folder / "modeling_internvl_chat.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("a card")
    return folder


@pytest.fixture
def hf(hf_made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(hf_made, tmp_path / "hf")


@pytest.fixture
def chat(chat_made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(chat_made, tmp_path / "chat")
