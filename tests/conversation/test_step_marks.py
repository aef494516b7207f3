"""No step vanishes without a defect: marks inside lines, odd blanks, odd numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.conversation.reasoning import Defect, Reasoning, parse_reasoning

READ = Reasoning(("Thin bone.", "A flat vertebra."), "Fracture")


@pytest.mark.parametrize(
    "text",
    [
        "Sure. ### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n### The final answer is: Fracture",
        "Of course - **Step 1:** Thin bone.\n**Step 2:** A flat vertebra.\n**Final answer:** Fracture",
        "Certainly! Step 1: Thin bone.\nStep 2: A flat vertebra.\nFinal answer: Fracture",
        "### Step 1: Thin bone. ### Step 2: A flat vertebra. ### The final answer is: Fracture",
        "Step 1: Thin bone. Step 2: A flat vertebra. The final answer is: Fracture",
        "**Step 1:** Thin bone. **Step 2:** A flat vertebra. **Answer:** Fracture",
        "### Step 1.1: Thin bone.\n### Step 1.2: A flat vertebra.\n### The final answer is: Fracture",
        "### Step 1: Thin bone.\u2028### Step 2: A flat vertebra.\u2029### The final answer is: Fracture",
        "\ufeff### Step 1: Thin bone.\n\u200b### Step\u200b 2: A flat vertebra.\n### The final answer is: Fracture\u200b",
        "###\u00a0Step\u00a01:\u00a0Thin bone.\n###\u3000Step\u20072: A flat vertebra.\n### The\u00a0final\u00a0answer is: Fracture",
        "\uff03\uff03\uff03 St\uff45p \uff11\uff1aThin bone.\n### Step \uff12: A flat vertebra.\n### The final answer is\uff1aFracture",
        "### \u2705 Step 1: Thin bone.\n### \U0001f50d Step 2: A flat vertebra.\n### The final answer is: Fracture",
        "1. **Step 1:** Thin bone.\n2. **Step 2:** A flat vertebra.\n\n**Final Answer:** Fracture",
        "<answer>\n### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n### The final answer is: Fracture\n</answer>",
        "### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n<answer>Fracture</answer>",
        "### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n\n$\\boxed{Fracture}$",
        "### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n### The final answer is: <|begin_of_box|>Fracture<|end_of_box|><|im_end|>",
        'As "### Step 1:" asks:\n### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n### The final answer is: Fracture',
        "ASSISTANT: ### Step 1: Thin bone.\n### Step 2: A flat vertebra.\n### The final answer is: Fracture</s>",
    ],
)
def test_marks_are_found_wherever_they_are(text: str) -> None:
    assert parse_reasoning(text) == READ


def test_substeps_are_steps_of_their_own() -> None:
    text = "### Step 1: a\n### Step 1.1: b\n### Step 1.2: c\n### Step 2: d\n### The final answer is: x"
    assert parse_reasoning(text) == Reasoning(("a", "b", "c", "d"), "x")


@pytest.mark.parametrize(
    "text",
    ["Sure. Step one, the bone is thin.\n### Step 2: b\n### The final answer is: x", "First, a.\n**Step 2:** b\n**Final answer:** x"],
)
def test_a_first_step_that_cannot_be_told_is_a_defect(text: str) -> None:
    reasoning = parse_reasoning(text)
    assert reasoning.steps == ("b",)
    assert reasoning.defects == (Defect.MISSING_FIRST_STEP,)
    assert parse_reasoning(text, after=1).defects == ()


def test_mentions_of_steps_are_no_marks() -> None:
    text = "I go from Step 1: look, to Step 2: name.\n### Step 1: As Step 2: will show, a.\n### Step 2: b\n### The final answer is: x"
    assert parse_reasoning(text) == Reasoning(("As Step 2: will show, a.", "b"), "x")


words = st.lists(st.text(st.characters(categories=["Ll"], max_codepoint=0x2FF), min_size=1, max_size=8), min_size=1, max_size=6).map(
    " ".join
)


@pytest.mark.slow
@given(
    st.lists(words.filter(lambda w: "step" not in w), min_size=1, max_size=5),
    st.sampled_from(["", "Sure. ", "Here is my reasoning: ", "Hello!\n\n", "\ufeff", "<think>hm</think>", "**Reasoning** "]),
    st.sampled_from(["\n", " ", "\n\n", "\u2028", " \u00a0 ", "\r\n"]),
    st.sampled_from(["### Step {}: ", "**Step {}:** ", "## Step {}\u00a0: ", "#### Step\u00a0{}: "]),
)
def test_every_step_is_kept_whatever_is_around_it(steps: list[str], preamble: str, between: str, mark: str) -> None:
    marked = [mark.format(number) + f"{step}." for number, step in enumerate(steps, start=1)]
    reasoning = parse_reasoning(preamble + between.join([*marked, "### The final answer is: x"]))
    assert reasoning == Reasoning(tuple(f"{step}." for step in steps), "x")
