"""Open answers are the same in other units, another order, the plural or a listed abbreviation, and never the same as their opposite."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.open_answers import exact_match, final_text, normal_form, token_recall

SAME = """
3.0 cm = 3 cm
3cm = 3 cm.
30 mm = 3 cm
.5 cm = 0.5 cm
3,5 cm = 3.5 cm
3 x 4 cm = 30 mm x 40 mm
1,000 ml = 1 L
50 % = 50 percent
two = 2
left lung = Lung, left
the left lung = Lung (left)
The Liver. = liver
right upper lobe = lobe, upper right
upper left lobe = left upper lobe
mass and effusion = effusion, mass
left kidney, liver = Liver and left kidney
lungs = Lung
metastases = a metastasis
biopsies = biopsy
vertebrae = vertebra
CT = Computed tomography (CT)
MR = magnetic resonance imaging
X-ray = xray
chest x-rays = CXR
RUL = upper lobe, right
H&E stain = hematoxylin and eosin
NSCLC = non-small cell lung cancer
w/o mass = without a mass
haemorrhage = hemorrhage
HER2 + = HER2+
HER2 (+) = HER2+
HER2 ( \u2212 ) = HER2-
Hepatitis A = hepatitis A
"""
DIFFERENT = """
left lung = right lung
left liver = liver
mass = no mass
5 mm = <5 mm
<5 mm = >5 mm
no mass, effusion = mass, no effusion
left lung, right kidney = right lung, left kidney
left lung and right kidney = right lung and left kidney
effusion (left) = effusion (right)
.5 cm = 5 cm
3 = 3 cm
3.5 cm = 35 cm
30 mg = 30 g
hepatitis A = hepatitis
vitamin A deficiency = vitamin deficiency
-20 HU = 20 HU
HER2+ = HER2-
HER2 + = HER2 -
HER2 (+) = HER2 (-)
nodes (-) for tumor = nodes (+) for tumor
positive(+) = positive
HER2+ = HER2
2 of 3 = 3 of 2
2-3 cm = 3-2 cm
anterior wall of left ventricle = left wall of anterior ventricle
calcified nodule, cystic mass = cystic nodule, calcified mass
increased rate, decreased pressure = decreased rate, increased pressure
non-small cell lung cancer = SCLC
benign = malignant
T1 = T2
? = !
"""


def pairs(text: str) -> list[tuple[str, str]]:
    return [(a, b) for a, _, b in (line.partition(" = ") for line in text.strip().splitlines())]


@pytest.mark.parametrize(("given_", "known"), pairs(SAME))
def test_other_spellings_of_an_answer_are_the_same(given_: str, known: str) -> None:
    assert exact_match(given_, known)
    assert exact_match(known, given_)


@pytest.mark.parametrize(("given_", "known"), pairs(DIFFERENT))
def test_other_answers_are_not(given_: str, known: str) -> None:
    assert not exact_match(given_, known)
    assert exact_match(known, known)


def test_no_answer_matches_nothing() -> None:
    assert not exact_match(None, "lung")
    assert not exact_match("", "")
    assert not exact_match(" ", " ")


OPPOSITES = [
    tuple(pair.split("/"))
    for pair in (
        "left/right upper/lower anterior/posterior superior/inferior medial/lateral proximal/distal benign/malignant acute/chronic"
        " increased/decreased present/absent positive/negative hyperintense/hypointense with/without normal/abnormal bilateral/unilateral"
    ).split()
]
opposites = st.sampled_from([*OPPOSITES, *((b, a) for a, b in OPPOSITES)])
nouns = st.sampled_from("lung lungs kidney masses effusion nodule fracture CT lobe ventricle wall artery tumor 3 cm 30 mm two".split())
joints = st.sampled_from([" ", " ", ", ", " and ", " of the ", " (", ") ", "; ", " with ", "-"])


@st.composite
def answers(draw: st.DrawFn, word: str) -> tuple[str, str, str]:
    """Words before, the word, and words behind, joined in any manner."""
    before, behind = ("".join(draw(nouns) + draw(joints) for _ in range(draw(st.integers(0, 3)))) for _ in range(2))
    return before, word, draw(joints) + behind


@given(st.data(), opposites)
def test_opposites_are_never_the_same(data: st.DataObject, opposite: tuple[str, str]) -> None:
    before, word, behind = data.draw(answers(opposite[0]))
    assert not exact_match(before + word + behind, before + opposite[1] + behind)


@given(st.data(), st.sampled_from(["no", "not", "without", "absence of", "negative for", "non", "never"]))
def test_a_denial_is_never_the_same_as_what_it_denies(data: st.DataObject, denial: str) -> None:
    before, word, behind = data.draw(answers(data.draw(nouns)))
    assert not exact_match(f"{before}{denial} {word}{behind}", before + word + behind)


@pytest.mark.slow
@given(opposites, nouns, nouns, st.sampled_from([", ", " and ", "; ", " or ", " with ", " "]))
def test_opposites_that_change_places_are_never_the_same(opposite: tuple[str, str], first: str, second: str, joint: str) -> None:
    assume(normal_form(first) != normal_form(second))
    here, there = opposite
    assert not exact_match(f"{here} {first}{joint}{there} {second}", f"{there} {first}{joint}{here} {second}")


@given(
    st.decimals("0.001", "9999", places=3), st.decimals("0.001", "9999", places=3), st.sampled_from(["", " cm", "mm", " %", " HU", " kg"])
)
def test_numbers_are_the_same_exactly_if_they_are_equal(a: object, b: object, unit: str) -> None:
    assert exact_match(f"{a}{unit}", f"{b}{unit}") == (a == b)


@settings(max_examples=40)
@given(st.text(max_size=20), st.text(max_size=20))
@example("&", "")
@example("and", "&")
def test_any_text_has_a_form_and_matches_both_ways(a: str, b: str) -> None:
    assert exact_match(a, b) == exact_match(b, a)
    assert exact_match(a, a) == (a.strip() != "")


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


@given(st.text(), st.sampled_from([None, *ReplyFormat]))
def test_any_reply_has_a_final_text_or_none(reply: str, family: ReplyFormat | None) -> None:
    text = final_text(reply, family)
    assert text is None or text
    assert token_recall(text, "left infarct") <= 1.0


def test_steps_without_an_end_have_no_final_text() -> None:
    step = "### Step 1: No shift is seen.\n### Step 2: The ventricle is narrow"
    assert final_text(step) is None
    assert final_text(f"{step}.\n\nA large haematoma") == "A large haematoma"


def test_recall_counts_the_known_words() -> None:
    assert token_recall("There is an acute infarct", "Acute left infarct") == pytest.approx(2 / 3)
    assert token_recall("infarct infarct infarct", "acute infarct") == pytest.approx(1 / 2)
    assert token_recall(None, "infarct") == 0.0
    with pytest.raises(InputError, match="empty"):
        token_recall("infarct", " ")
