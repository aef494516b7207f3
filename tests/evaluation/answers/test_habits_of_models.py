"""How models really write: they correct themselves, tick boxes, compare, answer in other languages. Unread is better than wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chiron
from chiron.evaluation.answers.extraction import extract

BRAIN = ["Glioma", "Metastasis", "Meningioma", "Abscess"]
NUMBERS = ["> 50%", "20 HU", "-20 HU", "< 50%"]
LISTS = ["Fever", "Cough", "Rash", "A and B", "B and C", "A, B and C are correct"]
CHINESE = ["\u80ba\u708e", "\u6c14\u80f8", "\u80f8\u8154\u79ef\u6db2", "\u80ba\u6c34\u80bf"]


def read(reply: str, options: list[str] = BRAIN) -> str | None:
    return extract(reply, options).letter


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The answer is B. Sorry, D.", "D"),
        ("B\n\nSorry, I mean C.", "C"),
        ("Answer: B\n\nOops, it should be C.", "C"),
        ("The answer is A. Scratch that, D.", "D"),
        ("I would say B. No, make that D.", "D"),
        ("B\n\nOn second thought, C.", "C"),
        ("<answer>B</answer>\nSorry, D.", "D"),
        ("\\boxed{B} Sorry, I mean C.", "C"),
        ("Die Antwort ist B. Nein, C.", "C"),
        ("B\n\nSorry, I misread the image. It shows a meningioma.", None),
        ("Answer: B. On reflection A is better.", None),
        ("The answer is B. But C is better.", None),
        ("B. Sorry for the short answer.", "B"),
        ("Glioma. No, abscess.", None),
    ],
)
def test_a_correction_replaces_what_was_said_or_leaves_nothing(reply: str, expected: str | None) -> None:
    assert read(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            (
                "| Option | Fit |\n|-|-|\n| A. Glioma | \u274c |\n| B. Metastasis | \u2705 |\n| C. Meningioma | \u274c |"
                "\n| D. Abscess | \u274c |"
            ),
            "B",
        ),
        ("| A | Glioma | \u2717 |\n| B | Metastasis | \u2717 |\n| C | Meningioma | \u2713 |\n| D | Abscess | \u2717 |", "C"),
        ("\u274c A. Glioma\n\u274c B. Metastasis\n\u2705 C. Meningioma\n\u274c D. Abscess", "C"),
        ("- [ ] A. Glioma\n- [x] B. Metastasis\n- [ ] C. Meningioma\n- [ ] D. Abscess", "B"),
        ("- [x] B.", "B"),
        ("A \u2717 B \u2713 C \u2717 D \u2717", "B"),
        ("\u2610 A \u2611 B \u2610 C \u2610 D", "B"),
        ("B \u2714\ufe0f", "B"),
        ("\u2705 Glioma\n\u274c Abscess", "A"),
        ("\u2705 A\n\u2705 B", None),
        ("\u274c A\n\u274c B", None),
        ("\u2705 A is wrong", None),
        ("| Sign | A | B |\n|---|---|---|\n| Ring | \u2705 | \u274c |\n| Edema | \u274c | \u2705 |", None),
        ("| A | Glioma | \u274c |\n| B | Metastasis | \u2705 |\n\nThe answer is A.", None),
        ("| A | Glioma | \u274c |\n| B | Metastasis | \u2705 |\n\nThe answer is B.", "B"),
        ("- [x] A\n\u2717 B", None),
    ],
)
def test_check_marks_choose_what_they_tick(reply: str, expected: str | None) -> None:
    assert read(reply) == expected


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("C. -20 HU", NUMBERS, "C"),
        ("Answer: C. -20 HU", NUMBERS, "C"),
        ("Answer: -20 HU", NUMBERS, "C"),
        ("A. > 50%", NUMBERS, "A"),
        ("\\boxed{D. < 50%}", NUMBERS, "D"),
        ("B. -20 HU", NUMBERS, None),
        ("C. 20 HU", NUMBERS, None),
        ("B. -$1,500", ["$1,500", "-$1,500"], "B"),
        ("F. A, B and C are correct", LISTS, "F"),
        ("The answer is F. A, B and C are correct", LISTS, "F"),
        ("Answer: D. A and B", LISTS, "D"),
        ("D. it can't be A or B", BRAIN, "D"),
        ("A necrotic center, corresponding to option D.", BRAIN, "D"),
        ("It comes down to A or C. The dural tail argues for C.", BRAIN, "C"),
        ("Nothing argues for C.", BRAIN, None),
        ("Some would argue for C.", BRAIN, None),
        ("The site argues for A, but the calcification is more typical of C.", BRAIN, None),
        ("Meningioma is most likely. Metastasis is second.", BRAIN, "C"),
        ("Meningioma is most likely. However, the ring fits an abscess.", BRAIN, None),
        ("Meningioma is most likely in older patients. This is an abscess.", BRAIN, None),
        ("<choice>A</choice>", BRAIN, "A"),
        ("ASSISTANT: B", BRAIN, "B"),
        ("The slice is axial. B.", BRAIN, "B"),
        ("A: B", BRAIN, None),
        ("A (10%), B (70%)", BRAIN, None),
        ('{"A": false, "B": true}', BRAIN, None),
        ("| A | 10% |\n| B | 70% |", BRAIN, None),
        ("-3", ["3", "4"], None),
        ("Option A was tempting.\n\nB. Metastasis", BRAIN, "B"),
        ("Glioma versus abscess", BRAIN, None),
        ("C was my first thought, but B fits better.", BRAIN, None),
        ("I don't think it's B.", BRAIN, None),
        ("I see an axial slice. B\n\nQuestion: And now?\nAnswer: A", BRAIN, None),
    ],
)
def test_labels_arguments_and_tags(reply: str, options: list[str], expected: str | None) -> None:
    assert read(reply, options) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *((text, "B") for text in (
            "\u9009B", "\u9009B\u3002", "\u6b63\u786e\u9009\u9879\u662fB", "\u3010\u7b54\u6848\u3011B", "\u7b54\u6848\uff1aB\u3002",
            "B\u9009\u9879\u6b63\u786e",
            "\u6392\u9664A\uff0c\u9009B", "La respuesta correcta es B.", "Respuesta: B", "La opci\u00f3n correcta es la B.",
            "La bonne r\u00e9ponse est B.",
            "R\u00e9ponse : B", "La r\u00e9ponse est l'option B.", "Die richtige Antwort ist B.", "Die Antwort lautet B.",
            "A resposta correta \u00e9 B.",
            "La risposta corretta \u00e8 B.",
        )),
        *((text, None) for text in (
            "\u4e0d\u9009B", "\u7b54\u6848\u4e0d\u662fB", "\u9009A\u6216B", "\u53ef\u9009A\u6216B",
            "\u82e5\u53d1\u70ed\u5219\u9009B\uff0c\u5426\u5219\u9009C", "La respuesta no es B.",
            "La r\u00e9ponse n'est pas B.", "La r\u00e9ponse est A ou B.", "La mauvaise r\u00e9ponse est B.",
            "Die Antwort ist nicht B.", "Die falsche Antwort ist B.",
            "La r\u00e9ponse est \u00e0 droite",
        )),
    ],
)  # fmt: skip
def test_other_languages(reply: str, expected: str | None) -> None:
    assert read(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("\u5f71\u50cf\u663e\u793a\u6c14\u80f8\u3002", "B"),
        ("\u672a\u89c1\u6c14\u80f8\uff0c\u53ef\u89c1\u80f8\u8154\u79ef\u6db2\u3002", "C"),
        ("\u6ca1\u6709\u6c14\u80f8", None),
        ("\u8fd9\u662f\u80ba\u708e\u8fd8\u662f\u6c14\u80f8\uff1f", None),
        ("\u4e0d\u4ec5\u6709\u6c14\u80f8\uff0c\u8fd8\u6709\u80f8\u8154\u79ef\u6db2", None),
        ("\u53ef\u4ee5\u6392\u9664\u80ba\u708e\uff0c\u8bca\u65ad\u4e3a\u6c14\u80f8", "B"),
    ],
)
def test_an_options_text_in_a_chinese_sentence(reply: str, expected: str | None) -> None:
    assert read(reply, CHINESE) == expected


FORMS = [
    "The answer is {}.", "Answer: {}", "**Answer: {}**", "\\boxed{{{}}}", "<answer>{}</answer>", "### The final answer is: {}",
    "The correct option is ({}).",
    "I would choose {}.", "\u6b63\u786e\u7b54\u6848\u662f{}", "La respuesta correcta es {}.", "La bonne r\u00e9ponse est {}.",
    "Die richtige Antwort ist {}.",
]  # fmt: skip
PREAMBLES = [
    "", "Sure! ", "Sorry, this took a while. ", "Hmm, wait. ", "Let me think.\n\n", "<think>A? The answer is A.</think>\n",
    "A necrotic mass is seen. ",
    "Vitamin D is low. ", "\u2705 The quality is good.\n\n", "| Sign | Seen |\n|---|---|\n| Ring | \u2713 |\n\n",
    "Option A was tempting.\n\n", "ASSISTANT: ",
    "\ufeff", "I do not see edema. ", "A or D? ", "\u25c1think\u25b7Answer: A\u25c1/think\u25b7", "Not A. ",
    "First I thought of A, but no.\n\n",
]  # fmt: skip
ENDINGS = [
    "",
    "\n",
    "\n\nI hope this helps!",
    "\n\nSorry for the brevity.",
    "</s>",
    "<|im_end|>",
    "\n\nPlease see a physician.",
    "\n\nI am certain.",
]


@given(st.sampled_from(FORMS), st.sampled_from(PREAMBLES), st.sampled_from(ENDINGS), st.sampled_from("BC"))
def test_nothing_around_an_answer_changes_it(form: str, preamble: str, ending: str, letter: str) -> None:
    assert read(preamble + form.format(letter) + ending) == letter


@given(
    st.sampled_from(
        [
            "B",
            "**B**",
            "(B)",
            "Option B",
            "B. Metastasis",
            "Metastasis",
            "\u2705 B",
            "B \u2705",
            "\u9009B",
            "It comes down to A or B. The site argues for B.",
        ]
    ),
    st.sampled_from(PREAMBLES),
    st.sampled_from(ENDINGS),
)
def test_a_bare_answer_is_read_as_itself_or_not_at_all(form: str, preamble: str, ending: str) -> None:
    assert read(preamble + form + ending) in {"B", None}


@given(
    st.sampled_from("ABCD"),
    st.sampled_from("ABCD"),
    st.sampled_from(["{x} or {y}", "{x}, {y}", "\u2705 {x}\n\u2705 {y}", "\u9009{x}\u6216{y}", "Is it {x} or {y}?"]),
)
def test_two_answers_are_none(first: str, second: str, form: str) -> None:
    if first != second:
        assert read(form.format(x=first, y=second)) is None


def test_the_public_functions_read_text_alone() -> None:
    assert chiron.read_choice("<think>A?</think>Sorry, it is C.", BRAIN) == "C"
    assert chiron.read_verdict("Verdict: **no**") is False
    reasoning = chiron.parse_reasoning("Sure. ### Step 1: Dark. ### Step 2: Thin. ### The final answer is: Emphysema")
    assert (reasoning.steps, reasoning.answer) == (("Dark.", "Thin."), "Emphysema")
