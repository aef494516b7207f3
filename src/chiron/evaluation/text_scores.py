"""Scores that compare open answers with the known ones: exact match, token F1, BLEU, ROUGE-L, METEOR (extra ``scores``), and of reports.

Scores of radiology reports (RadGraph F1, CheXbert F1, RaTEScore, GREEN) come from packages with their own models. Each runs in a process
of its own, in a Python that the user names. The packages need older libraries than this project: radgraph and f1chexbert fail with
transformers 5.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from chiron.client.config_file import unknown_name
from chiron.errors import InputError
from chiron.evaluation import report_scorers
from chiron.evaluation.answers.open_answers import NORMALIZER, exact_match
from chiron.evaluation.items import ItemResult
from chiron.extras import install_command
from chiron.terminal import printable
from chiron.text import normalize_answer

TOKENS = 1
"""Version of the words that token F1 and METEOR compare (:func:`tokens`). Raise it whenever they change."""
Score = Callable[[str, str], float]
"""Scores a given answer against the known one, in [0, 1]. Neither is empty."""


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores of pairs of texts."""

    values: Mapping[str, tuple[float | None, ...]]
    """By name, in the order of the pairs."""
    signature: str
    """Versions and settings that the values depend on. Scores with different signatures cannot be compared."""
    empty: int
    """Number of pairs with an empty side; they score 0."""


def text_scores(pairs: Sequence[tuple[str, str]], names: Sequence[str], python: Path | None = None) -> TextScores:
    """Score pairs of given and known answers.

    Args:
        pairs: (given answer, known answer).
        names: of :data:`SCORES` and :data:`REPORT_SCORES`, from :func:`scores_named`.
        python: the interpreter that has the packages of the scores of reports; by default, this one.

    Raises:
        InputError: a package, WordNet for METEOR, or the weights of a score of reports are missing.
    """
    values: dict[str, tuple[float | None, ...]] = {}
    signatures = [f"words {TOKENS}"]
    full = [bool(given.strip() and known.strip()) for given, known in pairs]
    for name in names:
        if name in REPORT_SCORES:
            found, signature = _report_scores(name, pairs, python)
        else:
            score, signature = SCORES[name]()
            found = {name: tuple(score(given, known) if whole else 0.0 for (given, known), whole in zip(pairs, full, strict=True))}
        values |= found
        signatures.append(f"{name} {signature}")
    return TextScores(values, "; ".join(signatures), full.count(False))


def scores_named(text: str) -> tuple[str, ...]:
    """Read names of scores, separated by commas; ``all`` is all of them, except those of reports.

    Raises:
        InputError: a name is unknown.
    """
    names = tuple(SCORES) if text.strip() == "all" else tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    known = (*SCORES, *REPORT_SCORES)
    for name in names:
        if name not in known:
            raise InputError(unknown_name("score", name, known, f"choose from {', '.join(known)}, or all"))
    if not names:
        raise InputError(f"no score is named: choose from {', '.join(known)}, or all")
    return names


def scored(results: Iterable[ItemResult], names: Sequence[str], python: Path | None = None) -> tuple[list[ItemResult], TextScores]:
    """Add the scores to open answers. An answer that could not be read counts as empty and scores 0.

    Raises:
        InputError: as :func:`text_scores`.
    """
    kept = list(results)
    found = text_scores(open_pairs(kept), names, python)
    return with_scores(kept, found.values), found


def open_pairs(results: Iterable[ItemResult]) -> list[tuple[str, str]]:
    """Return given and known answer of every open question that was asked."""
    return [(result.given or "", result.answer) for result in results if _is_open(result)]


def with_scores(results: Iterable[ItemResult], values: Mapping[str, Sequence[float | None]]) -> list[ItemResult]:
    """Add scores, in the order of :func:`open_pairs`, to the open questions. ``None`` adds nothing."""
    done, position = [], 0
    for result in results:
        if not _is_open(result):
            done.append(result)
            continue
        more = {name: value for name, of in values.items() if (value := of[position]) is not None}
        done.append(replace(result, scores={**result.scores, **more}))
        position += 1
    return done


def _is_open(result: ItemResult) -> bool:
    return result.kind == "open" and result.verdict not in {"unusable", "pending"}


def tokens(text: str) -> list[str]:
    """Split a text into normalized words; every Chinese character is a word."""
    spaced = "".join(f" {c} " if _is_chinese(c) else c for c in text)
    return normalize_answer(spaced).split()


def token_f1(given: str, known: str) -> float:
    """Compute the harmonic mean of the precision and recall of words, as SQuAD does (P. Rajpurkar et al., EMNLP 2016)."""
    ours, theirs = Counter(tokens(given)), Counter(tokens(known))
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _exact() -> tuple[Score, str]:
    return (lambda given, known: float(exact_match(given, known))), f"normalizer {NORMALIZER}"


