"""Part 1: multiple-choice questions on a case's text, written by one model and tried by another."""

import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from chiron.cases.case import Case
from chiron.cases.reader import need_cases
from chiron.cases.selection import Shard
from chiron.client.call import Ask, Call
from chiron.jobs.directory import WorkDirectory
from chiron.mics.answer_leak import names_answer
from chiron.mics.case_team import together
from chiron.mics.team import reaches_quorum
from chiron.mmrp.authoring import BrokenReply, BuildRoles, MultipleChoice, Refused, named_options, read_choices
from chiron.mmrp.config import BuildFile
from chiron.mmrp.part import BuildSummary, Made, PartRun, chosen, execute, origin, placed
from chiron.mmrp.row import ROWS, Dropped, MmrpRow, Provenance
from chiron.mmrp.templates import ConversationTemplate, PaperTemplate, QuizTemplate
from chiron.providers.baselines.search_team import normalise

RULES: Final = 2
"""Of how replies are read and questions are kept; raised when the same replies would give other rows."""
AUTHOR_DRAWS: Final = 2
"""A reply that cannot be used as it is is asked for once more."""


def build_text(
    cases: Path,
    config: BuildFile,
    out: Path,
    *,
    images: Path | None = None,
    limit: int | None = None,
    shard: str | None = None,
    form: ConversationTemplate | None = None,
) -> BuildSummary:
    """Make rows of text questions in ``out``: ``rows.jsonl`` and ``dropped.jsonl``. Run again it goes on, and asks nothing twice.

    Args:
        cases: JSONL or JSON; cases without a question will do.
        config: from :func:`chiron.mmrp.config.load_build`.
        out: a directory of this part's own.
        images: where images lie, to be told in ``run.json``; this part shows none.
        limit: only the first so many cases.
        shard: ``I/N``, part I of N.
        form: how rows are worded; as the published models are asked by default.

    Raises:
        InputError: something is missing, or the directory is of another build.
        DiskError: the files cannot be written.
    """
    return execute(prepare_text(cases, config, out, images=images, limit=limit, shard=shard, form=form))


def prepare_text(
    cases: Path,
    config: BuildFile,
    out: Path,
    *,
    images: Path | None = None,
    limit: int | None = None,
    shard: str | None = None,
    form: ConversationTemplate | None = None,
) -> PartRun[Case]:
    """The same, checked and ready to be executed."""
    need_cases(cases)
    part = Shard.parse(shard) if shard is not None else None
    seats = BuildRoles.of(config, cases, need_reader=True)
    wording = form if form is not None else PaperTemplate()
    build = config.build
    rules = {name: getattr(build, name) for name in ("questions_per_case", "tries", "tries_threshold", "blind_tries", "blind_threshold")}

    return PartRun(
        "text",
        WorkDirectory(out),
        ROWS,
        partial(chosen, cases, limit, part),
        Examiner(seats, wording, out.resolve().name).examine,
        {**seats.identity(), **rules, "rules": RULES, **wording.identity()},
        {**origin(cases, images, limit, shard), "config": config.model_dump(mode="json"), "prompts": dict(seats.prompts.texts)},
        seats.endpoints,
        build.budget_usd,
        build.cases_in_flight,
    )


@dataclass
class _Question:
    """A question on its way to a row."""

    case: Case
    choice: MultipleChoice
    number: int
    calls: list[str] = field(default_factory=list)
    share: float = 0.0
    """Of right answers with the case."""


