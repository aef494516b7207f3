"""Mentor-Intern Collaborative Search (MICS) for one case. ``docs/search.md`` explains the rules."""

import random
from collections.abc import Sequence

from chiron.cases.case import Case
from chiron.client.call import Ask, ImagePart
from chiron.errors import InputError
from chiron.mics.answer_leak import leak_phrase
from chiron.mics.case_team import CaseTeam, TooFewAnswers, Unjudged
from chiron.mics.prompts import Prompts, load_prompts
from chiron.mics.result import Candidate, Level, Outcome, Path, Reason, SearchResult
from chiron.mics.team import Policy, Score, Team

RULES = 1
"""Version of the rules; increase it when the same replies would lead to another result."""


async def search(
    case: Case, team: Team, ask: Ask, policy: Policy, *, prompts: Prompts | None = None, pictures: tuple[ImagePart, ...] = ()
) -> SearchResult:
    """Search for a reasoning path that interns can follow to the known answer.

    Args:
        case: the case; only mentors see its findings and answer.
        team: mentors, interns, judge.
        ask: sends a call to a model. The same replies give the same result, in any order of arrival.
        policy: temperatures, depth, restarts, and what counts as a full score.
        prompts: prompt texts; by default those of the package.
        pictures: the case's images, in order.

    Returns:
        The outcome, the path and the search tree. A case below the quorum is pending if calls failed, and unjudged if the
        judge gave no verdict; it is never unsolved.

    Raises:
        InputError: the number of pictures is not the number of images in the case.
        RunStopped: ``ask`` sends no more calls.
    """
    if len(pictures) != len(case.images):
        raise InputError(
            f"case {case.id} has {len(case.images)} images, but {len(pictures)} pictures were given: pass pictures=, one for each image"
        )
    case_team = CaseTeam(case, pictures, team, ask, policy, prompts if prompts is not None else load_prompts())
    result = SearchResult(case, policy.stop, image_hashes=tuple(p.sha256 for p in pictures))
    try:
        await _search(case_team, policy, result)
    except Unjudged as problem:
        result.outcome, result.reason, result.detail = Outcome.UNJUDGED, Reason.NO_VERDICT, str(problem)
    except TooFewAnswers as shortage:
        result.outcome, result.reason, result.detail = Outcome.PENDING, Reason.CALLS_FAILED, str(shortage)
        result.retained = False
    result.calls, result.cost_usd = case_team.calls, case_team.cost_usd
    return result


async def _search(case_team: CaseTeam, policy: Policy, result: SearchResult) -> None:
    chance = random.Random(f"{policy.seed}:{result.case.id}")  # noqa: S311 - reproducible choices, not secrets
    if policy.baseline:
        result.baseline = await case_team.baseline()
    for restart in range(policy.restarts + 1):
        if await _attempt(case_team, policy, result, chance, restart):
            return
    unreadable = all(c.path is None for levels in result.tree for level in levels for c in level.candidates)
    result.outcome = Outcome.UNSOLVED
    result.reason = Reason.NO_READABLE_REASONING if unreadable else Reason.ALL_ZERO
    result.detail = (
        "no mentor wrote steps that can be read"
        if unreadable
        else f"at depth {len(result.tree[-1])} no candidate led an intern to the answer"
    )


async def _attempt(case_team: CaseTeam, policy: Policy, result: SearchResult, chance: random.Random, restart: int) -> bool:
    """Search once from the root. Return whether that gave a result; otherwise every candidate of a depth scored zero."""
    levels: list[Level] = []
    result.tree.append(levels)
    prefix: tuple[str, ...] = ()
    chosen: Path | None = None
    refuted: set[tuple[str, ...]] = set()
    """Whole paths that interns could not follow. They do not end the search, even if their prefix has a full score."""

    for depth in range(1, policy.depth + 1):
        level = Level(depth, await case_team.propose(prefix, chosen, restart=restart))
        levels.append(level)
        await case_team.score_candidates(level.candidates, restart=restart)
        if not any(c.score.correct for c in level.candidates):
            case_team.demand_mentors(level.candidates)
            return False

        full = [c for c in level.candidates if c.score.full and c.path is not None and c.path.steps not in refuted]
        best = await _most_trusted(full, levels, chance, case_team, restart) if full else _best(levels, chance)
        prefix, chosen, level.chosen = best.prefix, best.path, best.mentor
        assert chosen is not None  # noqa: S101 - a candidate with a right answer has a path
        score, last = best.score, depth == policy.depth
        if policy.stop == "verified" and (full or last):
            score, level.whole_steps = await case_team.score_whole(chosen, restart=restart)
            level.whole = score
        if full and score.full:
            await _conclude(case_team, policy, result, chosen, score, Outcome.FULL_SCORE)
            return True
        if last:
            await _conclude(case_team, policy, result, chosen, score, Outcome.DEPTH)
            return True
        if full:
            refuted.add(chosen.steps)
    return False


async def _most_trusted(
    full: Sequence[Candidate], levels: Sequence[Level], chance: random.Random, case_team: CaseTeam, restart: int
) -> Candidate:
    """Choose among full scores: the mentor with the highest sum of scores so far, then seeded random.

    If there are several, the evaluations that their mentors' earlier scores lack are asked.
    """
    mentors = {c.mentor for c in full}
    scored = [c for level in levels for c in level.candidates if c.mentor in mentors]
    if len(full) > 1:
        await case_team.complete(scored, restart=restart)
    total = {mentor: sum(c.score.value for c in scored if c.mentor == mentor) for mentor in mentors}
    highest = max(total.values())
    return chance.choice([c for c in full if total[c.mentor] >= highest - 1e-12])


def _best(levels: Sequence[Level], chance: random.Random) -> Candidate:
    """Choose the highest score at the last level; ties go to a mentor not chosen before, then seeded random."""
    finished = [c for c in levels[-1].candidates if c.path is not None and not c.score.not_asked]
    highest = max(c.score.value for c in finished)
    best = [c for c in finished if c.score.value >= highest - 1e-12]
    before = {level.chosen for level in levels}
    return chance.choice([c for c in best if c.mentor not in before] or best)


async def _conclude(case_team: CaseTeam, policy: Policy, result: SearchResult, path: Path, score: Score, outcome: Outcome) -> None:
    """Retain the path if its score exceeds the threshold, its final answer is right, and it does not reveal that the answer was known."""
    result.path, result.score = path, score
    phrase = leak_phrase("\n".join(path.steps))
    if score.value <= policy.threshold:
        result.reason = Reason.LOW_SCORE
        result.detail = f"MICS-Score {score.value:.2f} is not above {policy.threshold:g}"
    elif path.answer is None:
        result.reason, result.detail = Reason.NO_FINAL_ANSWER, f"the path of {path.mentor} comes to no final answer"
    elif not await case_team.is_right(path.answer):
        result.reason, result.detail = Reason.WRONG_FINAL_ANSWER, f"the path of {path.mentor} ends in another answer"
    elif phrase is not None:
        result.reason, result.detail = Reason.GIVES_AWAY_ANSWER, f'the path says "{phrase}"'
    result.outcome, result.retained = outcome, result.reason is None
