"""The letter that a reply chooses: known traps of other harnesses, every family's form, and what holds for any text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule
from chiron.evaluation.answers.extraction import extract

CHEST = ["Pneumonia", "Pneumothorax", "Pleural effusion", "Pulmonary edema"]
STROKE = ["Right MCA", "Basilar artery", "Left MCA", "Left PCA", "Right PCA"]
TEN = [f"Finding {name}" for name in "one two three four five six seven eight nine ten".split()]


def letter(reply: str, options: list[str] = CHEST, family: ReplyFormat | None = None) -> str | None:
    return extract(reply, options, family=family).letter


class TestTrapsOfOtherHarnesses:
    def test_mmmu_last_of_several_letters(self) -> None:
        assert letter("B and C") is None

    def test_mmmu_random_choice_where_there_is_none(self) -> None:
        assert {letter("I cannot tell from this image.") for _ in range(20)} == {None}

    def test_lmms_eval_cta_is_no_letter_a(self) -> None:
        found = extract("CTA shows C. Left MCA", STROKE)
        assert (found.letter, found.rule) == ("C", Rule.OPTION_TEXT)

    def test_vlmevalkit_letters_beyond_d(self) -> None:
        assert letter("The answer is E.", STROKE) == "E"
        assert letter("The answer is I.", TEN) == "I"

    def test_vlmevalkit_a_miss_is_not_z(self) -> None:
        found = extract("No idea.", [str(number) for number in range(26)])
        assert (found.index, found.letter, found.rule) == (None, None, Rule.UNPARSED)

    def test_a_second_answer_beside_the_first_is_several(self) -> None:
        assert letter("The answer is C. However, B is also correct.") is None
        assert letter("B is correct. C is also correct.") is None
        assert letter("The answer is C. So, C is also the best.") == "C"
        assert letter("A seems wrong. B is also correct.") == "B"

    def test_an_answer_for_another_patient_is_none(self) -> None:
        assert letter("The best answer would be B if she were pregnant. She is not, so A.") == "A"
        assert letter("If she were pregnant, the answer would be B. She is not. The answer is A.") == "A"
        assert letter("The answer would be B if the wedge were in another lobe.") is None
        assert letter("The answer would be B, if I am not mistaken.") == "B"

    @pytest.mark.parametrize("options", [CHEST, TEN])
    def test_huatuo_vision_i_think(self, options: list[str]) -> None:
        assert letter("I think the answer is B.", options) == "B"

    def test_huatuo_vision_vitamin_d(self) -> None:
        assert letter("Gums bleed though vitamin D is normal, so it is not D. Answer: C") == "C"
        assert letter("The diet lacks vitamin D ... Answer: C") == "C"

    def test_huatuo_vision_lower_case(self) -> None:
        assert letter("Answer: b") == "B"

    def test_medevalkit_no_in_abnormal(self) -> None:
        assert letter("Yes, abnormal", ["Yes", "No"]) == "A"

    def test_medevalkit_no_in_nodule(self) -> None:
        assert letter("nodule present", ["Yes", "No"]) is None


@pytest.mark.parametrize(
    ("reply", "expected", "rule"),
    [
        ("### Step 1: Look.\n### The final answer is: A\n### Step 2: Again.\n### The final answer is: C", "C", Rule.FINAL_MARK),
        ("<think>The answer is A.</think><answer>B</answer>", "B", Rule.TAG),
        (r"First \boxed{A}, then \boxed{\text{D. Pulmonary edema}}", "D", Rule.BOXED),
        ("## Thinking\n\nThe answer is A.\n\n## Final Response\n\nThe answer is B.", "B", Rule.DECLARATION),
        ("### Reasoning Process:\nA or B.\n\n### Conclusion:\nC. Pleural effusion", "C", Rule.BARE_LETTER),
        ("Air beyond a line.\n\n**B**", "B", Rule.BARE_LETTER),
        ("A pleural effusion on the left", "C", Rule.OPTION_TEXT),
        ('{"answer": "B"}', "B", Rule.DECLARATION),
        ("", None, Rule.UNPARSED),
    ],
)
def test_each_form_is_told_from_the_reply(reply: str, expected: str | None, rule: Rule) -> None:
    found = extract(reply, CHEST)
    assert (found.letter, found.rule) == (expected, rule)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A mass is seen", None),
        ("The answer is not B.", None),
        ("The answer is not A but C.", "C"),
        ("Answer: B. Wait, answer: C", "C"),
        ("The answer is B. No: the answer is not B.", None),
        ("\uff08\uff22\uff09", "B"),
        ("B. Pneumonia", None),
        ("Answer: B. Pneumonia would show bronchograms.", "B"),
        ("Answer: E", None),
        ("<think>The answer is C, because", None),
        ("<think>It must be.\n<answer>C</answer>", "C"),
        ("Answer: B\n\nQuestion: And the organ?\nAnswer: D", "B"),
        ("A. Pneumonia\nB. Pneumothorax\nC. Pleural effusion\nD. Pulmonary edema", None),
        ("There is no pneumothorax. There is a pleural effusion.", "C"),
        ("<answer>A or D</answer>", None),
    ],
)
def test_traps(reply: str, expected: str | None) -> None:
    assert letter(reply) == expected


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("A CT angiography", ["CT", "MRI", "CT angiography"], "C"),
        ("E. coli", ["S. aureus", "E. coli", "C. difficile", "Proteus", "None"], "B"),
        ("It measures 3.5 cm", ["5 cm", "3.5 cm"], "B"),
        ("15 cm", ["5 cm", "3.5 cm"], None),
        (">20 mm", ["<20 mm", "> 20 mm"], "B"),
        ("a beta-blocker", ["\u03b1-blocker", "\u03b2-blocker"], "B"),
        ("5-10 mm", ["<5 mm", "5\u201310 mm"], "B"),
        ("All of the above", ["Fever", "Cough", "All of the above"], "C"),
        ("Answer: both A and B", ["Iron", "Lead", "Both A and B"], "C"),
    ],
)
def test_option_texts(reply: str, options: list[str], expected: str | None) -> None:
    assert letter(reply, options) == expected


@pytest.mark.parametrize(
    ("behind", "wanted"),
    [
        ("Consider A. Pneumonia would show", None),
        ("It is no pneumonia but a pneumothorax", None),
        ("Air outside the lung.\nTherefore the answer is B.", "B"),
        ("Air outside the lung.\n\nB. Pneumothorax", "B"),
        ("Air outside the lung.\n\nB", "B"),
        ("Both lists:\nA. Pneumonia\nB. Pneumothorax", None),
    ],
)
def test_steps_without_an_end_weigh_options_and_choose_none(behind: str, wanted: str | None) -> None:
    reply = f"### Step 1: The answer is C unless there is air.\n### Step 2: {behind}"
    assert letter(reply) == wanted


@pytest.mark.parametrize("reply", ["B is not correct. C is not correct either.", "A is wrong, and so is B.", "B is not right, nor is C."])
def test_a_letter_that_is_denied_is_not_chosen(reply: str) -> None:
    assert letter(reply) is None


def test_a_family_that_is_set_comes_first() -> None:
    reply = r"<answer>A</answer> \boxed{B}"
    assert (letter(reply), letter(reply, family=ReplyFormat.TAGGED), letter(reply, family=ReplyFormat.BOXED)) == ("B", "A", "B")


@pytest.mark.parametrize("count", [0, 1, 27])
def test_so_many_options_have_no_letters(count: int) -> None:
    with pytest.raises(InputError, match="2 to 26"):
        extract("A", ["x"] * count)


FORMS = [
    "{}", "({})", "Answer: {}", "The answer is {}.", "**Answer:** {}", "<think>So A? Or B?</think><answer>{}</answer>",
    r"Answer: \boxed{{{}}}", "### Step 1: Option A is out, option B too.\n### The final answer is: {}",
    "## Thinking\n\nA? B?\n\n## Final Response\n\nThe answer is **{}**.",
    "### Reasoning Process:\nNot A.\n\n### Conclusion:\nThe correct option is {}.",
    "Option {}", "Long prose.\n\n{}", '{{"answer": "{}"}}', "I choose {}.",
]  # fmt: skip


@pytest.mark.slow
@given(st.sampled_from(FORMS), st.integers(2, 26), st.data())
def test_any_letter_in_any_form_is_that_letter(form: str, count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    options = [f"Lesion {number}" for number in range(100, 100 + count)]
    assert extract(form.format("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]), options).index == index


@given(st.permutations(CHEST), st.sampled_from(["{}", "The film shows a {}.", "<answer>{}</answer>", r"\boxed{{{}}}", "The answer is {}."]))
def test_a_text_is_followed_through_every_shuffle(options: list[str], form: str) -> None:
    found = extract(form.format("Pleural effusion"), options)
    assert found.index == options.index("Pleural effusion")


SHARDS = [
    "A", "B", "C", "(B)", "answer is ", "Answer: ", "not ", "<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "}", "\n", "\n\n",
    "### ", "Final answer: ", "Pneumonia", "is correct", " and ", "Question:", ". ", "{", '"', "*", "\uff15", "no ", "wait, ",
]  # fmt: skip


@pytest.mark.slow
@given(
    st.one_of(st.text(), st.lists(st.sampled_from(SHARDS), max_size=30).map("".join)),
    st.sampled_from([None, *ReplyFormat]),
    st.integers(2, 4),
)
def test_any_text_is_read_without_failing_and_within_the_options(reply: str, family: ReplyFormat | None, count: int) -> None:
    found = extract(reply, CHEST[:count], family=family)
    assert found.index is None or 0 <= found.index < count
    assert (found.index is None) == (found.rule is Rule.UNPARSED)
    assert found == extract(reply, CHEST[:count], family=family)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "a ",
        "A ",
        "answer is ",
        "answer to ",
        "\n",
        " ",
        "*",
        "_",
        "\\boxed{",
        "\\text{",
        "\\text{{}",
        "{",
        "<think>",
        "<answer>",
        "CT ",
        "is correct ",
        "no ",
        "5.5.",
        "B and ",
        "most likely ",
    ],
)
def test_hostile_lengths_come_to_an_end(piece: str) -> None:
    """Quadratic time over 100 kB would be minutes; whether it ends is what is tested, not how fast."""
    reply = piece * (100_000 // len(piece))
    assert extract(f"{reply}\n\nAnswer: B", ["CT", "MRI", "a a a a"]).index in {1, None}


class TestDeniedOrNamedBeside:
    """Replies that were once read as something that they do not say."""

    def test_an_option_that_is_called_unlikely_is_not_chosen(self) -> None:
        assert letter("Option B is less likely. Option C is the most consistent with the image findings.") == "C"
        assert letter("B seems unlikely; the answer is C") == "C"
        assert letter("The answer is C. C is unlikely.") is None

    @pytest.mark.parametrize("reply", ["The wrong answer is B.", "The least likely option is D.", "The other answers are wrong: A"])
    def test_what_is_said_to_be_another_answer_is_none(self, reply: str) -> None:
        assert letter(reply) is None
        assert letter(f"The best answer is C. {reply}") == "C"

    def test_a_denial_behind_an_answer_is_of_its_own_letter(self) -> None:
        assert letter("The answer is C, and B is wrong.") == "C"

    def test_an_option_with_the_letter_of_another_is_neither(self) -> None:
        assert letter("<answer>Pneumothorax (C)</answer>") is None
        assert letter("<answer>Pneumothorax (B)</answer>") == "B"
        vitamins = [f"Vitamin {name} deficiency" for name in ("A", "B12", "C", "D")]
        assert letter("This is rickets: A. Vitamin D deficiency", vitamins) is None
        assert letter("This is a vitamin D deficiency", vitamins) == "D"

    def test_a_plural_is_named_beside_another(self) -> None:
        assert letter("The chest X-ray shows bilateral pleural effusions and pulmonary edema.") is None
        assert letter("Pleural effusions are seen, but no pneumothorax.") == "C"
        assert letter("Both kidneys are small.", ["Kidney", "Kidneys"]) == "B"
        assert letter("Nodules and a mass.", ["Nodule", "Mass"]) is None
        assert letter("The lungs are clear.", ["Lung", "Heart"]) is None

    def test_json_ends_where_its_value_ends(self) -> None:
        assert letter('{"answer": "Pneumonia", "explanation": "no meniscus, so pneumothorax is excluded, and edema"}') == "A"
        assert letter('{"answer": "B", "alternative_answer": "C"}') == "B"

    def test_a_letter_in_angle_brackets_is_no_bold_type(self) -> None:
        assert letter("Answer: <B>") == letter("<B>") == letter("<b>B</b>") == "B"

    def test_chosen_in_chinese(self) -> None:
        chosen, should, not_so = "\u56e0\u6b64\u9009", "\u5e94\u9009\u62e9", "\u4e0d\u5e94\u9009"
        assert [letter(f"{words}B\u3002") for words in (chosen, should, not_so)] == ["B", "B", None]


def labelled(split: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parents[3] / "bench" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [r for r in map(json.loads, lines) if r["split"] == split and r["kind"] == "choice"]


def test_the_labelled_set_that_was_open_is_read_as_labelled() -> None:
    assert [r["id"] for r in labelled("open") if letter(r["reply"], r["options"]) != r["gold"]] == []


def test_of_the_replies_written_later_none_is_misread_in_silence() -> None:
    records = labelled("later")
    read = {r["id"]: letter(r["reply"], r["options"]) for r in records}
    assert [r["id"] for r in records if read[r["id"]] not in {None, r["gold"]}] == []
    assert sum(read[r["id"]] is None and r["gold"] is not None for r in records) < 20
