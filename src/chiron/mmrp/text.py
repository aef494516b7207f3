"""Part 1 (text): multiple-choice questions about a case's text, written by one model and tested by another."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Unpack

from chiron.cases.case import Case
from chiron.client.call import Ask, Call
from chiron.conversation.short_answers import named_options
from chiron.jobs.job import run_job
from chiron.mics.answer_leak import names_answer
from chiron.mics.case_team import together
from chiron.mics.team import reaches_quorum
from chiron.mmrp.authoring import BrokenReply, BuildRoles, MultipleChoice, Refused, read_choices
from chiron.mmrp.config import BuildFile
from chiron.mmrp.part import BuildOptions, BuildSummary, Made, PartRun, placed, select_cases
from chiron.mmrp.row import ROWS, Dropped, MmrpRow, Provenance
from chiron.mmrp.templates import ConversationTemplate, PaperTemplate, QuizTemplate
from chiron.text import normalize_answer

RULES: Final = 2
"""Version of the rules; increase it when the same replies would give other rows. A corrected reading of single answers, such as that of
"C. difficile" as an option's text, does not count: rebuilding from the replies corrects such rows, and directories stay usable."""
AUTHOR_DRAWS: Final = 2
"""Calls to the author per case: an unusable reply is requested once more."""


def build_text(
    cases: Path,
    config: BuildFile,
    out: Path,
    *,
    form: ConversationTemplate | None = None,
    **options: Unpack[BuildOptions],
) -> BuildSummary:
    """Build rows of text questions.

    Writes ``rows.jsonl`` and ``dropped.jsonl`` to ``out``. A rerun resumes, and no call is paid for twice.

    Args:
        cases: JSONL or JSON file; cases need no question.
        config: from :func:`chiron.mmrp.config.load_build`.
        out: output directory, used by this part only.
        form: conversation template; by default that of the published models.
        options: see :class:`~chiron.mmrp.part.BuildOptions`. The image folder is recorded in ``run.json``; this part shows no images.

    Raises:
        InputError: an input is missing, or the directory belongs to another build.
        DiskError: the files cannot be written.
    """
    return run_job(prepare_text(cases, config, out, form=form, **options))


def prepare_text(
    cases: Path,
    config: BuildFile,
    out: Path,
    *,
    form: ConversationTemplate | None = None,
    **options: Unpack[BuildOptions],
) -> PartRun[Case]:
    """Prepare :func:`build_text`: validate its inputs without running it."""
    source = select_cases(cases, options.get("limit"), options.get("shard"))
    seats = BuildRoles.of(config, cases, need_reader=True, need_keys=options.get("need_keys", True))
    wording = form if form is not None else PaperTemplate()
    build = config.build
    rules = {  # these keys are stored in run.json
        "questions_per_case": build.questions_per_case,
        "tries": build.samples,
        "tries_threshold": build.samples_threshold,
        "blind_tries": build.blind_samples,
        "blind_threshold": build.blind_threshold,
    }
    return PartRun(
        kept_file=ROWS,
        source=source,
        make=Examiner(seats, wording, out.resolve().name).examine,
        identity={**seats.identity(), **rules, "rules": RULES, **wording.identity()},
        most_calls={"author": AUTHOR_DRAWS, "reader": build.questions_per_case * (build.samples + 2 + build.blind_samples)},
        **seats.fields("text", prepare_text, cases, out, options, form=form),
    )


@dataclass
class _Question:
    """A question that may become a row."""

    case: Case
    choice: MultipleChoice
    number: int
    calls: list[str] = field(default_factory=list)
    share: float = 0.0
    """Share of right answers with the case."""


