"""Yes and no, and answers to open questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.open_answers import final_text, token_recall
from chiron.evaluation.answers.yes_no import yes_no


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes, abnormal", True),
        ("nodule present", None),
        ("No, there is no effusion.", False),
        ("Yes, there is no effusion.", True),
        ("There is no evidence of a mass.", None),
        ("No abnormality.", None),
        ("<think>No.</think><answer>Yes</answer>", True),
        ("### The final answer is: No", False),
        ("Yes or no", None),
        ("The answer is not yes.", None),
        ("Not sure, probably yes.", True),
        ("The answer is no. Wait, the answer is yes.", True),
        ("", None),
    ],
)
def test_only_the_words_themselves_count(reply: str, expected: bool | None) -> None:
    assert yes_no(reply) is expected


@pytest.mark.parametrize(
    ("reply", "family", "expected"),
    [
        ("### Step 1: x\n### The final answer is: **Acute infarct**", None, "Acute infarct"),
        ("<think>Maybe lung.</think><answer>Liver</answer>", None, "Liver"),
        (r"So \boxed{\text{grade {II}}}", None, "grade {II}"),
        ('{"answer": "glioma", "why": "edema"}', None, "glioma"),
        ("\u6700\u7ec8\u7b54\u6848\uff1a\u80ba\u708e", None, "\u80ba\u708e"),
        ("## Thinking\n\nHm.\n\n## Final Response\n\nIt is a glioma.", None, "It is a glioma."),
        ("The MRI is bright. The answer is glioma.", None, "glioma"),
        ("A glioma of the left lobe", None, "A glioma of the left lobe"),
        ("A glioma of the left lobe", ReplyFormat.CHIRON, None),
        ("<think>never ends", None, None),
        ("", None, None),
    ],
)
def test_the_final_text(reply: str, family: ReplyFormat | None, expected: str | None) -> None:
    assert final_text(reply, family) == expected


def test_recall_counts_the_known_words() -> None:
    assert token_recall("There is an acute infarct", "Acute left infarct") == pytest.approx(2 / 3)
    assert token_recall("infarct infarct infarct", "acute infarct") == pytest.approx(1 / 2)
    assert token_recall(None, "infarct") == 0.0
    with pytest.raises(InputError, match="empty"):
        token_recall("infarct", " ")


@given(st.text(), st.sampled_from([None, *ReplyFormat]))
def test_any_text_is_read_without_failing(reply: str, family: ReplyFormat | None) -> None:
    assert yes_no(reply, family=family) in {True, False, None}
    text = final_text(reply, family)
    assert text is None or text
    assert token_recall(text, "left infarct") <= 1.0


def test_steps_without_an_end_say_neither_yes_nor_no() -> None:
    step = "### Step 1: No shift is seen.\n### Step 2: The ventricle is narrow"
    assert yes_no(step) is None
    assert final_text(step) is None
    assert yes_no(f"{step}, so the answer is yes") is True
    assert yes_no(f"{step}.\n\nNo") is False
    assert yes_no(f"{step}: the answer is yes or no") is None
    assert final_text(f"{step}.\n\nA large haematoma") == "A large haematoma"
