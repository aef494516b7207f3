"""Small language models with a fixed reply, as real checkpoints for third-party servers."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

_BEGIN, _END = "<|im_start|>", "<|im_end|>"


def write_model(folder: Path, says: Sequence[str]) -> Path:
    """Write a Qwen2 whose next token depends only on the last one: the pieces of ``says``, then the end, at temperatures below 10."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    # Byte vocabulary: servers load a Qwen2 with its own tokenizer class, even if the files name another.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_BEGIN, _END])
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in says])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END, pad_token=_END)  # type: ignore[no-untyped-call]
    # Qwen2's chat template: servers cut off the prompt at its last mark.
    turns = "{% for m in messages %}" + _BEGIN + "{{ m.role }}\n{{ m.content }}" + _END + "\n{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}" + _BEGIN + "assistant\n{% endif %}"
    (new_line,) = tokenizer("\n").input_ids
    ids = [new_line, *tokenizer.convert_tokens_to_ids([*says, _END])]
    width = 8 * -(-len(tokenizer) // 8)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=False, eos_token_id=ids[-1], pad_token_id=ids[-1],
            bos_token_id=None,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), width))
        for here, there in pairwise(ids):
            model.lm_head.weight[there, here] = 100.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
