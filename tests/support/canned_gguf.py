"""Models with a fixed reply as GGUF files, for llama.cpp's server; see :mod:`tests.support.canned`."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_BEGIN, _END = "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{% for m in messages %}" + _BEGIN + "{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}" + _END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + _BEGIN + "assistant\n{% endif %}"
)
_CONTEXT, _PIECE = 8192, 24


def write_gguf(path: Path, says: Sequence[str]) -> Path:
    """Write a Llama whose next token depends only on the last one: the pieces of ``says``, then the end."""
    import numpy as np
    from gguf import GGUFWriter, TokenType
    from tokenizers import pre_tokenizers

    # llama-cpp-python has a buffer of 32 bytes per token.
    says = [text[at : at + _PIECE] for text in says for at in range(0, len(text), _PIECE)]
    assert len(set(says)) == len(says), "the next token depends on the last one, so no piece may come twice"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, _BEGIN, _END, *says]
    types = [TokenType.NORMAL] * len(letters) + [TokenType.CONTROL] * 2 + [TokenType.USER_DEFINED] * len(says)
    # The prompt ends with a newline, which the byte-level alphabet encodes as another character.
    ids = [tokens.index("\u010a"), *(tokens.index(piece) for piece in says), tokens.index(_END)]
    width, heads = 32 * -(-len(tokens) // 32), 2
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(tokens.index(_BEGIN))
    writer.add_eos_token_id(tokens.index(_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)
    head = np.zeros((len(tokens), width), np.float32)
    for here, there in pairwise(ids):
        head[there, here] = 100.0
    writer.add_tensor("token_embd.weight", np.eye(len(tokens), width, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", head)
    for name, shape in {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (width, width),
        "attn_v": (width, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (32, width),
        "ffn_up": (32, width),
        "ffn_down": (width, 32),
    }.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
