"""The reward is 1 where the evaluation counts an answer as right, and 0 elsewhere, in the signature of each trainer."""

import pytest

import chiron
from chiron.errors import InputError
from chiron.evaluation.reward import answer_reward, compute_score, is_right

OPTIONS = ["Renal cyst", "Kidney stone", "Abscess"]


@pytest.mark.parametrize(
    ("reply", "answer", "options", "right"),
    [
        ("### Step 1: A line.\n### The final answer is: Rib fracture", "rib fracture", (), True),
        ("### Step 1: Rib fracture.\n### The final answer is: Pneumothorax", "Rib fracture", (), False),
        ("<think>Rib fracture?</think>\n### The final answer is: the rib fracture.", "Rib fracture", (), True),
        ("### Step 1: It is a rib fracture.", "Rib fracture", (), False),
        ("", "Rib fracture", (), False),
        ("### The final answer is: B", "Kidney stone", OPTIONS, True),
        ("### The final answer is: B. Kidney stone", "B", OPTIONS, True),
        ("### The final answer is: A or B", "Kidney stone", OPTIONS, False),
        ("### The final answer is: Abscess", "Kidney stone", OPTIONS, False),
        ("### The final answer is: No, it is normal.", "No", (), True),
        ("### The final answer is: Yes", "no", (), False),
        ("### The final answer is: Pneumothorax (right)", "Pneumothorax (left)", (), False),
        ("### The final answer is: Pneumothorax (Left).", "Pneumothorax (left)", (), True),
        ("### The final answer is: pneumonia (absent)", "pneumonia", (), False),
        ("### The final answer is: (not) pneumonia", "pneumonia", (), False),
        ("### The final answer is: pneumonia (or edema, or effusion)", "pneumonia", (), False),
        ("### The final answer is: > 5 cm", "< 5 cm", (), False),
        ("### The final answer is: -3", "3", (), False),
        ("### The final answer is: positive (+)", "positive (-)", (), False),
        ("<think>maybe <answer>A</answer>", "Renal cyst", OPTIONS, False),
        ("<think>maybe <answer>Renal cyst</answer>", "Renal cyst", (), False),
        ("<think>maybe <answer>Yes</answer>", "yes", (), False),
        ("### The final answer is: +", "-", (), False),
        ("### The final answer is: +", "+", (), True),
    ],
)
def test_a_reply_is_right_if_the_evaluation_counts_it(reply: str, answer: str, options: list[str], right: bool) -> None:
    assert is_right(reply, answer, options) is right
    if options and "<think>" not in reply:
        assert (chiron.read_choice(reply, options) == "B") is right


def test_trl_gets_a_number_for_each_completion_of_text_or_turns() -> None:
    said = "### The final answer is: Kidney stone"
    completions = [said, [{"role": "assistant", "content": said}], [{"role": "assistant", "content": [{"type": "text", "text": "A"}]}]]
    rewards = answer_reward(completions, answer=["Kidney stone"] * 3, options=[[], None, OPTIONS], prompts=["?"] * 3, pass_rate=[0.5] * 3)
    assert rewards == [1.0, 1.0, 0.0]


def test_ms_swift_names_the_answer_solution() -> None:
    assert answer_reward(["### The final answer is: B"], solution=["Kidney stone"], options=[OPTIONS]) == [1.0]


def test_verl_gets_a_number_for_one_reply() -> None:
    assert compute_score("chiron", "### The final answer is: B", "Kidney stone", {"options": OPTIONS}) == 1.0
    assert compute_score(data_source="chiron", solution_str="### The final answer is: x", ground_truth="y", extra_info=None) == 0.0


def test_a_row_without_a_usable_answer_is_reported() -> None:
    with pytest.raises(InputError, match="needs the known answers"):
        answer_reward(["x"])
    with pytest.raises(InputError, match="known answer is empty"):
        answer_reward(["x"], answer=[" "])
    with pytest.raises(InputError, match="cannot be compared with 'Tumor'"):
        answer_reward(["x"], answer=["Tumor"], options=[OPTIONS])
