"""Scores of the words of open answers, beside the libraries that define them."""

import math
from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.evaluation.answers.open_answers import NORMALIZER
from chiron.evaluation.items import Verdict
from chiron.evaluation.text_scores import scored, scores_named, text_scores, token_f1
from tests.support.command import chiron
from tests.support.evaluations import an_item, write_evaluation

PAIRS = [
    ("A mass in the left lung.", "left lung mass"),
    ("fracture of the seventh rib", "rib fracture of the seventh rib"),
    ("CT", "ct"),
    ("No pneumothorax is seen", "pneumothorax"),
    ("h\u00e9morragie 3.5 cm", "hemorrhage of 3.5 cm"),
]
LEFT_LUNG, LEFT_LUNG_MASS = "\u5de6\u80ba", "\u5de6\u80ba\u80bf\u5757"


def value(name: str, given: str, known: str) -> float:
    found = text_scores([(given, known)], [name]).values[name][0]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "known", "f1"),
    [
        ("a mass in the left lung", "left lung mass", 2 * 3 / (4 + 3)),  # articles do not count
        ("lung lung lung", "lung", 2 * 1 / (3 + 1)),
        ("kidney", "lung", 0.0),
        (LEFT_LUNG, LEFT_LUNG_MASS, 2 * 2 / (2 + 4)),
    ],
)
def test_token_f1_is_that_of_squad_and_counts_chinese_characters(given: str, known: str, f1: float) -> None:
    assert token_f1(given, known) == pytest.approx(f1)


def test_exact_match_has_the_rules_of_the_protocol_exact() -> None:
    assert value("exact_match", "The Haemorrhage.", "hemorrhage") == 1.0
    assert value("exact_match", "no hemorrhage", "hemorrhage") == 0.0


def test_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for given, known in PAIRS:
        theirs = sacrebleu.sentence_bleu(given, [known], lowercase=True, use_effective_order=True).score / 100
        assert value("bleu", given, known) == pytest.approx(theirs)
    theirs = sacrebleu.sentence_bleu(LEFT_LUNG, [LEFT_LUNG_MASS], tokenize="zh", use_effective_order=True).score / 100
    assert value("bleu", LEFT_LUNG, LEFT_LUNG_MASS) == pytest.approx(theirs)
    # Of "left lung", the one-gram and two-gram precisions are 1; the penalty for 2 words instead of 3 remains.
    assert value("bleu", "left lung", "left lung mass") == pytest.approx(math.exp(1 - 3 / 2))


@pytest.mark.slow
def test_rouge_l_is_that_of_rouge_score_and_sees_chinese() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = rouge_scorer.RougeScorer(["rougeL"])
    for given, known in PAIRS:
        assert value("rouge_l", given, known) == pytest.approx(theirs.score(known, given)["rougeL"].fmeasure)
    assert theirs.score(LEFT_LUNG_MASS, LEFT_LUNG)["rougeL"].fmeasure == 0.0
    assert value("rouge_l", LEFT_LUNG, LEFT_LUNG_MASS) == pytest.approx(2 / 3)


class SmallWordnet:
    """A lexicon in which only ``tumor`` and ``neoplasm`` are synonyms, with the interface that nltk reads."""

    def ensure_loaded(self) -> None: ...

    def get_version(self) -> str:
        return "small"

    def synsets(self, word: str) -> list["SmallWordnet"]:
        return [self] if word in {"tumor", "neoplasm"} else []

    def lemmas(self) -> list["Lemma"]:
        return [Lemma("tumor"), Lemma("neoplasm")]


class Lemma:
    def __init__(self, word: str) -> None:
        self.word = word

    def name(self) -> str:
        return self.word


def test_meteor_counts_stems_and_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nltk")
    monkeypatch.setattr("nltk.corpus.wordnet", SmallWordnet())
    # One chunk of two matches: no precision or recall is lost, and the penalty is 0.5 * (1 / 2) ** 3.
    assert value("meteor", "brain tumor", "brain neoplasm") == pytest.approx(1 - 0.5 * 0.5**3)
    assert value("meteor", "brain tumors", "brain tumor") == pytest.approx(1 - 0.5 * 0.5**3)
    # One of two words matches: P = R = F = 1/2, and one chunk of one match halves it.
    assert value("meteor", "brain cyst", "brain neoplasm") == pytest.approx(0.25)


def test_meteor_without_wordnet_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"METEOR needs WordNet.*nltk\.downloader wordnet.*NLTK_DATA.*leave meteor out"):
        text_scores([("a", "b")], ["meteor"])


@pytest.mark.parametrize(
    ("name", "module"), [("bleu", "sacrebleu.metrics.bleu"), ("rouge_l", "rouge_score.rouge_scorer"), ("meteor", "nltk.corpus")]
)
def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    for part in (module.partition(".")[0], module):
        monkeypatch.setitem(__import__("sys").modules, part, None)
    with pytest.raises(InputError, match=r"needs the package .*pip install 'chiron-med\[scores\]'"):
        text_scores([("a", "b")], [name])


def test_only_open_answers_are_scored_and_an_unread_one_scores_nothing() -> None:
    items = [
        an_item(1),
        an_item(2, kind="open", given="left lung", answer="left lung", scores={"token_recall": 1.0}),
        an_item(3, kind="open", verdict=Verdict.UNPARSED, given=None),
        an_item(4, kind="open", verdict=Verdict.PENDING, given=None),
    ]
    results, found = scored(items, ["exact_match", "token_f1"])
    assert [dict(result.scores) for result in results] == [
        {},
        {"token_recall": 1.0, "exact_match": 1.0, "token_f1": 1.0},
        {"exact_match": 0.0, "token_f1": 0.0},
        {},
    ]
    assert found.empty == 1
    assert f"normalizer {NORMALIZER}" in found.signature


def test_names_of_scores() -> None:
    assert scores_named("bleu, exact_match,bleu") == ("bleu", "exact_match")
    assert len(scores_named("all")) == 5
    with pytest.raises(InputError, match=r"unknown score 'blue'.*bleu.*choose from exact_match, token_f1"):
        scores_named("blue")
    with pytest.raises(InputError, match="no score is named"):
        scores_named(" , ")


@pytest.mark.slow
def test_compare_shows_them_with_the_versions_they_depend_on(tmp_path: Path) -> None:
    items = [an_item(n, kind="open", options=(), given="left lung" if n % 2 else "kidney", answer="left lung mass") for n in range(8)]
    run = write_evaluation(tmp_path / "run", "Model", items)
    shown = chiron("compare", str(run), "--scores", "exact_match,token_f1", "--format", "markdown")
    assert shown.returncode == 0, shown.stderr
    assert "token\\_f1" in shown.stdout
    said = " ".join(shown.stderr.split())
    assert f"8 open answers, 0 of them empty (0); words 1; exact_match normalizer {NORMALIZER}; token_f1 as SQuAD" in said
    assert "unknown score" in chiron("compare", str(run), "--scores", "x").stderr
