"""What several tests of the evaluation share."""

import json
from pathlib import Path

import pytest

_WORDS = ["rib fracture of the seventh rib", "no pneumothorax", "cyst in the upper lobe of the left lung"]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoder with three layers, 38 tokens, and a path that bert-score's own loader takes for a T5."""
    import torch
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path_factory.mktemp("t5")
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted({character.replace(" ", "\u0120") for words in _WORDS for character in words})
    vocabulary = {token: number for number, token in enumerate([*marks, *letters])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    assert tokenizer.model_max_length > 10**9  # the trap: it knows no limit
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder
