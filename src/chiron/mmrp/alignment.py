"""Part 2 (alignment): rows of image groups and their findings, built by rules without a model."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from chiron.cases.case import Case
from chiron.client.call import Ask
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.job import run_job
from chiron.mmrp.caption_filter import LeftOut, Why, images_named, modalities_named, renumbered, sentences, trim, without_lead
from chiron.mmrp.config import BuildFile, BuildPrompts
from chiron.mmrp.part import BuildSummary, Made, PartRun, origin, placed, select_cases
from chiron.mmrp.row import ROWS, Dropped, MmrpRow, Provenance
from chiron.mmrp.templates import ConversationTemplate, Group, PaperTemplate, groups_of, modalities_shown
from chiron.text import normalize_answer

RULES: Final = 2
"""Version of the rules; increase it when the same findings would give other rows."""
LONGEST: Final = 4000
"""Maximum number of characters of a row's findings; later sentences are dropped."""
_ENDS: Final = ".!?\u3002\uff01\uff1f\u0964\u061f\u06d4"
"""Characters that end a sentence, including those of Chinese, Japanese, Hindi, Arabic and Urdu."""

GroupIndexes = tuple[int, ...]
"""Indexes of image groups, from 0."""


def build_alignment(
    cases: Path,
    out: Path,
    *,
    config: BuildFile | None = None,
    images: Path | None = None,
    limit: int | None = None,
    shard: str | None = None,
    form: ConversationTemplate | None = None,
) -> BuildSummary:
    """Build rows of image groups and their findings, without a model.

    Writes ``rows.jsonl`` and ``dropped.jsonl`` to ``out``.

    Args:
        cases: JSONL or JSON file; cases need no question.
        out: output directory, used by this part only.
        config: provides ``build.seed`` and the requests (prompt ``describe``).
        images: image folder, recorded in ``run.json``; images are not opened here.
        limit: use only the first ``limit`` cases.
        shard: ``I/N``; use part I of N.
        form: conversation template; by default that of the published models.

    Raises:
        InputError: the file does not exist, or the directory belongs to another build.
        DiskError: the files cannot be written.
    """
    return run_job(prepare_alignment(cases, out, config=config, images=images, limit=limit, shard=shard, form=form))


def prepare_alignment(
    cases: Path,
    out: Path,
    *,
    config: BuildFile | None = None,
    images: Path | None = None,
    limit: int | None = None,
    shard: str | None = None,
    form: ConversationTemplate | None = None,
) -> PartRun[Case]:
    """Prepare :func:`build_alignment`: validate its inputs without running it."""
    source = select_cases(cases, limit, shard)
    prompts = BuildPrompts.load(config.build.prompts if config is not None else {})
    seed = config.build.seed if config is not None else 0
    aligner = Aligner(prompts, form if form is not None else PaperTemplate(), seed, out.resolve().name)
    return PartRun(
        part="alignment",
        directory=WorkDirectory(out),
        kept_file=ROWS,
        source=source,
        make=aligner.align,
        identity={"rules": RULES, "seed": seed, "prompts": prompts.hashes("describe"), **aligner.form.identity()},
        about=origin(cases, images, limit, shard),
    )


