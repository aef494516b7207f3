"""A reflection names a wrong step, a mentor's reason and the right step; mentors are asked through the ledger, once."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.client.ledger import Ledger
from chiron.client.prompts import read_section
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.mmrp.row import read_rows
from chiron.mmrp.signals.reflections import ReflectionOptions, build_reflections
from tests.mmrp.building import lines
from tests.mmrp.signals.searching import searched
from tests.support.cases import a_case
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, team, write_config
from tests.support.simulation import prompt_of

REASON = "Looking again, the margin is sharp, which speaks against it."


class Mentors:
    """Reply to requests for a reason, one reply after another."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.prompts = replies, list[tuple[str, str]]()

    def reply(self, body: dict[str, Any]) -> str:
        self.prompts.append((str(body["model"]), prompt_of(body)))
        return self.replies[min(len(self.prompts), len(self.replies)) - 1]


def reflect(run: Path, out: Path, *replies: str, **options: Any) -> tuple[Any, list[tuple[str, str]]]:
    mentors = Mentors(*(replies or (REASON,)))
    with Endpoint(mentors.reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        return build_reflections([run], config, out, options=ReflectionOptions(**options)), mentors.prompts


def test_the_right_step_follows_the_wrong_one_and_the_reason(tmp_path: Path) -> None:
    run = searched(tmp_path, 1)
    summary, prompts = reflect(run, tmp_path / "out")
    assert (summary.kept, summary.pending) == (1, 0)
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")
    read = parse_reasoning(row.turns[-1].text)
    assert all("mentor-c" in step for step in read.steps[:2])
    assert read.steps[2] == REASON
    assert all("mentor-a" in step for step in read.steps[3:])
    assert read.answer == row.answer
    assert row.reasoning == row.turns[-1].text
    signal = row.signal
    assert (signal["wrong_score"], signal["right_score"]) == (0.0, 1.0)
    assert (signal["wrong_mentor"], signal["right_mentor"], signal["asked"]) == ("mentor-c", "mentor-a", "mentor-a")
    assert row.turns[-1].text.startswith(signal["wrong"])
    assert row.provenance.models["reflection mentor-a"] == "openai:mentor-a"
    assert {"reflection", "reflection_system", "mentor"} <= set(row.provenance.prompts)
    with Ledger.read(tmp_path / "out" / "ledger.sqlite") as ledger, Ledger.read(run / "ledger.sqlite") as of_run:
        assert all(ledger.get(key) or of_run.get(key) for key in row.provenance.calls)
        assert ledger.get(row.provenance.calls[-1]) is not None
    ((model, prompt),) = prompts
    assert model == "mentor-a"
    assert read_section(prompt, "wrong_step") == signal["wrong"]
    assert "mentor-a" in (read_section(prompt, "right_step") or "")
    assert read_section(prompt, "answer") == row.answer


def test_a_rerun_asks_nothing_again(tmp_path: Path) -> None:
    run = searched(tmp_path, 2)
    reflect(run, tmp_path / "out")
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    _, prompts = reflect(run, tmp_path / "out")
    assert prompts == []
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Looking again, it must be rib fracture case-00000.", "reason names the answer"),
        ("Since the answer is known, this cannot be.", "reason reveals that the answer was known"),
        ("<think>The step is wrong.</think>", "no reason"),
        ("word " * 300, "reason not in the requested form"),
    ],
)
def test_a_reason_that_cannot_be_used_is_asked_once_more_and_then_dropped(tmp_path: Path, reply: str, reason: str) -> None:
    run = searched(tmp_path, 1)
    summary, prompts = reflect(run, tmp_path / "again", reply, REASON)
    assert (summary.kept, len(prompts)) == (1, 2)
    with pytest.raises(InputError, match=f"no reflection could be built .*1 x {reason}"):
        reflect(run, tmp_path / "never", reply)
    assert [d["reason"] for d in lines(tmp_path / "never" / "dropped.jsonl")] == [reason]


def test_step_marks_in_a_reason_do_not_make_further_steps(tmp_path: Path) -> None:
    run = searched(tmp_path, 1)
    reflect(run, tmp_path / "out", f"### Step 3: {REASON}")
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")
    assert row.signal["reason"] == REASON


def test_failed_calls_leave_the_case_pending(tmp_path: Path) -> None:
    run = searched(tmp_path, 1)
    from aiohttp import web

    with Endpoint(lambda _: REASON, override=lambda _body, _n: web.json_response({"error": {"message": "no"}}, status=400)) as endpoint:
        config = config_of(team(endpoint.base_url))
        summary = build_reflections([run], config, tmp_path / "out")
    assert (summary.kept, summary.pending) == (0, 1)
    assert reflect(run, tmp_path / "out")[0].kept == 1


def test_only_wrong_steps_with_a_better_sibling_are_reflected_on(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-b"])  # scores 1 and 1/3
    assert reflect(run, tmp_path / "kept")[0].kept == 1
    with pytest.raises(InputError, match=r"no reflection could be built .*1 x gap too small"):
        reflect(run, tmp_path / "wrong", max_wrong_score=0.2)
    alone = searched(tmp_path / "alone", 1, mentors=["mentor-a"])
    with pytest.raises(InputError, match="a search with one mentor"):
        reflect(alone, tmp_path / "none")


def test_a_step_that_the_better_path_says_later_is_not_wrong(tmp_path: Path) -> None:
    step = "The margin is sharp."
    early = f"### Step 1: {step}\n### Step 2: It was noted by mentor-c.\n### The final answer is: {a_case('case-00000').answer}"
    late = early.replace(step, "It was seen.").replace("mentor-c.", f"mentor-a.\n### Step 3: {step}")
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-c"], world={"replies": {"mentor-a": late, "mentor-c": early}})
    with pytest.raises(InputError, match=r"no reflection could be built .*1 x better path repeats the step"):
        reflect(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        ({"endings": {"mentor-a": "Something else"}}, "better path ends in another answer"),
        ({"whole": {"mentor-a": 0}}, "better path was refuted as a whole"),
        ({"steps": {"mentor-a": "The correct answer is given."}}, "reveals that the answer was known"),
        ({"steps": {"mentor-c": "The correct answer is given."}}, "reveals that the answer was known"),
    ],
)
def test_paths_that_must_not_be_learned_are_not_asked_about(tmp_path: Path, world: dict[str, Any], reason: str) -> None:
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-c"], world=world)
    with pytest.raises(InputError, match=f"no reflection could be built .*1 x {reason}"):
        reflect(run, tmp_path / "out")


def test_the_command_builds_them(tmp_path: Path) -> None:
    run = searched(tmp_path, 2)
    with Endpoint(Mentors(REASON).reply) as endpoint:
        config = write_config(tmp_path / "config.yaml", team(endpoint.base_url))
        done = chiron("build", "reflections", run, "--config", config, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 2


def test_the_offline_mentors_give_a_reason(tmp_path: Path) -> None:
    run = searched(tmp_path, 1)
    names = {
        "mentor-a": "extractive/last-first",
        "mentor-c": "extractive/findings-first",
        "intern": "retrieval/words",
        "judge": "match/normalised",
    }
    models = {name: {"provider": "offline", "model": model} for name, model in names.items()}
    config = config_of({"models": models, "search": {"mentors": ["mentor-a", "mentor-c"], "interns": ["intern"], "judge": "judge"}})
    assert build_reflections([run], config, tmp_path / "out").kept == 1
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")
    assert row.signal["reason"] == "Looking again, this alone does not separate the possible diagnoses."
