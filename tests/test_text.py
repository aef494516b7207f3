"""Texts are normalized for comparison in one way everywhere."""

import pytest

from chiron.text import normalize_answer, normalize_words, without_accents


def test_accents_case_and_compatibility_forms_do_not_matter_to_a_comparison() -> None:
    assert without_accents("Ménière ﬁbrosis") == "meniere fibrosis"
    assert without_accents("T2-FLAIR") == "t2-flair"


@pytest.mark.parametrize(
    ("text", "keep", "words"),
    [
        ("X-ray, chest_PA  (frontal)", "", "x ray chest pa frontal"),
        ("a_._b", "", "a b"),
        ("Head & Neck; skin", "&", "head & neck skin"),
        ("\uff23\uff48\uff45\uff53\uff54", "", "chest"),
        ("...", "", ""),
    ],
)
def test_words_are_separated_by_single_spaces(text: str, keep: str, words: str) -> None:
    assert normalize_words(text, keep) == words


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [("The Pneumothorax (left).", "pneumothorax"), ("HER2+", "her2 plus"), ("left- and right-sided", "left and right sided"), ("A", "a")],
)
def test_answers_are_compared_without_articles_brackets_and_punctuation(answer: str, normalized: str) -> None:
    assert normalize_answer(answer) == normalized
