"""How well answers are taken out of replies: ours beside the rules of other harnesses, over a labelled set written for the purpose.

``answers.jsonl`` was written, and its held-out third set apart, before the rule was first run; the part ``later`` was written to try
a later version of it. Whatever was misread has been looked at since, as bench/README.md tells. A label says what a careful reader takes
the reply to choose; ``null`` is a reply that chooses nothing.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.answer_baselines import huatuo_vision, medevalkit_yes_no, mmmu, vlmevalkit
from bench.table import heading, table
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.yes_no import yes_no

Record = dict[str, Any]
_FILE = Path(__file__).with_name("answers.jsonl")


def ours(record: Record) -> str | None:
    """The letter, or yes or no."""
    if record["kind"] == "yes_no":
        return {True: "yes", False: "no", None: None}[yes_no(record["reply"])]
    return extract(record["reply"], record["options"]).letter


CHOICE: dict[str, Callable[[Record], str | None]] = {
    "ours": ours,
    "MMMU": lambda r: mmmu(r["reply"], r["options"], seed=r["id"]),
    "VLMEvalKit": lambda r: vlmevalkit(r["reply"], r["options"]).replace("Z", "") or None,
    "HuatuoGPT-Vision": lambda r: huatuo_vision(r["reply"], r["options"]),
}
YES_NO: dict[str, Callable[[Record], str | None]] = {"ours": ours, "MedEvalKit": lambda r: medevalkit_yes_no(r["reply"])}


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
    """Print the totals of each split, then each category."""
    records = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    heading("Taking the answer out of a reply")
    for title, rules, kind in (("letter", CHOICE, "choice"), ("yes or no", YES_NO, "yes_no")):
        rows = []
        for split in ("open", "held_out", "later"):
            some = [r for r in records if r["split"] == split and r["kind"] == kind]
            for name, rule in rules.items():
                t = Tally.of(rule, some)
                gold = sum(r["gold"] is not None for r in some)
                rows.append(
                    [split, name, len(some), t.precision, f"{t.right / gold:.3f}", t.wrong, t.unparsed, f"{t.kept} of {len(some) - gold}"]
                )
        table(
            [f"{title}: split", "rule", "N", "precision", "recall", "wrong, silently", "unparsed, though it chooses", "rightly unparsed"],
            rows,
        )
        print()
    _by_category(records)
    print("\nOurs, where it differs from the label:\n")
    table(["id", "split", "label", "read as"], [[r["id"], r["split"], r["gold"], got] for r in records if (got := ours(r)) != r["gold"]])


def _by_category(records: list[Record]) -> None:
    rows = []
    for category in dict.fromkeys(r["category"] for r in records if r["kind"] == "choice"):
        some = [r for r in records if r["category"] == category]
        tallies = [Tally.of(rule, some) for rule in CHOICE.values()]
        rows.append([category, len(some), *(f"{t.right} / {t.wrong} / {t.unparsed} / {t.kept}" for t in tallies)])
    print("By category: right / wrong, silently / unparsed, though it chooses / rightly unparsed\n")
    table(["category", "N", *CHOICE], rows)


if __name__ == "__main__":
    main()