@dataclass(frozen=True)
class Aligner:
    """Assign findings to the image groups that they describe."""

    prompts: BuildPrompts
    form: ConversationTemplate
    seed: int
    run: str

    async def align(self, case: Case, ask: Ask) -> Made:
        """Build a case's rows: one per image group, or per set of groups that a finding describes together."""
        del ask
        if not case.findings:
            return Made.drop("alignment", case, "no findings")
        if not case.images:
            return Made.drop("alignment", case, "no images")
        groups = groups_of(case)
        kept, left_out = place_findings(case, groups)
        rows: list[MmrpRow] = []
        for place, findings in kept.items():
            rows += self._rows(case, groups, place, findings)
        dropped = [Dropped.of("alignment", case, f"{'trimmed: ' if item.trimmed else ''}{item.why}", "", item.text) for item in left_out]
        if not kept:
            dropped.append(Dropped.of("alignment", case, "no finding left"))
        return Made(tuple(rows), tuple(dropped))

    def _rows(self, case: Case, groups: Sequence[Group], place: GroupIndexes, findings: Sequence[str]) -> list[MmrpRow]:
        name = f"alignment:{case.id}:{'+'.join(str(i + 1) for i in place)}"
        chance = random.Random(f"{self.seed}:{name}")  # noqa: S311 - reproducible, not secret
        request = chance.choice(self.prompts.requests)
        shown = [groups[i] for i in place]
        fields = placed(case)
        if modalities := tuple(dict.fromkeys(group.modality for group in shown if group.modality)):
            fields["modalities"] = modalities
        base = MmrpRow(
            id=name,
            part="alignment",
            images=tuple(image for group in shown for image in group.images),
            turns=(),
            question=request,
            answer="",
            provenance=Provenance(self.run, (), self.prompts.hashes("describe")),
            **fields,
        )
        return [
            replace(base, id=f"{name}:{d.suffix}" if d.suffix else name, turns=d.turns)
            for d in self.form.of_findings(case, shown, request, findings, chance)
        ]


def place_findings(case: Case, groups: Sequence[Group]) -> tuple[dict[GroupIndexes, list[str]], list[LeftOut]]:
    """Assign the visible sentences to image groups; return them with what was left out.

    A sentence belongs to the groups of the images that it names, else to the group of the only modality that it names. Otherwise it
    follows the sentence before it; a paragraph's first sentence follows the paragraph's position if there are as many paragraphs as
    groups. Failing all this, it belongs to all groups together.
    """
    # If a group's modality is unknown, a sentence about another modality cannot be recognized.
    known = {group.modality for group in groups}
    modalities = frozenset(m for m in known if m is not None) if None not in known else frozenset(modalities_shown(case))
    everywhere = tuple(range(len(groups)))
    paired = len(groups) > 1 and len(case.findings) == len(groups)
    kept: dict[GroupIndexes, list[str]] = {}
    left_out: list[LeftOut] = []
    known_texts: set[tuple[GroupIndexes, str]] = set()
    lengths: dict[GroupIndexes, int] = {}
    here: GroupIndexes | None = everywhere
    for paragraph, finding in enumerate(case.findings):
        here = (paragraph,) if paired else here
        for sentence in sentences(finding):
            seen, removed = trim(sentence, images=len(case.images), modalities=modalities)
            left_out += removed
            named = images_named(seen or sentence)
            if named:
                inside = {n for n in named if 1 <= n <= len(case.images)}
                here = tuple(i for i, group in enumerate(groups) if inside & set(group.numbers)) or None
            elif seen:
                here = _of_modality(seen, groups) or here
            if not seen:
                continue
            if here is None:  # continues about an image that is not in the case
                left_out.append(LeftOut(Why.IMAGE, sentence))
                continue
            text = _as_shown(seen, named, tuple(n for i in here for n in groups[i].numbers))
            if (here, normalize_answer(text)) in known_texts:
                left_out.append(LeftOut(Why.TWICE, sentence))
                continue
            known_texts.add((here, normalize_answer(text)))
            lengths[here] = lengths.get(here, 0) + len(text) + 1
            if lengths[here] > LONGEST:
                left_out.append(LeftOut(Why.FULL, sentence))
                continue
            kept.setdefault(here, []).append(text)
    return dict(sorted(kept.items())), left_out


def _of_modality(sentence: str, groups: Sequence[Group]) -> GroupIndexes | None:
    """Return the groups of the only modality that a sentence names, unless these are all groups."""
    named = modalities_named(sentence)
    if len(named) != 1:
        return None
    found = tuple(i for i, group in enumerate(groups) if group.modality == named[0])
    return found if 0 < len(found) < len(groups) else None


def _as_shown(sentence: str, named: tuple[int, ...], numbers: tuple[int, ...]) -> str:
    """Renumber the images in a sentence by their position in the row; drop the mention if it covers all of them."""
    text = without_lead(sentence) if set(numbers) <= set(named) else sentence
    text = renumbered(text, numbers)
    return text[0].upper() + text[1:] + ("" if text[-1] in _ENDS else ".")
