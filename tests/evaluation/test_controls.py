"""Controls and what goes into a message, on any set of items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.client.call import ImagePart, TextPart
from chiron.errors import InputError
from chiron.evaluation.controls import Control, apply_control, note_unchanged
from chiron.evaluation.items import BadItem, Item, user_message

NAMES = st.tuples(st.sampled_from("abcdefg")) | st.tuples(st.sampled_from("abcdefg"), st.sampled_from("abcdefg"))
OPTIONS = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=2, max_size=5, unique=True)


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    made = []
    for number in range(draw(st.integers(1, 12))):
        options = tuple(draw(OPTIONS))
        gold = draw(st.integers(0, len(options) - 1))
        made.append(Item(f"i{number}", "q", options[gold], draw(NAMES), options, gold, "choice"))
    return made


@pytest.mark.slow
@given(items(), st.integers(0, 5))
def test_no_item_keeps_its_images_when_they_are_swapped(asked: list[Item], draw: int) -> None:
    swapped = apply_control(asked, Control.SWAP, seed=0, sample_index=draw)
    assert swapped == apply_control(asked, Control.SWAP, seed=0, sample_index=draw)
    sets = {item.images for item in asked}
    for before, after in zip(asked, swapped, strict=True):
        if len(sets) == 1:
            assert isinstance(after, BadItem)
        else:
            assert isinstance(after, Item)
            assert after.images in sets - {before.images}
            assert (after.question, after.options, after.gold) == (before.question, before.options, before.gold)


@pytest.mark.slow
@given(items(), st.integers(0, 5))
def test_shuffled_options_are_the_same_options_in_another_order(asked: list[Item], draw: int) -> None:
    for before, after in zip(asked, apply_control(asked, Control.SHUFFLE_OPTIONS, seed=0, sample_index=draw), strict=True):
        assert isinstance(after, Item)
        assert after.gold is not None
        assert after.options != before.options
        assert sorted(after.options) == sorted(before.options)
        assert after.options[after.gold] == before.answer


def test_images_of_options_go_where_their_options_go() -> None:
    item = Item("i", "q <image>", "b <image>", ("q", "b"), ("a", "b <image>", "c <image>"), 1, "choice")
    item = Item("i", "q <image>", "b <image>", ("q", "b", "c"), item.options, 1, "choice")
    (after,) = apply_control([item], Control.SHUFFLE_OPTIONS, seed=3, sample_index=0)
    assert isinstance(after, Item)
    own = [option[0] for option in after.options if "<image>" in option]
    assert after.images == ("q", *own)


def test_pictures_stand_where_the_marks_do_and_a_template_cannot_be_broken_out_of() -> None:
    one, two = ImagePart("1", 64), ImagePart("2", 64)
    item = Item("i", "see <image> and $options", "b", ("1", "2"), ("a <image>", "b"), 1, "choice")
    message = user_message("$question\n$options\nGo.", item, (one, two))
    assert message.parts == (TextPart("see "), one, TextPart(" and $options\nA. a "), two, TextPart("\nB. b\nGo."))
    assert message.inline
    assert user_message("$question", item, ()).parts == (TextPart("see  and $options"),)
    plain = Item("i", "q", "b", ("1", "2"))
    assert user_message("$question", plain, (one, two)).parts == (one, two, TextPart("q"))


def test_a_control_that_would_change_nothing_is_refused() -> None:
    """Its figure would be the real run's, and look as if nothing hung on the options."""
    asked, bad = Item("i", "q", "a", ("1",)), BadItem("b", "lost")
    with pytest.raises(InputError, match="shuffle-options changes nothing in mini: none of its items has options"):
        note_unchanged("mini", [asked, bad], Control.SHUFFLE_OPTIONS)
    for control in (Control.NO_IMAGE, Control.BLANK, Control.SWAP):
        with pytest.raises(InputError, match="none of its items has images"):
            note_unchanged("text", [Item("i", "q", "a", (), ("a", "b"), 0, "choice")], control)
        assert note_unchanged("mini", [asked, bad], control) == ""
    some = [asked, Item("j", "q", "a", ("1",), ("a", "b"), 0, "choice")]
    assert note_unchanged("mini", some, Control.SHUFFLE_OPTIONS).startswith("mini: 1 of 2 items have no options")
    assert note_unchanged("mini", [bad], Control.SWAP) == note_unchanged("mini", [asked], Control.NONE) == ""
