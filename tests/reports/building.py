"""Run directories made on the spot, by the same records that a search leaves behind."""

import json
from pathlib import Path
from typing import Any

from chiron.cases.case import Case
from chiron.client.call import Call, Message, Reply, TextPart, Usage
from chiron.client.ledger import Ledger, StoredResult
from chiron.mics.result import Candidate, Level, Outcome, Reason, SearchResult
from chiron.mics.result import Path as ReasoningPath
from chiron.mics.team import CandidateEvaluation, Score
from tests.support.cases import write_png

SCRIPT = "<script>window.pwned = 1; alert('pwned')</script>"
BREAKOUT = '"\'></bdi></article></script><img src=x onerror="window.pwned = 2">'
NAME = 'a"onerror="window.pwned=3" x=".png'
BIDI = "safe\u202egnp.exe\u2066"

IDENTITY: dict[str, Any] = {
    "mentors": [["mentor-a", "openai:gpt-4o", 2048], ["mentor-b", "openai:gemini", 2048]],
    "interns": [["intern-a", "openai:qwen", 1024], ["intern-b", "openai:internvl", 1024]],
    "judge": ["judge", "openai:deepseek", 16],
    "temperatures": [1.2, 0.2],
    "mentor_temperature": 1.2,
    "depth": 3,
    "restarts": 1,
    "policy": "verified",
    "threshold": 0.5,
    "seed": 7,
}


def a_case(name: str, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "id": name,
        "question": f"What does {name} show?",
        "answer": "Rib fracture",
        "images": (f"{name}/0.png",),
    }
    return Case(**{**values, **changes})


def a_score(*verdicts: bool | None, answer: str = "Rib fracture", problem: str | None = None) -> Score:
    return Score(
        tuple(
            CandidateEvaluation(f"intern-{'ab'[i % 2]}", (1.2, 0.2)[i // 2 % 2], answer if v is not None else None, v, problem)
            for i, v in enumerate(verdicts)
        )
    )


def a_level(depth: int, prefix: tuple[str, ...], new: int, score: Score, *, step: str = "", whole: Score | None = None) -> Level:
    """Mentor a is chosen; mentor b's call failed, or could not be read."""
    steps = (*prefix[:-1], step) if step else prefix
    path = ReasoningPath("mentor-a", steps, "Rib fracture", "00")
    candidates = [
        Candidate("mentor-a", path, steps, new, score),
        Candidate("mentor-b", None, problem=f"unreadable: no_steps {SCRIPT}"),
    ]
    return Level(depth, candidates, "mentor-a", whole, 2 if whole else 0)


def retained(case: Case, *, step: str = "A line of lucency.", answer: str = "Rib fracture") -> SearchResult:
    steps = ("Look at image 1.", step, "The cortex is broken.", "So it is a rib fracture.")
    path = ReasoningPath("mentor-a", steps, answer, "00")
    whole = a_score(True, True, True, None, answer=answer, problem=SCRIPT)
    tree = [
        [
            a_level(1, steps[:2], 2, a_score(True, False, True, None, answer=SCRIPT)),
            a_level(2, steps[:3], 1, a_score(True, True, True, True), whole=whole),
        ]
    ]
    baseline = a_score(True, False, False, False)
    return SearchResult(
        case, "verified", Outcome.FULL_SCORE, True, None, "", path, whole, baseline, tree, calls=21, cost_usd=0.25
    )  # fmt: skip


def rejected(case: Case, reason: Reason = Reason.LOW_SCORE, *, detail: str = "MICS-Score 0.25 is not above 0.5") -> SearchResult:
    result = retained(case)
    result.retained, result.reason, result.detail = False, reason, detail
    result.outcome, result.score = Outcome.DEPTH, a_score(True, False, False, False)
    return result


def unsolved(case: Case) -> SearchResult:
    level = a_level(1, ("Nothing.", "Nothing more."), 2, a_score(False, False, False, False))
    level.chosen = None
    tree = [[level], [level]]
    return SearchResult(case, "verified", Outcome.UNSOLVED, False, Reason.ALL_ZERO, "no intern came to the answer", tree=tree)


def pending(case: Case) -> SearchResult:
    return SearchResult(case, "verified", reason=Reason.CALLS_FAILED, detail="2 of 3 mentors did not answer: HTTP 503")


def stored(result: SearchResult, position: int) -> StoredResult:
    return StoredResult(
        result.case.id, position, result.case.fingerprint, result.outcome, result.retained, result.mics_score, result.to_record()
    )


def bad(position: int) -> StoredResult:
    record = {"case_id": None, "line": position + 1, "outcome": "bad_case", "reason": "bad_case", "detail": f"no question {SCRIPT}"}
    return StoredResult(f"line {position + 1}", position, "", "bad_case", retained=False, mics_score=None, record=record)


def write_run(folder: Path, results: list[StoredResult], **changes: Any) -> Path:
    """``run/`` with ``run.json`` and a ledger, and ``images/`` beside it."""
    run, images = folder / "run", folder / "images"
    run.mkdir(parents=True)
    images.mkdir()
    about = {
        "chiron": "0.1.0",
        "cases": str(folder / "cases.jsonl"),
        "images": str(images),
        "shard": None,
        "limit": None,
        "began": "2026-11-22T13:30:58+0000",
        "identity": IDENTITY,
    }
    (run / "run.json").write_text(json.dumps({**about, **changes}))
    with Ledger.open(run / "ledger.sqlite") as ledger:
        for result in results:
            ledger.put_result(result)
    return run


def put_calls(run: Path) -> None:
    """Two mentor calls with a price, one of them on its third attempt; one intern call without; one that failed for good."""
    with Ledger.open(run / "ledger.sqlite") as ledger:
        for draw in range(2):
            reply = Reply("text", usage=Usage(1000, 200), attempts=1 + 2 * draw, cost_usd=0.5)
            ledger.put(_call("mentor", "mentor-a", draw), reply)
        ledger.put(_call("intern", "intern-a", 0), Reply("text", usage=Usage(10, 5)))
        ledger.note_failure(_call("intern", "intern-a", 1), "overloaded", "HTTP 503", final=True)


def hostile_run(folder: Path) -> Path:
    """One case of each kind, and everything that can hold an attack holds one."""
    cases = [
        retained(a_case("plain", images=("plain/0.png", NAME, "missing.png", "../outside.png"))),
        retained(a_case(BREAKOUT, question=SCRIPT, answer=BREAKOUT, images=()), step=f"{SCRIPT} ]]> {BIDI}", answer=BREAKOUT),
        rejected(a_case("low", question=f"{BIDI} {{{{ 7 * 7 }}}}"), detail=SCRIPT),
        unsolved(a_case("nothing", images=())),
        pending(a_case("waits", images=())),
    ]
    run = write_run(folder, [*(stored(r, i) for i, r in enumerate(cases)), bad(len(cases))], cases=f"{BREAKOUT}.jsonl")
    write_png(folder / "images" / "plain" / "0.png", size=(700, 350))
    write_png(folder / "images" / NAME)
    put_calls(run)
    return run


def _call(role: Any, model: str, draw: int) -> Call:
    message = Message("user", (TextPart("q"),))
    return Call(role, model, f"openai:{model}", (message,), 1.2, 100, draw)
