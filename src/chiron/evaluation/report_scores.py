"""Scores of radiology reports by packages with their own models: RadGraph F1, CheXbert F1, RaTEScore and GREEN.

Each runs in a process of its own, in a Python that the user names. The packages need older libraries than this project: radgraph and
f1chexbert fail with transformers 5.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.errors import InputError
from chiron.evaluation import report_scorers
from chiron.terminal import printable


@dataclass(frozen=True, slots=True)
class ReportScore:
    """What a score needs to run."""

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
"""By name, as ``chiron compare --scores`` takes them."""


def report_scores(
    name: str, pairs: Sequence[tuple[str, str]], python: Path | None = None
) -> tuple[dict[str, tuple[float | None, ...]], str]:
    """Score pairs of reports.

    Args:
        name: of :data:`REPORT_SCORES`.
        pairs: (given report, known report).
        python: an interpreter that has the package; by default, this one.

    Returns:
        Values by name, in the order of the pairs, and versions that they depend on. ``None`` where the score's model gave no result.

    Raises:
        InputError: the interpreter, the package or its weights are missing, or the package failed.
    """
    needs, interpreter = REPORT_SCORES[name], str(python or sys.executable)
    # -P keeps the script's folder, which has modules of common names, out of the import path.
    command = [interpreter, "-P", report_scorers.__file__, name]
    try:
        ended = subprocess.run(command, input=json.dumps(list(pairs)), capture_output=True, text=True, check=False)  # noqa: S603
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
