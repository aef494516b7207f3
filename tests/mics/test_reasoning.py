"""Reasoning is read as far as it can be; where it can't, the defect has a name."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.conversation.reasoning import Defect, continue_from, parse_reasoning, render_reasoning, render_steps
from chiron.conversation.short_answers import read_verdict
from chiron.mics.answer_leak import content_words, leak_phrase, names_answer, steps_before_answer

plain = (
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=40)
    .map(lambda t: " ".join(t.split()))
    .filter(
        lambda t: (
            t and not any(c in t for c in "#*_`>\\") and "step" not in t.lower() and "final" not in t.lower() and not t.endswith("---")
        )
    )
)


@pytest.mark.slow
@given(st.lists(plain, min_size=1, max_size=6), plain.filter(lambda t: "$" not in t))
def test_what_is_rendered_is_read_back(steps: list[str], answer: str) -> None:
    reasoning = parse_reasoning(render_reasoning(tuple(steps), answer))
    assert reasoning.steps == tuple(steps)
    assert reasoning.answer == answer
    assert reasoning.defects == ()


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    reasoning = parse_reasoning(text)
    assert all(step.strip() for step in reasoning.steps)
    assert (reasoning.answer is None) == (Defect.NO_FINAL_ANSWER in reasoning.defects or Defect.EMPTY_FINAL_ANSWER in reasoning.defects)
    assert bool(reasoning.steps) or reasoning.defects


@given(st.text())
def test_reading_what_was_read_changes_nothing(text: str) -> None:
    once = parse_reasoning(text)
    again = parse_reasoning(render_reasoning(once.steps, once.answer or "x"))
    assert again.steps == once.steps


@pytest.mark.parametrize(
    "text",
    [
        "### Step 1: a b\n### Step 2: c\n### The final answer is: D e",
        "## Step 1: a b\n## Step 2: c\n## The final answer is: D e",
        "# Step 1\na b\n# Step 2\nc\n# Final Answer\nD e",
        "**Step 1:** a b\n**Step 2:** c\n**The final answer is:** D e",
        "**Step 1**: a b\n\n**Step 2**: c\n\n**Final answer**: D e",
        "Step 1: a b\nStep 2: c\nThe final answer is: D e",
        "Step 1. a b\nStep 2. c\nFinal answer: D e",
        "STEP 1) a b\nSTEP 2) c\nFINAL ANSWER: D e",
        "### Step 1 - a b\n### Step 2 - c\n### The final answer is D e",
        "### Step 1 a b\n### Step 2 c\n### The final answer is: **D e**",
        "- Step 1: a b\n- Step 2: c\n- The final answer is: D e",
        "### step 1: a\nb\n### step 2: c\n\n### The Final Answer is:\n\nD e",
        "<think>Step 1: no\nThe final answer is: no</think>\n### Step 1: a b\n### Step 2: c\n### The final answer is: D e",
        "Sure, here is my reasoning.\n\n### Step 1: a b\n### Step 2: c\n### The final answer is: D e\n\nI hope this helps!",
        "```markdown\n### Step 1: a b\n### Step 2: c\n### The final answer is: D e\n```",
        "### Step 1: a b\r\n### Step 2: c\r\n### The final answer is: D e\r\n",
        "### Step 1: a b\n### Step 2: c\n### The final answer is: \\boxed{D e}",
        "### Step 1: a b\n### Step 2: c\n### The final answer is: X\n### The final answer is: D e",
        "### Step 1: a b\n### Step 2: c\n### The final diagnosis is: D e",
        "### Step 1: a b\n### Step 2: c\n### Answer: D e",
        "**Step 1:** a b\n**Step 2:** c\n**Answer:** D e",
        "Step 1: a b\nStep 2: c\nThe answer is: D e",
        "### Step 1: a b\n### Step 2: c\n### Conclusion: D e",
        "### Reasoning Step 1: a b\n### Reasoning Step 2: c\n### Therefore, the final answer is: D e",
    ],
)
def test_strays_from_the_form_are_read_all_the_same(text: str) -> None:
    reasoning = parse_reasoning(text)
    assert reasoning.steps == ("a b", "c")
    assert reasoning.answer == "D e"
    assert reasoning.defects == ()


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        ("", (Defect.EMPTY, Defect.NO_STEPS, Defect.NO_FINAL_ANSWER)),
        ("It is a fracture.", (Defect.NO_STEPS, Defect.NO_FINAL_ANSWER)),
        ("### Step 1: a", (Defect.NO_FINAL_ANSWER,)),
        ("### Step 1: a\n### The final answer is:", (Defect.EMPTY_FINAL_ANSWER,)),
        ("### Step 1: a\n### Step 2:\n### The final answer is: x", (Defect.EMPTY_STEP,)),
        ("### Step 1: a\n### Step 1: b\n### The final answer is: x", (Defect.RESTARTED_NUMBERING,)),
        ("### The final answer is: x", (Defect.NO_STEPS,)),
    ],
)
def test_what_cannot_be_read_is_a_named_defect(text: str, defects: tuple[Defect, ...]) -> None:
    assert parse_reasoning(text).defects == defects


def test_running_text_is_no_mark() -> None:
    reasoning = parse_reasoning(
        "### Step 1: As in\nStep 2 below we look.\nThe final answer will follow.\n### Step 2: b\n### The final answer is: x"
    )
    assert reasoning.steps == ("As in Step 2 below we look. The final answer will follow.", "b")


def test_numbering_goes_on_from_a_prefix() -> None:
    assert render_steps(("c", "d"), first=3) == "### Step 3: c\n### Step 4: d"


@pytest.mark.parametrize(
    "text", ["### Step 3: c\n### Step 4: d", "### Step 1: c\n### Step 2: d", "### Step 1: a.\n### Step 2: B\n### Step 3: c\n### Step 4: d"]
)
def test_a_mentor_may_go_on_start_numbering_anew_or_repeat_the_prefix(text: str) -> None:
    assert continue_from(("A", "b"), parse_reasoning(text)) == ("A", "b", "c", "d")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**Yes**, both name the same disease.", True),
        ("no", False),
        ("No - yes would be wrong", False),
        ("NO\nyes", False),
        ("<think>is it? yes</think>\nno", False),
        ("The answer is yes", None),
        ("not yes", None),
        ("yesterday", None),
        ("", None),
        ("1", None),
        ("maybe yes", None),
    ],
)
def test_a_verdict_is_the_first_word(reply: str, verdict: bool | None) -> None:
    assert read_verdict(reply) is verdict


@given(st.text())
def test_only_a_reply_that_begins_with_yes_is_a_yes(reply: str) -> None:
    letters = "".join(c for c in reply.lower() if c.isalpha())
    if read_verdict(reply) is True and "think" not in reply.lower():
        assert letters.startswith("yes")
    assert read_verdict(f"yes {reply.replace('<', '')}") is True
    assert read_verdict(f"no {reply.replace('<', '')}") is False


@pytest.mark.parametrize(
    ("step", "answer", "named"),
    [
        ("This is a pacemaker with a fractured lead: pacemaker lead fracture.", "Pacemaker lead fracture.", True),
        ("The lead of the pacemaker shows a fracture.", "Pacemaker lead fracture.", True),
        ("The lead is interrupted.", "Pacemaker lead fracture.", False),
        ("Rib fractures are seen.", "Rib fracture", True),
        ("So it is a cardiac lipoma.", "Cardiac lipoma (a benign primary cardiac neoplasm)", True),
        ("Yes, there is.", "Yes", False),
        ("There is a mass.", "A", False),
        ("No effusion is seen.", "No", False),
        ("Nothing.", "No", False),
        ("", "Rib fracture", False),
        ("Anything", "...", False),
        ("Anomalous left coronary artery with an interarterial course", "Anomalous interarterial course of the left coronary artery", True),
    ],
)
def test_a_step_names_the_answer_by_its_content_words(step: str, answer: str, named: bool) -> None:
    assert names_answer(step, answer) is named


def test_content_words_leave_out_what_means_nothing() -> None:
    assert content_words("The most likely diagnosis is the fracture of a rib (seventh).") == {"diagnosis", "fracture", "rib"}
    assert content_words("No") == {"no"}
    assert content_words("(only brackets)") == {"only", "bracket"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("rib (a [b) c]", {"rib", "c"}),
        ("rib [a (b] c)", {"rib", "c"}),
        ("rib (a (b) c)", {"rib", "c"}),
        ("rib) (a", {"rib"}),
        ("rib (never closed", {"rib", "never", "closed"}),
        ("rib [never) closed (a) b", {"rib", "never", "closed", "b"}),
    ],
)
def test_brackets_go_from_the_first_that_opens_to_the_first_that_closes(text: str, left: set[str]) -> None:
    assert content_words(text) == left


@pytest.mark.parametrize("piece", ["(", "[", "([", "(a", ") (", "(] "])
def test_no_answer_takes_long_to_look_for(piece: str) -> None:
    """A hundred thousand brackets that never close once took minutes, for every step anew."""
    began = time.process_time()
    steps_before_answer(("a step",) * 1000, piece * 100_000)
    assert time.process_time() - began < 5


def test_steps_before_the_answer() -> None:
    assert steps_before_answer(("a", "a rib fracture", "c"), "Rib fracture") == ("a",)
    assert steps_before_answer(("a", "b"), "Rib fracture") == ("a", "b")
    assert steps_before_answer(("rib fracture", "b"), "Rib fracture") == ()


@pytest.mark.parametrize(
    "text",
    [
        "The correct answer is given as a rib fracture.",
        "The case information states that the rib is broken.",
        "As stated in the answer, it is broken.",
        "This matches the provided answer.",
        "Since the correct answer is a fracture, we look for a line.",
        "We know the diagnosis from the report.",
        "The ground truth is a fracture.",
        "The provided findings describe a fracture.",
        "The radiology report states a fracture.",
        "The correct diagnosis provided is a fracture.",
        "We are told that it is broken.",
    ],
)
def test_giving_away_the_answer_is_noticed(text: str) -> None:
    assert leak_phrase(f"The rib is seen. {text}") is not None


@pytest.mark.parametrize(
    "text",
    [
        "The seventh rib shows a cortical step.",
        "The clinical history of a fall supports trauma.",
        "Correct positioning is given.",
        "The patient's known hypertension is stated in the history.",
        "The most likely diagnosis is a fracture.",
        "Given that the margin is smooth, a benign lesion is likely.",
        "The findings are consistent with a fracture.",
        "The clinical data indicates a chronic course.",
        "This is consistent with the known diagnosis of neurofibromatosis.",
    ],
)
def test_ordinary_reasoning_gives_nothing_away(text: str) -> None:
    assert leak_phrase(text) is None


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["#", "# > * ", "the final answer ", "step ", "**", "so, ", "<think>", "### Step 1: a\n", " \t"])
def test_no_text_takes_long_to_read(piece: str) -> None:
    """A line of hashes once took for ever; a bound on time would be a benchmark, so this one only has to end."""
    assert parse_reasoning(piece * 20_000).answer is None or "final" in piece
    assert leak_phrase(piece * 20_000) is None
    assert read_verdict(piece * 20_000) is None


@pytest.mark.parametrize(
    ("words", "needed"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (9, 8), (10, 8), (15, 12)],
)
def test_an_answer_of_up_to_three_words_is_named_by_all_of_them_and_a_longer_one_by_four_in_five(words: int, needed: int) -> None:
    answer = [f"word{chr(97 + n)}" for n in range(words)]
    assert names_answer(" ".join(answer[:needed]), " ".join(answer))
    assert not names_answer(" ".join(answer[: needed - 1]), " ".join(answer))
