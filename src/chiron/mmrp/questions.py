"""Write short-answer questions for the search, for cases with or without one, as a doctor, student or patient would ask."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Unpack

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder, ImageProblem, image_folder
from chiron.client.call import Ask, Call, ImagePart
from chiron.client.failures import CallerFault
from chiron.conversation.short_answers import read_verdict
from chiron.jobs.job import run_job
from chiron.mics.answer_leak import content_words, names_answer
from chiron.mics.case_team import JUDGE_SAMPLES
from chiron.mics.prompts import patient
from chiron.mmrp.authoring import BrokenReply, BuildRoles, OpenQuestion, Refused, read_asked
from chiron.mmrp.config import BuildFile, Persona
from chiron.mmrp.part import BuildOptions, BuildProgress, BuildSummary, Made, PartRun, patient_of, select_cases
from chiron.mmrp.row import Dropped

RULES: Final = 1
"""Version of the rules; increase it when the same replies would give other questions."""
AUTHOR_DRAWS: Final = 2
"""Calls to the author per question: an unusable reply is requested once more."""
CASES: Final = "cases.jsonl"
"""Output file, the input of ``chiron search``."""
LONGEST_QUESTION, LONGEST_ANSWER = 1000, 300
"""Maximum lengths in characters."""


def build_questions(
    cases: Path,
    config: BuildFile,
    out: Path,
    **options: Unpack[BuildOptions],
) -> BuildSummary:
    """Write cases with questions to ``out``: ``cases.jsonl`` (for ``chiron search``) and ``dropped.jsonl``.

    Each case gives one question per persona, with ids such as ``CASE-doctor``; ``made_from`` records its source. For arguments and
    errors, see :func:`chiron.mmrp.text.build_text`.
    """
    return run_job(prepare_questions(cases, config, out, **options))


def prepare_questions(
    cases: Path,
    config: BuildFile,
    out: Path,
    **options: Unpack[BuildOptions],
) -> PartRun[Case]:
    """Prepare :func:`build_questions`: validate its inputs without running it."""
    source = select_cases(cases, options.get("limit"), options.get("shard"))
    seats = BuildRoles.of(config, cases, need_reader=False, need_keys=options.get("need_keys", True))
    build = config.build
    folder = image_folder(cases, options.get("images")) if build.show_images else None
    rules: dict[str, Any] = {"manners": list(build.personas), "read_questions": build.read_questions, "show_images": build.show_images}
    if build.show_images:
        rules["image_side"] = build.image_side
    return PartRun(
        kept_file=CASES,
        source=source,
        make=Inquirer(seats, folder).inquire,
        identity={**seats.identity(), **rules, "rules": RULES},
        most_calls={
            "author": AUTHOR_DRAWS * len(build.personas),
            **({"reader": AUTHOR_DRAWS * JUDGE_SAMPLES * len(build.personas)} if build.read_questions else {}),
        },
        progress=BuildProgress(noun="questions"),
        **seats.fields("questions", prepare_questions, cases, out, options),
    )


@dataclass(frozen=True)
class Inquirer:
    """Let the author model write questions."""

    seats: BuildRoles
    folder: ImageFolder | None
    """Folder of the images shown to author and reader, if any."""

    async def inquire(self, case: Case, ask: Ask) -> Made:
        """Create a case's questions, as cases.

        Raises:
            CallFailed: a reply is missing.
            RunStopped: no more calls are sent.
        """
        # A title alone may only be the scanner's name of the study.
        described = case.findings or case.answer or (case.title and case.history)
        if not described and self.folder is None:
            problem = "the case has neither findings nor a diagnosis: set build.show_images to have questions made from its images"
            return Made.drop("questions", case, "no text", problem)
        try:
            pictures = await asyncio.to_thread(self._pictures_of, case)
        except (ImageProblem, CallerFault) as problem:
            return Made.drop("questions", case, "bad image", str(problem), outcome="bad")
        try:
            made = [await self._one(case, manner, pictures, ask) for manner in self.seats.config.build.personas]
        finally:
            self.seats.roles.pictures.release(pictures)
        kept = tuple(item for item in made if isinstance(item, Case))
        return Made(kept, tuple(item for item in made if isinstance(item, Dropped)))

    def _pictures_of(self, case: Case) -> tuple[ImagePart, ...]:
        if self.folder is None:
            return ()
        return self.seats.roles.load_images(self.folder, case.images, self.seats.config.build.image_side)

    async def _one(self, case: Case, manner: Persona, pictures: tuple[ImagePart, ...], ask: Ask) -> Case | Dropped:
        refused = Refused("broken reply", "")
        for draw in range(AUTHOR_DRAWS):
            call = self.seats.call("author", self.seats.prompts.question(case, manner, pictures), sample_index=draw)
            reply = await ask(call)
            try:
                asked = read_asked(reply.text)
            except BrokenReply as problem:
                refused = problem.refused(reply)
                continue
            found = check_question(case, asked, seen=bool(pictures))
            if isinstance(found, Refused):
                refused = found
                continue
            keys = [call.key]
            if self.seats.config.build.read_questions:
                read = await self._read(case, found, pictures, ask)
                if isinstance(read, Refused):
                    refused = read
                    continue
                keys.append(read.key)
            return self._case(case, manner, found, keys)
        return Dropped.of("questions", case, refused.reason, f"{manner}: {refused.detail}", refused.text)

    async def _read(self, case: Case, asked: OpenQuestion, pictures: tuple[ImagePart, ...], ask: Ask) -> Call | Refused:
        messages = self.seats.prompts.reader_question(case, asked.question, asked.answer, pictures)
        for draw in range(JUDGE_SAMPLES):
            call = self.seats.call("reader", messages, sample_index=draw)
            verdict = read_verdict((await ask(call)).text)
            if verdict is not None:
                return call if verdict else Refused("the reader disagrees", f"answer: {asked.answer}", asked.question)
        return Refused("reader cannot be understood", "its replies are neither yes nor no", asked.question)

    def _case(self, case: Case, manner: Persona, asked: OpenQuestion, keys: list[str]) -> Case:
        made = {
            "made_from": case.id,
            "manner": manner,
            "made_by": {"calls": keys, "models": dict(self.seats.models())},
            # Keep all questions about one patient in the same split.
            "patient": patient_of(case),
        }
        if case.question:
            made["first_question"], made["first_answer"] = case.question, case.answer
        return replace(
            case, id=f"{case.id}-{manner}", question=asked.question, answer=asked.answer, meta=MappingProxyType({**case.meta, **made})
        )


def check_question(case: Case, asked: OpenQuestion, *, seen: bool = False) -> OpenQuestion | Refused:
    """Return the question without surrounding blanks, or why it is unusable.

    Args:
        case: the case that it is about.
        asked: the question as its author wrote it.
        seen: whether the author saw the images, so that the answer may come from them and not from the text.
    """
    question, answer = asked.question.strip(), asked.answer.strip()
    if not question or not answer:
        return Refused("empty question" if not question else "empty answer", "", question)
    if len(question.splitlines()) > 1 or len(answer.splitlines()) > 1:
        return Refused("several lines", "question and answer are a line each", question)
    if len(question) > LONGEST_QUESTION or len(answer) > LONGEST_ANSWER:
        return Refused("too long", f"{len(question)} and {len(answer)} characters", question[:LONGEST_QUESTION])
    if names_answer(question, answer) or content_words(answer) <= content_words(question):
        return Refused("answer in the question", f"answer: {answer}", question)
    text = "\n".join((patient(case), *case.findings, case.title or "", case.answer))
    if not seen and not names_answer(text, answer):
        return Refused("answer not in the case", f"answer: {answer}", question)
    return OpenQuestion(question=question, answer=answer)