@dataclass(frozen=True)
class Examiner:
    """Has questions written and tried."""

    seats: BuildRoles
    form: ConversationTemplate
    run: str

    async def examine(self, case: Case, ask: Ask) -> Made:
        """A case's rows, and what of it was dropped.

        Raises:
            CallFailed: an answer is missing.
            Halted: nothing more is asked.
        """
        if not case.findings and not case.history:
            return Made(dropped=(self._drop(case, "no text", "the case has neither history nor findings"),))
        key, written = await self._written(case, ask)
        rows: list[MmrpRow] = []
        dropped: list[Dropped] = []
        before: set[str] = set()
        for number, choice in enumerate(written, start=1):
            if isinstance(choice, Refused):
                dropped.append(self._drop(case, choice.reason, choice.detail, choice.text))
                continue
            if (plain := normalise(choice.question)) in before:
                dropped.append(self._drop(case, "asked twice", "", choice.question))
                continue
            before.add(plain)
            question = _Question(case, choice, number, [key])
            if (refused := await self._tried(question, ask)) is not None:
                dropped.append(self._drop(case, refused.reason, refused.detail, choice.question))
            else:
                rows.extend(self._rows(question))
        return Made(tuple(rows), tuple(dropped))

    async def _written(self, case: Case, ask: Ask) -> tuple[str, list[MultipleChoice | Refused]]:
        """What the author wrote: of two replies the one with more that can be used; and the key of its call."""
        count = self.seats.config.build.questions_per_case
        best: tuple[str, list[MultipleChoice | Refused]] = ("", [])
        for draw in range(AUTHOR_DRAWS):
            call = self.seats.call("author", self.seats.prompts.author(case, count), draw=draw)
            reply = await ask(call)
            try:
                written = read_choices(reply.text, count)
            except BrokenReply as problem:
                detail = f"{problem}; the token limit ended it" if reply.cut_off else str(problem)
                written = [Refused("broken reply", detail)]
            if not best[1] or _good(written) > _good(best[1]):
                best = (call.key, written)
            if all(isinstance(choice, MultipleChoice) for choice in written):
                break
        return best

    async def _tried(self, question: _Question, ask: Ask) -> Refused | None:
        """``None`` if it is a good question; the cheap reasons come before the dear ones."""
        choice = question.choice
        answer = choice.options[choice.right()]
        if names_answer(choice.question, answer):
            return Refused("answer in the question", answer)
        return await self._told(question, ask) or await self._one_right(question, ask) or await self._guessed(question, ask)

    async def _told(self, question: _Question, ask: Ask) -> Refused | None:
        """Whether it can be answered with the case."""
        build = self.seats.config.build
        share = await self._share(question, ask, blind=False, tries=build.tries)
        if share is None:
            return Refused("reader cannot be understood", "its replies name no option")
        question.share = share
        if share <= build.tries_threshold:
            return Refused("not answered with the case", f"right in {share:.0%} of {build.tries} tries")
        return None

    async def _guessed(self, question: _Question, ask: Ask) -> Refused | None:
        """Whether it is answered without the case too easily."""
        build = self.seats.config.build
        share = await self._share(question, ask, blind=True, tries=build.blind_tries) if build.blind_tries else None
        if share is not None and share > build.blind_threshold:
            return Refused("answered without the case", f"right in {share:.0%} of {build.blind_tries} tries")
        return None

    async def _share(self, question: _Question, ask: Ask, *, blind: bool, tries: int) -> float | None:
        """How many of a reader's answers are right; ``None`` if most cannot be understood.

        Each try has the options in an order of its own: who always says "A" is right by chance only.
        """
        choice, prompts = question.choice, self.seats.prompts
        orders = [self._order(question, f"{'blind' if blind else 'told'}:{number}") for number in range(tries)]
        calls = []
        for number, order in enumerate(orders):
            options = [choice.options[i] for i in order]
            messages = prompts.reader_blind(choice.question, options) if blind else prompts.reader(question.case, choice.question, options)
            calls.append(self.seats.call("reader", messages, draw=number))
        replies = await together(ask(call) for call in calls)
        question.calls += [call.key for call in calls]
        named = [_chosen(reply.text, order, choice) for reply, order in zip(replies, orders, strict=True)]
        understood = [n for n in named if n is not None]
        if not reaches_quorum(len(understood), tries):
            return None
        return sum(n == {choice.right()} for n in understood) / len(understood)

    async def _one_right(self, question: _Question, ask: Ask) -> Refused | None:
        """Whether the reader, asked for every right option, names that one alone. It is asked once more before a question is dropped."""
        choice = question.choice
        others: list[str] = []
        for draw in range(2):
            order = self._order(question, f"all:{draw}")
            messages = self.seats.prompts.reader_all(question.case, choice.question, [choice.options[i] for i in order])
            call: Call = self.seats.call("reader", messages, draw=draw)
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
        return _shuffled(len(question.choice.options), f"{self.seats.config.build.seed}:{question.case.id}:{question.number}:{what}")

    def _rows(self, question: _Question) -> list[MmrpRow]:
        case, choice, seats = question.case, question.choice, self.seats
        order = self._order(question, "row")
        quiz = QuizTemplate(choice.question, tuple(choice.options[i] for i in order), order.index(choice.right()), choice.reasoning)
        chance = random.Random(f"{seats.config.build.seed}:{case.id}:{question.number}:begun")  # noqa: S311 - to be repeated
        base = MmrpRow(
            id=f"text:{case.id}:{question.number}",
            part="text",
            images=(),
            turns=(),
            question=quiz.question,
            answer=quiz.options[quiz.right],
            options=quiz.options,
            # The share that a reader gets right at once, with everything before it, is what a baseline is for questions on images.
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

    def _drop(self, case: Case, reason: str, detail: str = "", text: str = "") -> Dropped:
        return Dropped("text", case.id, reason, detail, text, case.line)


def _good(written: list[MultipleChoice | Refused]) -> int:
    return sum(isinstance(choice, MultipleChoice) for choice in written)


def _chosen(reply: str, order: list[int], choice: MultipleChoice) -> set[int] | None:
    """Which of the author's options a reply names, whatever their order was."""
    named = named_options(reply, [choice.options[i] for i in order])
    return None if named is None else {order[i] for i in named}


def _shuffled(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)  # noqa: S311 - to be repeated, not to be secret
    return order
