"""Every call of a case, with prompt and reply: the search runs again on the replies in the ledger and sends nothing.

A ledger stores replies, not prompts. The same search rules build the same prompts again, and a call's key proves that they are the same.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.cases.case import Case
from chiron.cases.formats import parse_case
from chiron.cases.images import ImageFolder, ImageProblem
from chiron.cases.reader import Selection, need_cases
from chiron.client.call import Call, ImagePart, Message, Reply, RoleModel
from chiron.client.failures import CallFailed
from chiron.client.ledger import Ledger, StoredResult
from chiron.errors import ChironError
from chiron.jobs.directory import LEDGER
from chiron.mics.prompts import Prompts
from chiron.mics.search import search
from chiron.mics.team import Policy, Team
from chiron.view.accounts import failures_of
from chiron.view.files import LineFile, reading

_NOT_THERE = "not in the ledger"


@dataclass(frozen=True)
class AskedCall:
    """A call and its reply."""

    model: str
    temperature: float | None
    sample: int
    place: str
    """Where in the tree its reply is used; empty for a judge."""
    reply: Reply | None
    failures: tuple[str, ...]
    """Why attempts failed, in words that may be shown."""
    copied: bool
    """Whether a replay copied the reply from another run, which paid for it."""


@dataclass(frozen=True)
class PromptGroup:
    """Calls with one prompt."""

    role: str
    messages: tuple[Message, ...]
    """Empty if the prompt is not known."""
    calls: list[AskedCall] = field(default_factory=list)


@dataclass(frozen=True)
class CaseCalls:
    """The calls of a case, in the order in which the search needs them."""

    groups: tuple[PromptGroup, ...]
    problem: str = ""
    """Why prompts are not shown."""

    @property
    def count(self) -> int:
        return sum(len(group.calls) for group in self.groups)

    @property
    def answered(self) -> int:
        """Number of calls with a reply."""
        return sum(call.reply is not None for group in self.groups for call in group.calls)

    @property
    def copied(self) -> int:
        """Number of replies that another run paid for."""
        return sum(call.copied for group in self.groups for call in group.calls)

    @property
    def cost_usd(self) -> float:
        """Cost of the replies that this run paid for."""
        return sum(cost or 0.0 for cost in self._costs())

    @property
    def priced(self) -> bool:
        """Whether every reply that this run paid for has a price."""
        return None not in self._costs()

    def _costs(self) -> list[float | None]:
        calls = (call for group in self.groups for call in group.calls)
        return [call.reply.cost_usd for call in calls if call.reply is not None and not call.copied]


class _Recorder:
    """Answers calls from a ledger and keeps them."""

    def __init__(self, ledger: Ledger, connection: sqlite3.Connection, places: Mapping[str, str]) -> None:
        self._ledger, self._connection, self._places = ledger, connection, places
        self._shown_after = ledger.shown_after()
        self.groups: dict[tuple[str, tuple[Message, ...]], PromptGroup] = {}
        self._known: dict[str, Reply | None] = {}

    async def __call__(self, call: Call) -> Reply:
        if call.key not in self._known:
            self._known[call.key] = reply = self._ledger.get(call.key)
            group = self.groups.setdefault((call.role, call.messages), PromptGroup(call.role, call.messages))
            group.calls.append(self.asked(call.key, call.model, call.temperature, call.draw, reply))
        found = self._known[call.key]
        if found is None:
            raise CallFailed(_NOT_THERE)
        return found

    def asked(self, key: str, model: str, temperature: float | None, sample: int, reply: Reply | None) -> AskedCall:
        failures = tuple(failures_of(self._connection, key, self._shown_after))
        row = self._connection.execute("SELECT copied FROM calls WHERE key = ?", (bytes.fromhex(key),)).fetchone()
        copied = row is not None and bool(row[0])
        return AskedCall(model, temperature, sample, self._places.get(key, ""), reply, failures, copied)


def read_calls(
    directory: Path, run: Mapping[str, Any], selection: Selection, images: ImageFolder | None, result: StoredResult
) -> CaseCalls:
    """Return the calls of a case with their prompts; without prompts if they cannot be built again, with the reason.

    Raises:
        InputError: the ledger cannot be read.
    """
    path = directory / LEDGER
    with Ledger.read(path) as ledger, reading(path) as connection:
        recorder = _Recorder(ledger, connection, dict(_places(result.record)))
        try:
            case = read_case(selection, result)
            _search_again(recorder, run, case, _hashes(case, images, result.record))
        except CaseNotKnown as problem:
            return CaseCalls(tuple(_without_prompts(recorder, ledger, result.record)), str(problem))
    return CaseCalls(tuple(recorder.groups.values()))


class CaseNotKnown(Exception):
    """The prompts of a case cannot be built again."""


def _hashes(case: Case, images: ImageFolder | None, record: Mapping[str, Any]) -> list[str]:
    """Return the hashes of the images as they were sent. A case that was stopped early has none on record."""
    hashes = (record.get("provenance") or {}).get("images") or []
    if len(hashes) == len(case.images):
        return [str(sha256) for sha256 in hashes]
    try:
        if images is None:
            raise CaseNotKnown("run.json names no image folder, so prompts are not shown.")
        return [images.check(name).sha256 for name in case.images]
    except ImageProblem as problem:
        raise CaseNotKnown(f"An image cannot be read, so prompts are not shown: {problem}") from problem


def _search_again(recorder: _Recorder, run: Mapping[str, Any], case: Case, hashes: list[str]) -> None:
    try:
        identity, texts = run["identity"], run["prompts"]
        team = Team(
            tuple(RoleModel(*entry) for entry in identity["mentors"]),
            tuple(RoleModel(*entry) for entry in identity["interns"]),
            RoleModel(*identity["judge"]),
        )
        policy = Policy(
            temperatures=tuple(identity["temperatures"]),
            mentor_temperature=identity["mentor_temperature"],
            depth=identity["depth"],
            restarts=identity["restarts"],
            stop=identity["policy"],
            baseline=identity["baseline"],
            threshold=identity["threshold"],
            seed=identity["seed"],
            image_side=identity["image_side"],
            mentor_image_side=identity.get("mentor_image_side"),
            evaluation=identity.get("evaluation", "full"),
        )
        pictures = tuple(ImagePart(sha256, policy.image_side) for sha256 in hashes)
        asyncio.run(search(case, team, recorder, policy, prompts=Prompts(texts), pictures=pictures))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CaseNotKnown(f"run.json lacks what the prompts are made of ({type(error).__name__}: {error}).") from error


def read_case(selection: Selection, result: StoredResult) -> Case:
    """Read a case from the file of cases, as it was searched.

    Raises:
        CaseNotKnown: the file is missing or has changed.
    """
    try:
        case = _case_at(selection, result)
    except (ChironError, ValueError, IndexError) as problem:
        raise CaseNotKnown(f"The file of cases cannot be read, so prompts are not shown: {problem}") from problem
    if case is None or case.id != result.case_id or case.fingerprint != result.fingerprint:
        raise CaseNotKnown(f"{selection.cases} has another version of this case now, so prompts are not shown.")
    return case


def _case_at(selection: Selection, result: StoredResult) -> Case | None:
    need_cases(selection.cases)
    if selection.cases.suffix.lower() == ".jsonl":
        lines = LineFile(selection.cases)
        while not lines.advance(0.0):
            pass
        return parse_case(lines.record(result.position))
    return next((case for position, case in selection if position == result.position and isinstance(case, Case)), None)


def _places(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield where each call of the record's tree is used, by key; the first use of a call counts."""
    found: dict[str, str] = {}
    attempts = record.get("tree") or []
    for attempt, levels in enumerate(attempts, start=1):
        for level in levels:
            where = f"depth {level.get('depth')}" + (f" of attempt {attempt}" if len(attempts) > 1 else "")
            for candidate in level.get("candidates") or ():
                found.setdefault(str(candidate.get("key")), f"{where}: candidate of {candidate.get('mentor')}")
                for evaluation in candidate.get("evaluations") or ():
                    found.setdefault(str(evaluation.get("key")), f"{where}: evaluates the candidate of {candidate.get('mentor')}")
            for evaluation in (level.get("whole_path") or {}).get("evaluations") or ():
                found.setdefault(str(evaluation.get("key")), f"{where}: evaluates the whole path")
    for evaluation in (record.get("baseline_score") or {}).get("evaluations") or ():
        found[str(evaluation.get("key"))] = "baseline"
    yield from found.items()


def _without_prompts(recorder: _Recorder, ledger: Ledger, record: Mapping[str, Any]) -> Iterator[PromptGroup]:
    """Yield the calls that the record names, without prompts. Calls to the judge are not named there."""
    known: set[str] = set()
    for role, model, temperature, key in _named(record):
        if key in known or len(key) != 64:
            continue
        known.add(key)
        try:
            reply = ledger.get(key)
        except ValueError:
            continue  # not a key
        yield PromptGroup(role, (), [recorder.asked(key, model, temperature, 0, reply)])


def _named(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None, str]]:
    scores = [record.get("baseline_score") or {}]
    for level in (level for levels in record.get("tree") or () for level in levels):
        for candidate in level.get("candidates") or ():
            yield "mentor", str(candidate.get("mentor")), None, str(candidate.get("key") or "")
        scores += [*(level.get("candidates") or ()), level.get("whole_path") or {}]
    for evaluation in (evaluation for score in scores for evaluation in score.get("evaluations") or ()):
        yield "intern", str(evaluation.get("intern")), evaluation.get("temperature"), str(evaluation.get("key") or "")
