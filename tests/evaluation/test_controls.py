"""Controls and what goes into a message, on any set of items."""

from hypothesis import given
from hypothesis import strategies as st

from chiron.evaluation.controls import Control, varied
from chiron.evaluation.item import BadItem, Item
from chiron.evaluation.rendering import user_message
from chiron.models.call import Picture, Text

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


@given(items(), st.integers(0, 5))
def test_no_item_keeps_its_images_when_they_are_swapped(asked: list[Item], draw: int) -> None:
    swapped = varied(asked, Control.SWAP, seed=0, draw=draw)
    assert swapped == varied(asked, Control.SWAP, seed=0, draw=draw)
    sets = {item.images for item in asked}
    for before, after in zip(asked, swapped, strict=True):
        if len(sets) == 1:
            assert isinstance(after, BadItem)
        else:
            assert isinstance(after, Item)
            assert after.images in sets - {before.images}
            assert (after.question, after.options, after.gold) == (before.question, before.options, before.gold)


@given(items(), st.integers(0, 5))
def test_shuffled_options_are_the_same_options_in_another_order(asked: list[Item], draw: int) -> None:
    for before, after in zip(asked, varied(asked, Control.SHUFFLE_OPTIONS, seed=0, draw=draw), strict=True):
        assert isinstance(after, Item)
        assert after.gold is not None
        assert after.options != before.options
        assert sorted(after.options) == sorted(before.options)
        assert after.options[after.gold] == before.answer


def test_images_of_options_go_where_their_options_go() -> None:
    item = Item("i", "q <image>", "b <image>", ("q", "b"), ("a", "b <image>", "c <image>"), 1, "choice")
    item = Item("i", "q <image>", "b <image>", ("q", "b", "c"), item.options, 1, "choice")
    (after,) = varied([item], Control.SHUFFLE_OPTIONS, seed=3, draw=0)
    assert isinstance(after, Item)
    own = [option[0] for option in after.options if "<image>" in option]
    assert after.images == ("q", *own)


def test_pictures_stand_where_the_marks_do_and_a_template_cannot_be_broken_out_of() -> None:
    one, two = Picture("1", 64), Picture("2", 64)
    item = Item("i", "see <image> and $options", "b", ("1", "2"), ("a <image>", "b"), 1, "choice")
    message = user_message("$question\n$options\nGo.", item, (one, two))
    assert message.parts == (Text("see"), one, Text("and $options\nA. a"), two, Text("B. b\nGo."))
    assert user_message("$question", item, ()).parts == (Text("see  and $options"),)
    plain = Item("i", "q", "b", ("1", "2"))
    assert user_message("$question", plain, (one, two)).parts == (one, two, Text("q"))
