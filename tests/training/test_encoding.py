"""Tokens and labels are exact, and text stays text."""
# ruff: noqa: S106 - its tokens are no passwords

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiron.cases.case import IMAGE_MARK
from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.providers.local.dialogue import ChatFormat, Turn
from chiron.providers.local.tiling import Tiling
from chiron.training.encoding import IGNORED, Encoded, RowEncoder, encode_all, trained_tokens
from chiron.training.rows import TrainingExample, read_rows
from tests.training.tiny import TOKENS_PER_TILE, tiny_encoder, tiny_tiling, tiny_tokenizer, write_rows

TOKENIZER = tiny_tokenizer()
ENCODER = tiny_encoder(TOKENIZER)
SPECIAL = ["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>", "<img>", "</img>", "<|endoftext|>", "<video>"]


def row(*texts: str, images: tuple[str, ...] = ()) -> TrainingExample:
    return TrainingExample("r", images, tuple(Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)))


def written(encoded: Encoded) -> str:
    return str(TOKENIZER.decode(encoded.input_ids.tolist()))


def runs(encoded: Encoded) -> list[str]:
    """The texts of each unbroken run of labels."""
    found: list[list[int]] = []
    before = False
    for label in encoded.labels.tolist():
        if label != IGNORED:
            if not before:
                found.append([])
            found[-1].append(label)
        before = label != IGNORED
    return [TOKENIZER.decode(run) for run in found]


def test_a_conversation_is_written_as_chatml() -> None:
    encoded = ENCODER.encode(
        TrainingExample("r", ("a", "b"), (Turn("system", "S"), Turn("user", "<image>\nQ <image>"), Turn("assistant", "A"))), [1, 2]
    )
    context = "<IMG_CONTEXT>" * TOKENS_PER_TILE
    text = f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<img>{context}</img>\nQ <img>{context}{context}</img><|im_end|>\n"
    text += "<|im_start|>assistant\nA<|im_end|>\n"
    assert written(encoded) == text
    # The tokenizer itself, given the whole text, says the same.
    assert encoded.input_ids.tolist() == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert encoded.input_ids.dtype == encoded.labels.dtype == np.int32
    assert encoded.images == ("a", "b")
    assert encoded.tile_counts == (1, 2)
    assert encoded.id == "r"


def test_labels_are_the_assistants_words_and_their_end(tmp_path: Path) -> None:
    rows = read_rows(write_rows(tmp_path, 24))
    encoded = encode_all(rows, ImageFolder(tmp_path / "images"), ENCODER, limit=4000)
    for one, source in zip(encoded, rows, strict=True):
        answers = [turn.text + "<|im_end|>" for turn in source.turns if turn.role == "assistant"]
        assert runs(one) == answers
        learned = one.labels != IGNORED
        np.testing.assert_array_equal(one.labels[learned], one.input_ids[learned])
        assert trained_tokens(one) == sum(len(answer.removesuffix("<|im_end|>").encode()) + 1 for answer in answers)
        assert one.labels[0] == IGNORED
    assert any(len(source.images) > 1 for source in rows)
    assert any(runs(one)[1:] for one in encoded)


TEXTS = st.text(max_size=12).filter(lambda text: IMAGE_MARK not in text)
"""Without the mark, which Hypothesis finds in our source and which would stand for an image."""


@pytest.mark.slow
@given(st.lists(st.one_of(TEXTS, st.sampled_from([*SPECIAL, "\n", " "])), min_size=4, max_size=4))
@settings(max_examples=80)
def test_a_prompt_is_what_stands_before_the_answer(texts: list[str]) -> None:
    source = row(*(text.encode("utf-8", "ignore").decode() for text in texts))
    encoded = ENCODER.encode(source, [])
    prompt = ENCODER.prompt(source.turns, [])
    np.testing.assert_array_equal(encoded.input_ids[: len(prompt)], prompt)
    np.testing.assert_array_equal(ENCODER.prompt(source.turns[:-1], []), prompt)
    # All that follows is what generation is to say, its stop included, and the line break that nobody says.
    assert (encoded.labels[len(prompt) : -1] != IGNORED).all()
    assert encoded.labels[len(prompt) - 1] == encoded.labels[-1] == IGNORED
    assert encoded.labels[-2] == ENCODER.stop_id
    assert TOKENIZER.decode(encoded.input_ids[len(prompt) : -2].tolist()) == source.turns[-1].text


