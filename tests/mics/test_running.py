"""A run can be stopped, killed, crowded, starved and begun again: nothing is lost, and nothing is paid for twice."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chiron.cases.case import Case
from chiron.cases.reader import Selection, Shard
from chiron.client.failures import BudgetSpent, ConfigurationError, EndpointDown, Missing, TooManyCrashes, UserStopped
from chiron.client.ledger import Ledger
from chiron.errors import DiskError, InputError
from chiron.mics.api import replay_run, replay_setup
from chiron.mics.replay import rehearse
from chiron.mics.result import SearchResult
from chiron.mics.run_directory import PATH_FIELDS, RunDirectory, read_status
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup
from chiron.mics.team import most_calls
from chiron.reports.page import write_report
from tests.support.calls import a_call
from tests.support.cases import a_case, known_answers, write_cases, write_png
from tests.support.endpoint import Endpoint, Faults
from tests.support.runs import config_of, execute, make_run, team
from tests.support.simulation import Simulation, prompt_of


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def simulation(cases: Path, **changes: Any) -> Simulation:
    return Simulation(known_answers(cases), **changes)


def files(run: Path) -> tuple[str, str]:
    return (run / "paths.jsonl").read_text(), (run / "rejected.jsonl").read_text()


@pytest.mark.slow
def test_a_run_leaves_what_the_design_says(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with Endpoint(simulation(cases, skill=0.1).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    assert summary.total == 6 == summary.retained + summary.rejected + summary.unsolved
    paths, rejected = lines(tmp_path / "run" / "paths.jsonl"), lines(tmp_path / "run" / "rejected.jsonl")
    assert len(paths) == summary.retained > 0
    assert len(paths) + len(rejected) == 6
    for path in paths:
        assert tuple(path) == PATH_FIELDS
        assert path["reasoning"].startswith("### Step 1: ")
        assert path["reasoning"].splitlines()[-1] == f"### The final answer is: {path['answer']}"
        assert path["mics_score"] == path["evaluations"]["correct"] / path["evaluations"]["answered"] > 0.5
    assert all(r["reason"] for r in rejected)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(run["identity"]["prompts"]) >= {"mentor", "intern", "judge"}
    assert {oct(f.stat().st_mode & 0o777) for f in (tmp_path / "run").iterdir()} == {"0o600"}


@pytest.mark.slow
def test_running_again_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        before, asked = files(tmp_path / "run"), endpoint.seen.requests
        (tmp_path / "run" / "paths.jsonl").unlink()
        summary = execute(cases, config, tmp_path / "run")
        assert endpoint.seen.requests == asked
    assert files(tmp_path / "run") == before
    assert summary.total == 4


def test_cases_without_a_question_are_told_with_what_to_do(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    records = [json.loads(line) for line in cases.read_text().splitlines()]
    records[0] |= {"question": "", "answer": ""}
    cases.write_text("".join(json.dumps(record) + "\n" for record in records))
    with Endpoint(simulation(write_cases(tmp_path / "other", 2)).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    assert summary.bad == 1
    assert any("1 cases have no question" in note and "chiron build questions" in note for note in summary.notes)


@pytest.mark.slow
def test_even_the_results_can_be_made_again_from_the_replies(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        before, asked = files(tmp_path / "run"), endpoint.seen.requests
        with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
            ledger._db.execute("DELETE FROM results")
        execute(cases, config, tmp_path / "run")
        assert endpoint.seen.requests == asked
    assert files(tmp_path / "run") == before


@pytest.mark.slow
def test_identical_judge_questions_are_asked_once(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(simulation(cases).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
        judged = [json.dumps(b) for b in endpoint.seen.bodies if b["model"] == "judge"]
    assert len(judged) == len(set(judged))
    assert len(judged) < sum(b["model"].startswith("intern") for b in endpoint.seen.bodies) / 2


@pytest.mark.slow
def test_more_cases_are_added_to_a_run_and_edited_ones_searched_again(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        assert execute(cases, config, tmp_path / "run", limit=2).total == 2
        asked = {json.dumps(b) for b in endpoint.seen.bodies}
        execute(cases, config, tmp_path / "run")
        assert len(endpoint.seen.bodies) == len({json.dumps(b) for b in endpoint.seen.bodies}) > len(asked)
        records = lines(cases)
        records[1]["history"] = "Fell from a horse."
        cases.write_text("\n".join(json.dumps(r) for r in records))
        before = endpoint.seen.requests
        execute(cases, config, tmp_path / "run")
        assert endpoint.seen.requests > before
        assert all("horse" in json.dumps(b) or b["model"] == "judge" for b in endpoint.seen.bodies[before:])


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
def test_faults_lose_no_case_and_change_no_result(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    world = simulation(cases)
    with Endpoint(world.reply) as calm:
        execute(cases, config_of(team(calm.base_url)), tmp_path / "calm")
    with Endpoint(world.reply, faults=Faults(0.25, 0.1, 0.01, 0.005, hang_seconds=3, retry_after="0.01")) as flaky:
        config = config_of(team(flaky.base_url, model={"timeout": 1.0}))
        summary = execute(cases, config, tmp_path / "flaky")
    assert summary.pending == 0
    assert flaky.seen.statuses[500] > 20
    assert files(tmp_path / "flaky") == files(tmp_path / "calm")
    assert all(p["evaluations"]["answered"] == 6 for p in lines(tmp_path / "flaky" / "paths.jsonl"))


@pytest.mark.slow
def test_a_dead_intern_leaves_cases_pending_and_a_second_run_ends_them(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    dead = {"intern-b", "intern-c"}

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        return web.Response(status=400, text="no") if body["model"] in dead else None

    with Endpoint(simulation(cases).reply, override=override) as endpoint:
        config = config_of(team(endpoint.base_url))
        first = execute(cases, config, tmp_path / "run")
        assert first.pending == 3
        assert {r["reason"] for r in lines(tmp_path / "run" / "rejected.jsonl")} <= {"calls_refused", "calls_failed"}
        assert isinstance(first.halted, ConfigurationError)

        dead.clear()
        second = execute(cases, config, tmp_path / "run")
        assert second.pending == 0
    with Endpoint(simulation(cases).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "undisturbed")
    assert files(tmp_path / "run") == files(tmp_path / "undisturbed")


@pytest.mark.slow
def test_cases_that_ended_on_a_quorum_are_counted_and_a_replay_completes_them(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    dead = {"intern-c"}

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        return web.Response(status=400, text="no") if body["model"] in dead and body["temperature"] > 1 else None

    with Endpoint(simulation(cases).reply, override=override) as endpoint:
        config = config_of(team(endpoint.base_url))
        first = execute(cases, config, tmp_path / "run")
        both = [*lines(tmp_path / "run" / "paths.jsonl"), *lines(tmp_path / "run" / "rejected.jsonl")]
        ended, lost = len(both), sum(line["missing"]["evaluations"] for line in both)
        assert lost > 0
        words = f"{ended} cases ended with missing calls (0 candidates, {lost} evaluations)"
        assert any(note.startswith(words) for note in first.notes)
        status = read_status(tmp_path / "run")
        assert (status.incomplete, status.missing_candidates, status.missing_evaluations) == (ended, 0, lost)
        dead.clear()
        setup = replay_setup(RunDirectory(tmp_path / "run"), config)
        again = asyncio.run(replay_run(setup, RunDirectory(tmp_path / "run"), tmp_path / "again").execute())
    assert not any("missing" in note for note in again.notes)
    assert all(e["answered"] == e["planned"] for e in evaluations(tmp_path / "again"))


@pytest.mark.slow
def test_a_candidate_that_is_missing_is_told_in_record_status_and_report(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        question = "What does the image of case-00001 show?"
        refused = body["model"] == "mentor-c" and question in prompt_of(body)
        return web.Response(status=400, text="too long") if refused else None

    with Endpoint(simulation(cases).reply, override=override) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    both = [*lines(tmp_path / "run" / "paths.jsonl"), *lines(tmp_path / "run" / "rejected.jsonl")]
    lost = {line["case_id"]: line["missing"]["candidates"] for line in both}
    assert lost["case-00001"] > 0
    assert lost["case-00000"] == lost["case-00002"] == 0
    status = read_status(tmp_path / "run")
    assert (status.incomplete, status.missing_candidates) == (1, lost["case-00001"])
    assert any("1 cases ended with missing calls" in note for note in summary.notes)
    page = write_report(tmp_path / "run").read_text()
    assert "ended with something missing" in page
    assert page.count("missing, because their calls failed") == 1
    with Ledger.read(tmp_path / "run" / "ledger.sqlite") as ledger:
        for result in ledger.results():
            known = {key: value for key, value in result.record.items() if key != "missing"}
            assert Missing.of(known) == Missing.of(result.record)  # a record from before it was counted


def evaluations(run: Path) -> list[dict[str, int]]:
    both = [*lines(run / "paths.jsonl"), *lines(run / "rejected.jsonl")]
    return [line["evaluations"] for line in both if line["outcome"] != "pending"]


def test_an_endpoint_that_is_down_stops_the_run_with_its_name(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 30, shared_image=True)
    data = team("http://127.0.0.1:9/v1", model={"attempts": 1}, cases_in_flight=1)
    summary = execute(cases, config_of(data), tmp_path / "run")
    assert isinstance(summary.halted, EndpointDown)
    assert "mentor-" in str(summary.halted)
    assert summary.pending == 30
    assert sum(s.failed for s in summary.spending) == 0  # no call was given up, and the other cases were not even begun


def test_a_model_that_is_not_there_stops_the_run_at_once(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        missing = {"error": {"message": "model 'mentor-b' not found"}}
        return web.json_response(missing, status=404) if body["model"] == "mentor-b" else None

    with Endpoint(simulation(cases).reply, override=override) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url, cases_in_flight=1)), tmp_path / "run")
        assert isinstance(summary.halted, ConfigurationError)
        assert "model 'mentor-b' rejects every call: mentor-b: HTTP 404: model 'mentor-b' not found: check 'model'" in str(summary.halted)
        assert endpoint.seen.requests < 40


@pytest.mark.slow
def test_stopping_keeps_what_was_paid_for(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    world = simulation(cases)
    with Endpoint(world.reply, latency=lambda _: 0.02) as endpoint:
        config = config_of(team(endpoint.base_url))
        run = make_run(cases, config, tmp_path / "run")

        async def main() -> None:
            task = asyncio.create_task(run.execute())
            while endpoint.seen.requests < 60:
                await asyncio.sleep(0.005)
            run.stop()
            summary = await task
            assert isinstance(summary.halted, UserStopped)
            assert summary.pending > 0

        asyncio.run(main())
        execute(cases, config, tmp_path / "run")
        assert max(endpoint.seen.answered.values()) == 1
        execute(cases, config, tmp_path / "undisturbed")
    assert files(tmp_path / "run") == files(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_budget_stops_the_run_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    price = {"price": {"input": 10.0, "output": 10.0}, "max_tokens": 200}
    with Endpoint(simulation(cases).reply) as endpoint:
        small = execute(cases, config_of(team(endpoint.base_url, model=price, budget_usd=1.0)), tmp_path / "run")
        assert isinstance(small.halted, BudgetSpent)
        assert 0.5 < small.spent_usd <= 1.0
        assert small.pending > 0
        large = execute(cases, config_of(team(endpoint.base_url, model=price, budget_usd=100.0)), tmp_path / "run")
        assert large.halted is None
        assert large.pending == 0
        assert max(endpoint.seen.answered.values()) == 1


@pytest.mark.slow
def test_one_bad_case_stops_nothing(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    (tmp_path / "images" / "case-00001" / "0.png").write_bytes(b"")
    with cases.open("a") as file:
        file.write('{"id": "broken\n')
        file.write(json.dumps(a_case("case-00000", images=("../out.png",)).to_record()) + "\n")
        file.write(json.dumps(a_case("out", images=("../out.png",)).to_record()) + "\n")
    with Endpoint(
        Simulation({f"What does the image of case-0000{n} show?": f"Rib fracture case-0000{n}" for n in range(3)}).reply
    ) as endpoint:
        config = config_of(team(endpoint.base_url))
        summary = execute(cases, config, tmp_path / "run")
        assert (summary.bad, summary.pending) == (4, 0)
        bad = [r for r in lines(tmp_path / "run" / "rejected.jsonl") if r["outcome"] == "bad_case"]
        assert [b["line"] for b in bad] == [2, 4, 5, 6]
        assert [
            "empty" in bad[0]["detail"],
            "broken JSON" in bad[1]["detail"],
            "already used" in bad[2]["detail"],
            "leaves" in bad[3]["detail"],
        ] == [True] * 4
        write_png(tmp_path / "images" / "case-00001" / "0.png", seed=5)
        assert execute(cases, config, tmp_path / "run").bad == 3


@pytest.mark.slow
def test_a_bug_that_one_case_meets_leaves_it_pending_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = write_cases(tmp_path, 4)

    async def stumbling(case: Case, *args: Any, **more: Any) -> SearchResult:
        result = await search(case, *args, **more)
        if case.id == "case-00002":
            raise KeyError(case.history)
        return result

    with Endpoint(simulation(cases, skill=0.9).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        with monkeypatch.context() as patch:
            patch.setattr("chiron.mics.run.search", stumbling)
            summary = execute(cases, config, tmp_path / "run")
        assert (summary.pending, summary.halted) == (1, None)
        (row,) = [r for r in lines(tmp_path / "run" / "rejected.jsonl") if r["case_id"] == "case-00002"]
        assert (row["outcome"], row["reason"]) == ("pending", "crashed")
        assert "KeyError" in row["detail"]
        assert "KeyError" in (tmp_path / "run" / "errors.log").read_text()
        assert "ladder" not in (tmp_path / "run" / "errors.log").read_text() + str(summary)
        asked = endpoint.seen.requests
        assert execute(cases, config, tmp_path / "run").pending == 0
        assert endpoint.seen.requests == asked


def test_a_bug_that_every_case_meets_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = write_cases(tmp_path, 40, shared_image=True)

    async def stumbling(*_: Any, **__: Any) -> SearchResult:
        raise KeyError

    monkeypatch.setattr("chiron.mics.run.search", stumbling)
    with Endpoint(simulation(cases).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url, cases_in_flight=2)), tmp_path / "run")
    assert isinstance(summary.halted, TooManyCrashes)
    assert (summary.pending, summary.retained) == (40, 0)
    assert len(lines(tmp_path / "run" / "rejected.jsonl")) < 20


def test_a_case_called_as_a_bad_line_is_takes_nobodys_place(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with cases.open("a") as file:
        file.write('{"id": "broken\n')
        file.write(json.dumps(a_case("line 2", images=("case-00000/0.png",)).to_record()) + "\n")
    with Endpoint(Simulation({}).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    assert (summary.total, summary.bad, summary.pending) == (3, 1, 0)
    assert summary.retained + summary.rejected + summary.unsolved == 2


@pytest.mark.slow
def test_removed_reordered_and_broken_cases_leave_what_a_fresh_run_would(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    records = lines(cases)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        asked = endpoint.seen.requests
        kept = [json.dumps(records[n]) for n in (4, 0, 3)]
        cases.write_text("\n\n".join([*kept, '{"id": "case-00001", "question": ']) + "\n")
        summary = execute(cases, config, tmp_path / "run")
        assert endpoint.seen.requests == asked
        assert (summary.total, summary.bad) == (4, 1)
        execute(cases, config, tmp_path / "fresh")
    assert files(tmp_path / "run") == files(tmp_path / "fresh")
    assert [b["line"] for b in lines(tmp_path / "run" / "rejected.jsonl") if "line" in b] == [7]


@pytest.mark.slow
def test_a_row_can_be_traced_to_case_images_and_replies(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(simulation(cases).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    with Ledger.read(tmp_path / "run" / "ledger.sqlite") as ledger:
        for path in lines(tmp_path / "run" / "paths.jsonl"):
            origin = path["provenance"]
            assert len(origin["evaluations"]) == path["evaluations"]["planned"]
            for key in [origin["path"], *origin["mentors"], *origin["evaluations"]]:
                assert ledger.get(key) is not None
            assert len(origin["images"][0]) == len(origin["case"]) == 64


@pytest.mark.slow
def test_going_on_shows_what_was_done_before(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        again = make_run(cases, config, tmp_path / "run")
        asyncio.run(again.execute())
    assert (again.progress.already, sum(again.progress.outcomes[o] for o in ("retained", "rejected", "unsolved"))) == (3, 3)
    assert again.progress.mean_score is not None


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(simulation(cases).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
        with pytest.raises(InputError, match=r"depth: 3 there, 2 here") as caught:
            execute(cases, config_of(team(endpoint.base_url, depth=2)), tmp_path / "run")
        assert "chiron replay" in str(caught.value)
        # What changes no result may change: speed, prices, addresses.
        execute(cases, config_of(team(endpoint.base_url, model={"concurrency": 3, "timeout": 9}, cases_in_flight=1)), tmp_path / "run")


def test_another_configuration_is_refused_even_when_run_json_is_lost(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(simulation(cases).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
        (tmp_path / "run" / "run.json").unlink()
        before = files(tmp_path / "run")
        with pytest.raises(InputError, match=r"another configuration \(depth: 3 there, 2 here\)"):
            execute(cases, config_of(team(endpoint.base_url, depth=2)), tmp_path / "run")
        assert files(tmp_path / "run") == before
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.slow
def test_another_file_of_cases_is_refused_before_anything_is_lost(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**line, "id": f"other-{n}"}) + "\n" for n, line in enumerate(lines(cases))))
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        before, asked = files(tmp_path / "run"), endpoint.seen.requests
        with pytest.raises(InputError, match=r"results of 4 cases .* 4 of them are not in .*other\.jsonl: choose another --run"):
            execute(other, config, tmp_path / "run")
        assert (files(tmp_path / "run"), endpoint.seen.requests) == (before, asked)
        moved = cases.rename(tmp_path / "moved.jsonl")
        execute(moved, config, tmp_path / "run")
        assert endpoint.seen.requests == asked


@pytest.mark.slow
def test_a_part_of_another_file_is_refused_too(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**line, "id": f"other-{n}"}) + "\n" for n, line in enumerate(lines(cases))))
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        with pytest.raises(InputError, match="choose another --run"):
            execute(other, config, tmp_path / "run", limit=1)


@pytest.mark.slow
def test_a_part_of_the_file_leaves_bad_lines_of_the_rest_on_record(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    text = cases.read_text().splitlines(keepends=True)
    with Endpoint(simulation(cases).reply) as endpoint:
        cases.write_text("".join([*text[:3], "{broken\n", text[3]]))
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        before = files(tmp_path / "run")
        assert "bad_case" in before[1]
        execute(cases, config, tmp_path / "run", limit=2)
        assert files(tmp_path / "run") == before
        cases.write_text("".join(text))
        execute(cases, config, tmp_path / "run")
        assert "bad_case" not in files(tmp_path / "run")[1]


@pytest.mark.slow
def test_results_that_leave_with_their_cases_are_counted(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        cases.write_text("".join(cases.read_text().splitlines(keepends=True)[:3]))
        assert any("1 results belong to cases that are no longer in" in note for note in execute(cases, config, tmp_path / "run").notes)


@pytest.mark.slow
def test_a_late_snapshot_never_replaces_the_final_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = write_cases(tmp_path, 6)
    slow = RunDirectory.write_derived

    def write(directory: RunDirectory, ledger: Ledger) -> None:
        if threading.current_thread() is not threading.main_thread():
            seen = [result.record for result in ledger.results()]  # an early snapshot ...
            time.sleep(1.0)
            assert len(seen) < 6
            (directory.path / "paths.jsonl").write_text("old\n")  # ... that takes long to be written
        else:
            slow(directory, ledger)

    monkeypatch.setattr("chiron.mics.run._DERIVE_EVERY", 0.0)
    monkeypatch.setattr(RunDirectory, "write_derived", write)
    with Endpoint(simulation(cases, skill=0.9).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    assert len(lines(tmp_path / "run" / "paths.jsonl")) == summary.retained


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(simulation(cases).reply) as endpoint, RunDirectory(tmp_path / "run").locked():
        assert RunDirectory(tmp_path / "run").in_use
        with pytest.raises(InputError, match="in use by another process"):
            execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")


def test_shards_share_out_the_cases(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 40, shared_image=True)
    parts = [[c.id for _, c in Selection(cases, shard=Shard(i, 3)) if c.id] for i in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == [f"case-{n:05d}" for n in range(40)]
    assert all(len(p) > 5 for p in parts)
    for text in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(InputError, match="--shard"):
            Shard.parse(text)


@pytest.mark.slow
def test_replay_with_another_policy_pays_for_the_new_calls_only(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 5)
    with Endpoint(simulation(cases, skill=0.2).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "old")
        asked = endpoint.seen.requests
        before = files(tmp_path / "old")
        config = config_of(team(endpoint.base_url, policy="paper", restarts=2))
        old = RunDirectory(tmp_path / "old")
        setup = replay_setup(old, config)
        plan = asyncio.run(rehearse(setup, old.ledger))
        assert endpoint.seen.requests == asked
        asyncio.run(replay_run(setup, old, tmp_path / "new").execute())
        new = endpoint.seen.requests - asked
        assert plan.new_calls_at_least <= new <= plan.new_calls_at_most
        assert max(endpoint.seen.answered.values()) == 1
        assert files(tmp_path / "old") == before
        execute(cases, config, tmp_path / "fresh")
    assert files(tmp_path / "new") == files(tmp_path / "fresh")


@pytest.mark.parametrize("change", [{"shard": 5}, {"limit": "x"}, {"shard": "7/3"}])
def test_replay_of_a_run_with_a_damaged_run_json_says_so(tmp_path: Path, change: dict[str, Any]) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
    told = tmp_path / "run" / "run.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), **change}))
    with pytest.raises(InputError, match=r"shard"):
        replay_setup(RunDirectory(tmp_path / "run"), config)


@pytest.mark.slow
def test_replay_of_the_same_configuration_is_free(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url, model={"price": {"input": 1.0, "output": 1.0}}))
        execute(cases, config, tmp_path / "old")
        asked, old = endpoint.seen.requests, RunDirectory(tmp_path / "old")
        setup = replay_setup(old, config)
        plan = asyncio.run(rehearse(setup, old.ledger))
        assert (plan.complete, plan.new_calls_at_least, plan.new_calls_at_most) == (3, 0, 0)
        summary = asyncio.run(replay_run(setup, old, tmp_path / "new").execute())
        assert endpoint.seen.requests == asked
        assert summary.spent_usd == 0
    assert files(tmp_path / "new") == files(tmp_path / "old")
    with pytest.raises(InputError, match="new directory"):
        replay_run(setup, old, tmp_path / "old")


@pytest.mark.slow
def test_rehearsing_counts_a_whole_wave_of_new_calls(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "old")
        fresh = config_of(team(endpoint.base_url, model={"parameters": {"top_p": 0.9}}))
        setup = SearchSetup.of(Selection(cases), fresh)
        plan = asyncio.run(rehearse(setup, tmp_path / "old" / "ledger.sqlite"))
    assert (plan.complete, plan.known_calls, plan.new_calls_at_least) == (0, 0, 2 * 3)  # three mentors a case; then nobody knows
    assert plan.new_calls_at_most == 2 * sum(most_calls(setup.team, setup.policy).values())


@pytest.mark.slow
def test_no_search_makes_more_calls_than_the_bound(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with Endpoint(simulation(cases, skill=0.0, gain=0.03).reply) as endpoint:
        run = make_run(cases, config_of(team(endpoint.base_url, restarts=3, baseline=True)), tmp_path / "run")
        asyncio.run(run.execute())
        with Ledger.read(tmp_path / "run" / "ledger.sqlite") as ledger:
            most = max(r.record["calls"] for r in ledger.results())
    assert 60 < most <= sum(most_calls(run.setup.team, run.setup.policy).values())


@pytest.mark.slow
def test_status_sums_up_a_run(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        summary = execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    status = read_status(tmp_path / "run")
    assert sum(status.outcomes.values()) == 4
    assert status.outcomes.get("retained", 0) == summary.retained
    assert sum(s.calls for s in status.spending) == endpoint.seen.requests
    assert not status.in_use
    with pytest.raises(InputError, match="not a run directory"):
        read_status(tmp_path / "images")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_derived_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(simulation(cases).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "run")
        before = files(tmp_path / "run")
        monkeypatch.setattr(os, "fsync", _full)
        with pytest.raises(DiskError, match="free space"):
            execute(cases, config, tmp_path / "run")
    assert files(tmp_path / "run") == before
    assert not [f for f in (tmp_path / "run").iterdir() if f.name.startswith(".paths")]


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_a_ledger_that_cannot_grow_ends_the_run_with_what_it_has(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    with Endpoint(simulation(cases).reply) as endpoint:
        run = make_run(cases, config_of(team(endpoint.base_url)), tmp_path / "run")

        async def main() -> None:
            task = asyncio.create_task(run.execute())
            while run.client is None:
                await asyncio.sleep(0)
            run.client.ledger._db.execute("PRAGMA max_page_count=40")
            summary = await task
            assert isinstance(summary.halted, DiskError)
            assert summary.pending > 0

        asyncio.run(main())
        assert sum(s.calls for s in read_status(tmp_path / "run").spending) > 10
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "undisturbed")
    assert files(tmp_path / "run") == files(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_key_that_a_server_echoes_reaches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRON_TEST_KEY", "sk-very-secret-key")
    cases = write_cases(tmp_path, 1)

    def override(body: dict[str, Any], count: int) -> web.StreamResponse | None:
        return web.json_response({"error": {"message": "bad sk-very-secret-key"}}, status=400) if count % 9 == 0 else None

    with Endpoint(simulation(cases).reply, override=override) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, model={"api_key_env": "CHIRON_TEST_KEY"})), tmp_path / "run")
    with Ledger.read(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert ledger._db.execute("SELECT COUNT(*) FROM failures WHERE message LIKE '%[key]%'").fetchone()[0] > 0
    for file in (tmp_path / "run").iterdir():
        assert b"sk-very-secret-key" not in file.read_bytes(), file


@pytest.mark.slow
def test_a_run_works_from_within_a_running_loop(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(simulation(cases).reply) as endpoint:
        run = make_run(cases, config_of(team(endpoint.base_url)), tmp_path / "run")

        async def main() -> int:
            return (await run.execute()).total

        assert asyncio.run(main()) == 1


@pytest.mark.slow
def test_what_a_killed_process_had_under_way_is_shown_as_possibly_spent(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(simulation(cases).reply) as endpoint:
        data = team(endpoint.base_url, model={"price": {"input": 1.0, "output": 1.0}}, budget_usd=50.0)
        execute(cases, config_of(data), tmp_path / "run")
        assert read_status(tmp_path / "run").possibly_spent_usd == 0
        with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
            ledger.begin_attempt(a_call(), 7.0)
        summary = execute(cases, config_of(data), tmp_path / "run")
    assert summary.spent_usd > 7.0
    assert any("$7.0000" in note and "killed" in note for note in summary.notes)
    assert read_status(tmp_path / "run").possibly_spent_usd == 7.0