@dataclass(frozen=True)
class Examiner:
    """Let the author write questions, and test them with the reader."""

    seats: BuildRoles
    form: ConversationTemplate
    run: str

    async def examine(self, case: Case, ask: Ask) -> Made:
        """Build a case's rows; also return what was dropped.

        Raises:
            CallFailed: a reply is missing.
            RunStopped: no more calls are sent.
        """
        if not case.findings and not case.history:
            return Made.drop("text", case, "no text", "the case has neither history nor findings")
        key, written = await self._written(case, ask)
        rows: list[MmrpRow] = []
        dropped: list[Dropped] = []
        before: set[str] = set()
        for number, choice in enumerate(written, start=1):
            if isinstance(choice, Refused):
                dropped.append(Dropped.of("text", case, choice.reason, choice.detail, choice.text))
                continue
            if (plain := normalize_answer(choice.question)) in before:
                dropped.append(Dropped.of("text", case, "asked twice", "", choice.question))
                continue
            before.add(plain)
            question = _Question(case, choice, number, [key])
            if (refused := await self._refused(question, ask)) is not None:
                dropped.append(Dropped.of("text", case, refused.reason, refused.detail, choice.question))
            else:
                rows.extend(self._rows(question))
        return Made(tuple(rows), tuple(dropped))

    async def _written(self, case: Case, ask: Ask) -> tuple[str, list[MultipleChoice | Refused]]:
        """Return the key and items of the author's reply; of two replies, the one with more usable items."""
        count = self.seats.config.build.questions_per_case
        best: tuple[str, list[MultipleChoice | Refused]] = ("", [])
        for draw in range(AUTHOR_DRAWS):
            call = self.seats.call("author", self.seats.prompts.author(case, count), sample_index=draw)
            reply = await ask(call)
            try:
                written = read_choices(reply.text, count)
            except BrokenReply as problem:
                written = [problem.refused(reply)]
            if not best[1] or _good(written) > _good(best[1]):
                best = (call.key, written)
            if all(isinstance(choice, MultipleChoice) for choice in written):
                break
        return best

    async def _refused(self, question: _Question, ask: Ask) -> Refused | None:
        """Return why a question is dropped, or ``None``. Cheap tests run before expensive ones."""
        choice = question.choice
        answer = choice.options[choice.right()]
        if names_answer(choice.question, answer):
            return Refused("answer in the question", answer)
        return await self._unanswered(question, ask) or await self._ambiguous(question, ask) or await self._guessed(question, ask)

    async def _unanswered(self, question: _Question, ask: Ask) -> Refused | None:
        """Drop a question that the reader cannot answer with the case."""
        build = self.seats.config.build
        share = await self._share(question, ask, blind=False, samples=build.samples)
        if share is None:
            return Refused("reader cannot be understood", "its replies name no option")
        question.share = share
        if share <= build.samples_threshold:
            return Refused("not answered with the case", f"right in {share:.0%} of {build.samples} tries")
        return None

    async def _guessed(self, question: _Question, ask: Ask) -> Refused | None:
        """Drop a question that the reader answers too easily without the case."""
        build = self.seats.config.build
        share = await self._share(question, ask, blind=True, samples=build.blind_samples) if build.blind_samples else None
        if share is not None and share > build.blind_threshold:
            return Refused("answered without the case", f"right in {share:.0%} of {build.blind_samples} tries")
        return None

    async def _share(self, question: _Question, ask: Ask, *, blind: bool, samples: int) -> float | None:
        """Return the share of right reader answers; ``None`` if most replies are unreadable.

        Each sample shuffles the options, so that a reader that always says "A" is right only by chance.
        """
        choice, prompts = question.choice, self.seats.prompts
        # These texts seed the order of the options, so they are part of the calls in existing ledgers (words: kept).
        orders = [self._order(question, f"{'blind' if blind else 'told'}:{number}") for number in range(samples)]
        calls = []
        for number, order in enumerate(orders):
            options = [choice.options[i] for i in order]
            messages = prompts.reader_blind(choice.question, options) if blind else prompts.reader(question.case, choice.question, options)
            calls.append(self.seats.call("reader", messages, sample_index=number))
        replies = await together(ask(call) for call in calls)
        question.calls += [call.key for call in calls]
        named = [_chosen(reply.text, order, choice) for reply, order in zip(replies, orders, strict=True)]
        understood = [n for n in named if n is not None]
        if not reaches_quorum(len(understood), samples):
            return None
        return sum(n == {choice.right()} for n in understood) / len(understood)

    async def _ambiguous(self, question: _Question, ask: Ask) -> Refused | None:
        """Drop a question unless the reader, asked for every right option, names only that one. The reader gets two attempts."""
        choice = question.choice
        others: list[str] = []
        for draw in range(2):
            order = self._order(question, f"all:{draw}")
            messages = self.seats.prompts.reader_all(question.case, choice.question, [choice.options[i] for i in order])
            call: Call = self.seats.call("reader", messages, sample_index=draw)
            reply = await ask(call)
            question.calls.append(call.key)
            named = _chosen(reply.text, order, choice)
            if named is not None and not named - {choice.right()}:
                return None
            others = [choice.options[i] for i in sorted(named - {choice.right()})] if named else others
        if not others:
            return Refused("reader cannot be understood", "asked for every right option, it named none")
        return Refused("two right options", "also right: " + "; ".join(others))

    def _order(self, question: _Question, what: str) -> list[int]:
        order = list(range(len(question.choice.options)))
        seed = f"{self.seats.config.build.seed}:{question.case.id}:{question.number}:{what}"
        random.Random(seed).shuffle(order)  # noqa: S311 - reproducible, not secret
        return order

    def _rows(self, question: _Question) -> list[MmrpRow]:
        case, choice, seats = question.case, question.choice, self.seats
        order = self._order(question, "row")
        quiz = QuizTemplate(choice.question, tuple(choice.options[i] for i in order), order.index(choice.right()), choice.reasoning)
        chance = random.Random(f"{seats.config.build.seed}:{case.id}:{question.number}:begun")  # noqa: S311 - reproducible, not secret
        base = MmrpRow(
            id=f"text:{case.id}:{question.number}",
            part="text",
            images=(),
            turns=(),
            question=quiz.question,
            answer=quiz.options[quiz.right],
            options=quiz.options,
            # For text questions, this share corresponds to the baseline of image questions.
            difficulty=1 - question.share,
            provenance=Provenance(
                self.run,
                tuple(question.calls),
                seats.prompts.hashes("author_system", "text", "reader_system", "reader", "reader_all", "reader_blind"),
                seats.models(),
            ),
            **placed(case),
        )
        return [
            replace(base, id=f"{base.id}:{d.suffix}" if d.suffix else base.id, turns=d.turns, reasoning=d.turns[-1].text)
            for d in self.form.of_quiz(case, quiz, chance)
        ]


def _good(written: list[MultipleChoice | Refused]) -> int:
    return sum(isinstance(choice, MultipleChoice) for choice in written)


def _chosen(reply: str, order: list[int], choice: MultipleChoice) -> set[int] | None:
    """Return the indexes of the author's options that a reply names, given the shuffled order."""
    named = named_options(reply, [choice.options[i] for i in order])
    return None if named is None else {order[i] for i in named}