def test_a_prompt_shows_images() -> None:
    source = row("<image> Q", "A", images=("a",))
    prompt = ENCODER.prompt(source.turns[:1], [2])
    assert (prompt == ENCODER.image_ids[1]).sum() == 2 * TOKENS_PER_TILE
    assert TOKENIZER.decode(prompt.tolist()).endswith("</img> Q<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_in_text_stay_text(token: str) -> None:
    text = f"a {token}{token[1:]}{token} b"
    encoded = ENCODER.encode(row(text, text), [])
    specials = [i for i in encoded.input_ids.tolist() if i in TOKENIZER.all_special_ids]
    turn = [*ENCODER._start, ENCODER.stop_id]
    assert specials == turn * 2
    assert written(encoded) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"


def test_an_image_mark_of_the_assistant_is_text() -> None:
    assert ENCODER.image_ids[0] not in ENCODER.encode(row("Q", "<image>"), []).input_ids


def word_tokenizer(*, special: bool, drop: str = "", split: str = "WhitespaceSplit") -> Any:
    """A vocabulary whose special tokens are also words of it, as small tokenizers made by hand have them."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [name for name in ["<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>"] if name != drop]
    words = ["[UNK]", *names, "user", "assistant", "system", "rib", "<", "|im_end|>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = getattr(pre_tokenizers, split)()
    backend.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("special", [True, False])
def test_text_stays_text_where_special_tokens_are_words_or_not_marked(special: bool) -> None:
    encoder = RowEncoder(word_tokenizer(special=special), tiling=tiny_tiling(), tokens_per_tile=1)
    encoded = encoder.encode(row("rib <|im_end|> <IMG_CONTEXT>", "rib <img> words"), [])
    ids = encoded.input_ids.tolist()
    assert ids.count(encoder.stop_id) == 2
    assert not set(encoder.image_ids) & set(ids)
    assert ids[2:6] == [9, 10, 11, 10] or ids[2] == 9  # rib, then the pieces of what was broken apart


def test_settings_of_the_shared_tokenizer_do_not_reach_the_encoder() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    encoder = tiny_encoder(tokenizer)
    tokenizer("abc", split_special_tokens=False, truncation=True, max_length=2)
    source = row("A long question <|im_end|>", "A long answer")
    np.testing.assert_array_equal(encoder.encode(source, []).input_ids, ENCODER.encode(source, []).input_ids)


@pytest.mark.parametrize("token", ["<img>", "<IMG_CONTEXT>", "</img>", "<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_a_token_is_refused(token: str) -> None:
    tokenizer = word_tokenizer(special=True, drop=token, split="Whitespace")
    with pytest.raises(InputError, match=f"no token '{token.replace('|', '[|]')}'"):
        RowEncoder(tokenizer, tiling=tiny_tiling(), tokens_per_tile=1)


def test_a_tokenizer_that_cannot_tell_who_speaks_is_refused() -> None:
    chat = ChatFormat(start="<img>", end="</img>")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"[UNK]": 0, "<img>": 1, "<IMG_CONTEXT>": 2, "</img>": 3}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare)  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match="'user' and 'assistant'"):
        RowEncoder(tokenizer, tiling=tiny_tiling(), tokens_per_tile=1, chat=chat)


def test_a_tokenizer_without_a_fast_backend_is_refused() -> None:
    slow: Any = object()
    with pytest.raises(InputError, match="no fast backend"):
        RowEncoder(slow, tiling=tiny_tiling(), tokens_per_tile=1)
    with pytest.raises(ValueError, match="tokens_per_tile"):
        RowEncoder(TOKENIZER, tiling=tiny_tiling(), tokens_per_tile=0)


def test_a_default_system_text_gives_way_to_the_rows_own() -> None:
    encoder = RowEncoder(TOKENIZER, tiling=tiny_tiling(), tokens_per_tile=TOKENS_PER_TILE, chat=ChatFormat(system="Be kind."))
    assert written(encoder.encode(row("Q", "A"), [])).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ")
    own = TrainingExample("r", (), (Turn("system", "Mine."), *row("Q", "A").turns))
    assert "Be kind." not in written(encoder.encode(own, []))
    with pytest.raises(ValueError, match="contains <image>"):
        ChatFormat(system="See <image>")


def test_marks_and_tiles_must_agree() -> None:
    with pytest.raises(InputError, match=r"row 'r': 1 <image> marks, but images of \[1, 1\] tiles"):
        ENCODER.encode(row("<image>", "A"), [1, 1])
    with pytest.raises(InputError, match="row 'r'"):
        ENCODER.encode(row("<image>", "A"), [0])
    with pytest.raises(InputError, match="prompt: 0 <image> marks"):
        ENCODER.prompt([Turn("user", "Q")], [1])


def test_all_rows_that_cannot_be_trained_on_are_told_at_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 9, ("one",))
    rows = read_rows(path)
    images = tmp_path / "images"
    (images / rows[1].images[0]).unlink()
    broken = images / rows[3].images[0]
    broken.write_bytes(broken.read_bytes()[:200])
    outside = TrainingExample("escapes", ("../../etc/passwd",), (Turn("user", "<image>"), Turn("assistant", "A")))
    long = TrainingExample("endless", (), (Turn("user", "Q" * 3000), Turn("assistant", "A")))
    with pytest.raises(InputError) as caught:
        encode_all([*rows, outside, long], ImageFolder(images), ENCODER, limit=2000)
    message = str(caught.value)
    assert message.startswith("4 of 11 rows cannot be trained on, 3 with missing or broken images and 1 longer than 2000 tokens")
    for name, fault in (("r0-1", "missing"), ("r0-3", "truncated"), ("escapes", "leaves the image folder"), ("endless", "3022 tokens")):
        assert name in message
        assert fault in message
    assert "\n" not in message


def test_images_of_a_row_share_its_tiles(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    encoder = RowEncoder(TOKENIZER, tiling=Tiling(tile=32, max_tiles=6), tokens_per_tile=4)
    alone, both = encode_all(
        [row("<image>", "A", images=("a.png",)), row("<image><image>", "A", images=("a.png", "b.png"))],
        ImageFolder(tmp_path),
        encoder,
        limit=400,
    )
    assert alone.tile_counts == (7,)  # 3 x 2 and the thumbnail
    assert both.tile_counts == (3, 3)  # of three tiles each, 2 x 1 is nearest to 3 : 2 (as near as 1 x 1, and filled)
    assert (both.input_ids == encoder.image_ids[1]).sum() == 6 * 4
