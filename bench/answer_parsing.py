"""How well answers are taken out of replies: a labelled set written for the purpose, and real replies of a model.

``answers.jsonl`` was written, and its held-out third set apart, before the rule was first run; the part ``later`` was written to try
a later version of it. What was misread has been looked at since (bench/README.md). A label says what a careful reader takes
the reply to choose; ``null`` is a reply that chooses nothing. The real replies are read from ``../shared/replies`` if they are there.
"""

import ast
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.table import heading, table
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.yes_no import yes_no

Record = dict[str, Any]
_FILE = Path(__file__).with_name("answers.jsonl")
_REAL = Path(__file__).parents[2] / "shared" / "replies"
_KINDS = {"chain of thought": "gpt-4o_mmmu-pro_standard10_cot.jsonl.gz", "direct": "gpt-4o_mmmu-pro_standard10_direct.jsonl.gz"}


def ours(record: Record) -> str | None:
    """The letter, or yes or no."""
    if record["kind"] == "yes_no":
        return {True: "yes", False: "no", None: None}[yes_no(record["reply"])]
    return extract(record["reply"], record["options"]).letter


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one rule over some replies."""

    right: int
    """Read as labelled, out of those that choose something."""
    wrong: int
    """Read as something else, and nothing tells."""
    unparsed: int
    """Not read, though the reply chooses."""
    kept: int
    """Not read, and rightly so."""

    @classmethod
    def of(cls, rule: Callable[[Record], str | None], records: Iterable[Record]) -> "Tally":
        """Count."""
        pairs = [(rule(r), r["gold"]) for r in records]
        return cls(
            sum(got == gold for got, gold in pairs if gold),
            sum(got is not None and got != gold for got, gold in pairs),
            sum(got is None and gold is not None for got, gold in pairs),
            sum(got is None and gold is None for got, gold in pairs),
        )

    @property
    def precision(self) -> str:
        """Right among parsed."""
        parsed = self.right + self.wrong
        return f"{self.right / parsed:.3f}" if parsed else "-"


def main() -> None:
    """Print the totals of each split, each category, what is read otherwise than labelled, and the real replies."""
    records = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    heading("Taking the answer out of a reply")
    for title, kind in (("letter", "choice"), ("yes or no", "yes_no")):
        some = [r for r in records if r["kind"] == kind]
        rows = [_row(split, [r for r in some if r["split"] == split]) for split in ("open", "held_out", "later")]
        table(
            [f"{title}: split", "N", "precision", "recall", "wrong, silently", "unparsed, though it chooses", "rightly unparsed"],
            [*rows, _row("all", some)],
        )
        print()
    _by_category(records)
    print("\nWhere a reading differs from its label:\n")
    table(["id", "split", "label", "read as"], [[r["id"], r["split"], r["gold"], got] for r in records if (got := ours(r)) != r["gold"]])
    print()
    _real_replies()


def _row(name: str, records: list[Record]) -> list[object]:
    t = Tally.of(ours, records)
    gold = sum(r["gold"] is not None for r in records)
    return [name, len(records), t.precision, f"{t.right / gold:.3f}", t.wrong, t.unparsed, f"{t.kept} of {len(records) - gold}"]


def _by_category(records: list[Record]) -> None:
    rows = []
    for category in dict.fromkeys(r["category"] for r in records if r["kind"] == "choice"):
        some = [r for r in records if r["category"] == category]
        t = Tally.of(ours, some)
        rows.append([category, len(some), t.right, t.wrong, t.unparsed, t.kept])
    table(["category", "N", "right", "wrong, silently", "unparsed, though it chooses", "rightly unparsed"], rows)


def _real_replies() -> None:
    """Accuracy by our reader and by MMMU-Pro's own, whose reading the published file holds; the misses and differences listed."""
    if not _REAL.is_dir():
        print(f"Real replies: skipped, {_REAL} is not there.")
        return
    totals, unread, differences = [], [], []
    for kind, name in _KINDS.items():
        usable = [(r, options) for r in _lines(_REAL / name) if 2 <= len(options := _options(r)) <= 26]
        read = [(r, extract(r["response"], options)) for r, options in usable]
        right = [found.letter == r["answer"] for r, found in read]
        theirs = [bool(r["if_right"]) for r, _ in read]
        missed = [[kind, r["id"], r["answer"], _end(r["response"])] for r, found in read if found.letter is None]
        totals.append([kind, len(read), f"{100 * sum(right) / len(read):.2f}", f"{100 * sum(theirs) / len(read):.2f}", len(missed)])
        unread += missed
        differences += [
            [kind, r["id"], r["answer"], found.letter, r["pred_indexs"], _end(r["response"], 60)]
            for (r, found), mine, other in zip(read, right, theirs, strict=True)
            if mine != other
        ]
    table(["real replies (GPT-4o, MMMU-Pro, 10 options)", "N", "accuracy, ours", "accuracy, MMMU-Pro's parser", "unparsed, ours"], totals)
    print("\nUnparsed:\n")
    table(["kind", "id", "answer", "end of the reply"], unread)
    print("\nRight by one reader alone:\n")
    table(["kind", "id", "answer", "ours", "MMMU-Pro's", "end of the reply"], differences)


def _lines(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield {**record, "response": record["response"] if isinstance(record["response"], str) else ""}


def _options(record: Record) -> list[str]:
    return [str(option) for option in ast.literal_eval(record["options"])]


def _end(reply: str, length: int = 120) -> str:
    return " ".join(reply.split())[-length:].replace("|", "\\|")


if __name__ == "__main__":
    main()
