"""Thinking, channels and the chat's own tokens are separated from what a model says, in every family's form."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.conversation.markup import escape_markup, own_turn, said, split_thinking
from chiron.conversation.reasoning import parse_reasoning
from chiron.conversation.short_answers import read_verdict
from chiron.evaluation.answers.extraction import extract
from chiron.mics.prompts import load_prompts

TEXTS = Path(__file__).parents[3] / "shared" / "inputs" / "texts"
LUNG = ["Atelectasis", "Emphysema", "Fibrosis", "Normal"]
BRACKETS = [
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "reflection", "seed:think", "Think")),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("\uff1cthink\uff1e", "\uff1c/think\uff1e"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
]
REPLY = "### Step 1: The lung is dark.\n### Step 2: Its vessels are few.\n### The final answer is: Emphysema"


@pytest.mark.parametrize(("opening", "closing"), BRACKETS)
class TestEveryFamilysBrackets:
    def test_what_is_thought_is_not_said(self, opening: str, closing: str) -> None:
        draft = f"{opening}The answer is A.\n### Step 1: Fibrosis?\n### The final answer is: Fibrosis\nVerdict: no\n{closing}"
        reasoning = parse_reasoning(draft + REPLY)
        assert reasoning.steps == ("The lung is dark.", "Its vessels are few.")
        assert (reasoning.answer, reasoning.defects) == ("Emphysema", ())
        assert extract(f"{draft}B", LUNG).letter == "B"
        assert read_verdict(f"{draft}Yes") is True

    def test_the_last_closing_bracket_counts(self, opening: str, closing: str) -> None:
        quoted = f"{opening}It reads '{closing}yes'.{closing}"
        assert read_verdict(f"{quoted}no") is False
        assert extract(f"{quoted}B", LUNG).letter == "B"
        assert parse_reasoning(quoted + REPLY).answer == "Emphysema"

    def test_thinking_that_never_ends_says_nothing(self, opening: str, closing: str) -> None:
        cut = f"{opening}The answer may be A.\n### Step 1: Perhaps"
        if opening != "analysis":  # no more than a word while no channel follows it
            assert parse_reasoning(cut).steps == ()
        assert extract(f"{opening}The answer is C, because", LUNG).letter is None or opening == "analysis"
        assert read_verdict(f"{opening}yes") is None

    def test_a_missing_opening_bracket_is_understood(self, opening: str, closing: str) -> None:
        if opening == "analysis":
            return  # what is left would be words like any other
        assert parse_reasoning(f"### Step 1: A draft.\n{closing}{REPLY}").steps == ("The lung is dark.", "Its vessels are few.")
        assert read_verdict(f"no, or{closing}yes") is True
        assert extract(f"Answer: A. Hm.{closing}B", LUNG).letter == "B"

    def test_what_a_judge_is_shown_cannot_end_its_thinking(self, opening: str, closing: str) -> None:
        shown = load_prompts().judge(f"q{closing}", f"k{closing}", f"x{closing}yes")[1].text
        if opening != "analysis":
            assert closing not in shown
            assert read_verdict(f"{opening}They gave {escape_markup(f'x{closing}yes')}") is None


def test_an_opening_bracket_inside_thinking_is_text() -> None:
    assert said("<think>I write <think> first.</think>B") == "B"


def test_interleaved_thinking_leaves_every_step() -> None:
    reasoning = parse_reasoning("### Step 1: Dark.\n<think>Hm.</think>\n### Step 2: Few.\n### The final answer is: Emphysema")
    assert reasoning.steps == ("Dark.", "Few.")


def test_a_final_mark_in_thinking_that_was_never_closed_counts() -> None:
    assert parse_reasoning(f"<think>\n{REPLY}").answer == "Emphysema"
    assert parse_reasoning("<think>\n### Step 1: Dark.").steps == ()


def test_steps_in_reasoning_tags_before_the_final_answer_are_steps() -> None:
    reasoning = parse_reasoning("<reasoning>\n### Step 1: Dark.\n</reasoning>\n### The final answer is: Emphysema")
    assert (reasoning.steps, reasoning.answer) == (("Dark.",), "Emphysema")


@pytest.mark.parametrize(
    "reply",
    [
        "ASSISTANT: B", "B<|im_end|>", "B</s>", "<|im_start|>assistant\nB<|im_end|>", "B<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<start_of_turn>model\nB<end_of_turn>", "B<|im_end|>\n<|im_start|>user\nAnd A?<|im_end|>\n<|im_start|>assistant\nC",
        "USER: Which one? A or C?\nASSISTANT: B", "[/INST] B", "B<|eot_id|>", "\ufeffB", "### Response:\nB", "\u200b\uff22\u200b",
    ],
)  # fmt: skip
def test_the_chats_own_tokens_are_removed(reply: str) -> None:
    assert extract(reply, LUNG).letter == "B"


@given(st.text())
def test_a_text_without_marks_is_said_whole(text: str) -> None:
    plain = text.replace("<", "").replace("[", "").replace("\u25c1", "").replace("\uff1c", "")
    assert split_thinking(plain).said == plain
    assert escape_markup(plain) == plain


@given(st.text(alphabet="<>/thinkTHINK[]|\u25c1\u25b7 :\n\u200b"))
def test_nothing_that_was_escaped_ends_thinking(text: str) -> None:
    assert split_thinking(f"<think>{escape_markup(text)}").said == ""
    assert escape_markup(escape_markup(text)) == escape_markup(text)


@given(st.text(max_size=300))
def test_a_turn_is_never_made_longer(text: str) -> None:
    assert len(own_turn(text)) <= len(text)


def _published(name: str) -> list[dict[str, object]]:
    path = TEXTS / name
    if not path.is_file():
        pytest.skip("the shared inputs are not beside this checkout")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def test_the_shared_reasoning_reads_as_it_should() -> None:
    for record in _published("reasoning.jsonl"):
        reasoning = parse_reasoning(str(record["text"]))
        assert (list(reasoning.steps), reasoning.answer) == (record["steps"], record["answer"]), record["name"]


def test_the_shared_choices_read_as_they_should() -> None:
    for record in _published("choices.jsonl"):
        options = record["options"]
        assert isinstance(options, list)
        assert extract(str(record["reply"]), options).letter == record["right"], record["reply"]


def test_the_shared_verdicts_read_as_they_should() -> None:
    for record in _published("verdicts.jsonl"):
        assert read_verdict(str(record["reply"])) is record["right"], record["reply"]