def _bleu() -> tuple[Score, str]:
    """BLEU of single answers, smoothed, up to the n-grams that they have. Chinese text is split into characters."""
    with _needs("BLEU"):
        from sacrebleu.metrics.bleu import BLEU

    by_script = {chinese: BLEU(lowercase=True, effective_order=True, tokenize="zh" if chinese else "13a") for chinese in (False, True)}

    def score(given: str, known: str) -> float:
        return float(by_script[_has_chinese(known)].sentence_score(given, [known]).score) / 100

    by_script[False].sentence_score("a", ["a"])  # the signature needs one
    return score, str(by_script[False].get_signature()).replace("tok:13a", "tok:13a, Chinese zh")


def _rouge_l() -> tuple[Score, str]:
    with _needs("ROUGE-L"):
        from rouge_score.rouge_scorer import RougeScorer

    # Its own tokenizer keeps only ASCII letters and digits, so Chinese would always score 0.
    by_script = {False: RougeScorer(["rougeL"]), True: RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=tokens))}

    def score(given: str, known: str) -> float:
        return float(by_script[_has_chinese(known)].score(known, given)["rougeL"].fmeasure)

    return score, f"rouge-score {version('rouge-score')}, no stemmer"


def _meteor() -> tuple[Score, str]:
    """METEOR as nltk computes it: exact, stemmed and synonymous words."""
    with _needs("METEOR"):
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import single_meteor_score
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise InputError(
            "METEOR needs WordNet, which is not on this machine: run 'python -m nltk.downloader wordnet'; or copy wordnet.zip from another"
            " machine to the subfolder corpora of a folder that the variable NLTK_DATA names; or leave meteor out of --scores"
        ) from error

    def score(given: str, known: str) -> float:
        return float(single_meteor_score(tokens(known), tokens(given), wordnet=wordnet))

    return score, f"nltk {version('nltk')}, WordNet {wordnet.get_version()}"


SCORES: Mapping[str, Callable[[], tuple[Score, str]]] = {
    "exact_match": _exact,
    "token_f1": lambda: (token_f1, "as SQuAD"),
    "bleu": _bleu,
    "rouge_l": _rouge_l,
    "meteor": _meteor,
}
"""Loads a score by its name, with its signature."""


@dataclass(frozen=True, slots=True)
class ReportScore:
    """What a score of reports needs to run."""

    title: str
    install: str
    weights: str


REPORT_SCORES: Mapping[str, ReportScore] = {
    "radgraph": ReportScore(
        "RadGraph F1",
        "pip install radgraph 'transformers<5'",
        "radgraph-xl.tar.gz of StanfordAIMI/RRG_scorers, and the tokenizer and encoder that its config.json names",
    ),
    "chexbert": ReportScore(
        "CheXbert F1",
        "pip install f1chexbert 'transformers<5' 'huggingface-hub<1'",
        "chexbert.pth of StanfordAIMI/RRG_scorers in the folder ~/.cache/chexbert, and bert-base-uncased",
    ),
    "ratescore": ReportScore("RaTEScore", "pip install RaTEScore medspacy", "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C"),
    "green": ReportScore(
        "GREEN",
        "pip install git+https://github.com/Stanford-AIMI/GREEN (Python 3.12)",
        "StanfordAIMI/GREEN-radllama2-7b, which needs a GPU",
    ),
}
"""Scores of radiology reports by name, as ``chiron compare --scores`` takes them."""


def _report_scores(name: str, pairs: Sequence[tuple[str, str]], python: Path | None) -> tuple[dict[str, tuple[float | None, ...]], str]:
    """Return values by name, in the order of the pairs, and versions that they depend on. ``None``: the score's model gave no result."""
    needs, interpreter = REPORT_SCORES[name], str(python or sys.executable)
    # -P keeps the script's folder, which has modules of common names, out of the import path.
    command = [interpreter, "-P", report_scorers.__file__, name]
    try:
        ended = subprocess.run(  # noqa: S603
            command, input=json.dumps(list(pairs)), capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        raise InputError(f"--scores-python {printable(interpreter)} cannot be run ({error}): name a Python interpreter") from error
    try:
        result = json.loads(ended.stdout)
    except ValueError:
        last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        if "-P" in ended.stderr and "usage" in ended.stderr.lower():
            raise InputError(f"--scores-python {printable(interpreter)} is too old: name a Python of 3.11 or later") from None
        result = {"failed": f"exit code {ended.returncode}: {last[:300]}"}
    if "missing" in result:
        raise InputError(
            f"{needs.title} needs the package '{printable(result['missing'])}', which {interpreter} does not have: install it into an"
            f" environment of its own ('{needs.install}'), and name its interpreter with --scores-python"
        )
    if "failed" in result:
        raise InputError(
            f"{needs.title} could not be computed by {interpreter} ({printable(result['failed'])}): it needs {needs.install}, and the"
            f" weights {needs.weights}, downloaded to that machine's cache"
        )
    return {key: tuple(values) for key, values in result["values"].items()}, result["signature"]


@contextmanager
def _needs(score: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{score} needs the package '{error.name}': {install_command('scores')}") from error


def _is_chinese(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003ffff"


def _has_chinese(text: str) -> bool:
    return any(map(_is_chinese, text))
