"""Pages of evaluations, trainings, parts and releases."""

import html
import json
import re
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.evaluation.items import Verdict
from chiron.evaluation.read_runs import REAL
from chiron.io import write_atomically
from chiron.view import evaluations
from chiron.view.charts import chart
from chiron.view.library import Library
from chiron.view.model_states import EvaluationState
from tests.support.cases import write_png
from tests.support.evaluations import an_item, with_verdict, write_evaluation, write_models
from tests.support.waiting import PATIENCE, wait_until
from tests.view.serving import address_of, settled, visiting
from tests.view.test_home import metrics

RECORDED = Path(__file__).parents[1] / "support" / "recorded_dataset"


def items(page: str) -> list[str]:
    return [a or b for a, b in re.findall(r"<header><h3><a [^>]*><bdi>([^<]*)</bdi></a></h3>|data-row><bdi>([^<]*)</bdi>", page)]


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """Two models on four items: right and right, right and wrong, wrong and unparsed, pending and right."""
    plan = {
        "one": [Verdict.RIGHT, Verdict.RIGHT, Verdict.WRONG, Verdict.PENDING],
        "two": [Verdict.RIGHT, Verdict.WRONG, Verdict.UNPARSED, Verdict.RIGHT],
    }
    for name, verdicts in plan.items():
        images = {"data": {"images": str(tmp_path / "pictures")}}
        group = {"benchmark": "vqa_rad", "protocol": "huatuo_closed", "control": "none", **images}
        write_evaluation(tmp_path / name, f"Model-{name}", [with_verdict(an_item(n), v) for n, v in enumerate(verdicts)], [group])
    write_png(tmp_path / "pictures" / "0.png")
    return tmp_path


def test_an_evaluation_shows_its_table_and_its_items(two_models: Path) -> None:
    with visiting(two_models) as client:
        page = client.get(address_of(client, "one")).text
    assert "Accuracy in percent, protocol huatuo_closed" in page
    assert items(page) == ["q0", "q1", "q2", "q3"]
    assert "The cortex is interrupted." not in page  # with_verdict gives its own reply
    assert "I see it.\nAnswer: Fracture" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("kind=wrong", ["q1", "q2"]),
        ("kind=unparsed", ["q2"]),
        ("kind=unanswered", ["q3"]),
        ("kind=disagree", ["q1", "q3"]),
        ("kind=nonsense&benchmark=vqa_rad", ["q0", "q1", "q2", "q3"]),
        ("benchmark=another", []),
        ("find=IMAGE+2", ["q2"]),
        ("control=nonsense", ["q0", "q1", "q2", "q3"]),
    ],
)
def test_items_of_models_side_by_side_are_filtered(two_models: Path, query: str, expected: list[str]) -> None:
    with visiting(two_models) as client:
        runs = [address_of(client, name).rpartition("/")[2] for name in ("one", "two")]
        page = client.get(f"/compare?run={runs[0]}&run={runs[1]}&{query}").text
    assert items(page) == expected
    assert "Model-one" in page
    assert "Model-two" in page


def test_models_side_by_side_are_a_table_with_a_page_for_each_item(two_models: Path) -> None:
    with visiting(two_models) as client:
        runs = "&".join(f"run={address_of(client, name).rpartition('/')[2]}" for name in ("one", "two"))
        page = client.get(f"/compare?{runs}&kind=disagree").text
        assert re.findall(r'<span class="verdict (\w+)"><span aria-hidden', page) == ["right", "wrong", "pending", "right"]
        assert "I see it." not in page
        assert items(full := client.get(f"/compare?{runs}&kind=disagree&as=full").text) == ["q1", "q3"]
        assert "I see it." in full
        link = re.search(r'<a href="(/compare/item[^"]*)" id="item-1"', page)
        assert link is not None
        item = client.get(html.unescape(link[1])).text
        assert re.findall(r'<bdi class="by">([^<]*)</bdi> <span class="badge (\w+)">', item) == [
            ("Model-one", "right"),
            ("Model-two", "wrong"),
        ]
        after = re.search(r'<a href="([^"]*)" id="item-after"', item)
        assert after is not None
        assert "<h1><bdi>q3</bdi>" in client.get(html.unescape(after[1])).text
        back = re.search(r'<a href="([^"]*)" id="to-run"', item)
        assert back is not None
        assert items(client.get(html.unescape(back[1])).text) == ["q1", "q3"]
        assert client.get("/compare/item?run=0").status_code == 404
        assert client.get(f"/compare/item?{runs}&item=vqa_rad/q9").status_code == 422


def test_a_comparison_that_takes_long_says_so_continues_and_is_then_shown(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()

    def held(states: Sequence[EvaluationState]) -> evaluations.Comparison:
        began.set()
        assert go.wait(PATIENCE)
        return read(states)

    read = evaluations._read
    monkeypatch.setattr(evaluations, "_read", held)
    monkeypatch.setattr(evaluations, "PATIENCE", 0.0)
    with visiting(two_models) as client:
        address = address_of(client, "one")
        before = client.get(address)
        assert began.wait(PATIENCE)
        go.set()
        wait_until(lambda: client.get(address).status_code == HTTPStatus.OK, what="the comparison")
        after = client.get(address).text
    assert (before.status_code, before.headers["refresh"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "1")
    assert "are being read and compared" in before.text
    assert items(after) == ["q0", "q1", "q2", "q3"]


def test_a_comparison_that_failed_is_read_again_for_the_next_page(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permissions of a file, for example, are not among what changes with a run."""
    read, problems = evaluations._read, [InputError("items.jsonl cannot be read (Permission denied)")]

    def fails_once(states: Sequence[EvaluationState]) -> evaluations.Comparison:
        if problems:
            raise problems.pop()
        return read(states)

    monkeypatch.setattr(evaluations, "_read", fails_once)
    with visiting(two_models) as client:
        address = address_of(client, "one")
        assert "Permission denied" in client.get(address).text
        after = client.get(address).text
    assert "Permission denied" not in after
    assert items(after) == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize("long", [False, True])
def test_a_request_for_a_run_that_changed_while_it_is_read_gets_the_change_or_is_told_of_it(
    two_models: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    read = evaluations._read
    began, first, second, told = (threading.Event() for _ in range(4))
    held, waited = [first, second], [PATIENCE, 0.0 if long else PATIENCE, PATIENCE]

    def read_and_hold(states: Sequence[EvaluationState]) -> evaluations.Comparison:
        found = read(states)
        began.set()
        assert held.pop(0).wait(PATIENCE)
        return found

    def release_and_wait(futures: Sequence[Any], _: float) -> Any:
        first.set()
        return wait(futures, waited.pop(0))

    monkeypatch.setattr(evaluations, "_read", read_and_hold)
    monkeypatch.setattr(evaluations, "wait", release_and_wait)
    comparisons = evaluations.Comparisons(changed=told.set)
    states = [s for s in Library([two_models]).states() if isinstance(s, EvaluationState) and s.path.name == "one"]

    def replies() -> set[str]:
        return {str(item.answers[0].result.reply).partition(".")[0] for item in comparisons.get(states).items[REAL][:3]}

    reading = evaluations._begin(states)
    assert began.wait(PATIENCE)
    comparisons._known[(states[0].place.id,)] = (tuple(state.signature()[1:] for state in states), reading)
    file = two_models / "one" / "items.jsonl"
    file.write_text(file.read_text().replace("I see it", "I saw it"))
    if not long:
        second.set()
    assert replies() == ({"I see it"} if long else {"I saw it"})
    assert not told.is_set()
    second.set()
    assert told.wait(PATIENCE if long else 0) == long
    assert replies() == {"I saw it"}


def test_only_evaluations_can_be_compared(two_models: Path) -> None:
    with visiting(two_models) as client:
        assert client.get("/compare").status_code == 404
        assert client.get("/compare?run=0000").status_code == 404


def test_images_of_items_come_from_the_folder_of_the_benchmark(two_models: Path) -> None:
    with visiting(two_models) as client:
        address = address_of(client, "two")
        assert f'src="{address}/answers/0/images/0"' in client.get(address).text
        assert client.get(f"{address}/answers/0/images/0").headers["content-type"] == "image/png"
        assert "is missing" in client.get(f"{address}/answers/1/images/0").text
        assert client.get(f"{address}/answers/0/images/1").status_code == 404
        assert client.get(f"{address}/answers/99/images/0").status_code == 404


def test_controls_have_their_own_items_and_many_items_have_pages(tmp_path: Path) -> None:
    write_models(tmp_path, count=60)
    with visiting(tmp_path) as client:
        address = address_of(client, "bad")
        page = client.get(f"{address}?control=no-image&page=3").text
        assert len(items(page)) == 10
        assert "page 3 of 3" in page
        assert "Controls, accuracy in percent" in page
        assert "control=no-image&amp;page=2" in page


def test_an_evaluation_without_results_says_so(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "run.json").write_text(json.dumps({"model": "m", "identity": {"protocol": "exact"}}))
    with visiting(tmp_path) as client:
        answer = client.get(address_of(client, "eval"))
    assert answer.status_code == 200
    assert "when the evaluation has written its results" in answer.text


def test_a_training_shows_curves_and_stages(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    held_out = json.dumps({"stage": "text", "total_steps": 40, "held_out_loss": 0.75, "rows": 5}) + "\n"
    steps = [*(metrics(n) for n in range(1, 41)), held_out, *(metrics(n, "cot", total_steps=40 + n) for n in range(1, 3)), "{}\n"]
    (folder / "metrics.jsonl").write_text("".join(steps))
    with visiting(tmp_path) as client:
        page = client.get(address_of(client, "training")).text
    assert page.count('<path class="curve"') == 9  # four charts of two stages, and the held-out loss of one
    assert "<circle" in page
    assert '40 of 40</td><td class="n">5.0000</td>' in page
    assert "0.7500" in page
    assert "500</td>" in page  # tokens a second
    assert "1 line of" in page


def test_a_training_shows_held_out_curves_and_the_answers_of_each_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    held = [{"stage": "text", "total_steps": n, "held_out_loss": 1 / n, "rows": 5, "answers": 2, "accuracy": n / 40} for n in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join([*(metrics(n) for n in range(1, 21)), *(json.dumps(line) + "\n" for line in held)]))
    reply = {10: "A <b>cyst</b>", 20: "A fracture"}
    row = {"stage": "text", "images": [], "question": "What is it?", "reference": "Fracture", "finished": False}
    samples = [{**row, "total_steps": n, "id": f"r{k}", "reply": reply[n], "correct": n == 20 or k == 1} for n in (10, 20) for k in (0, 1)]
    with visiting(tmp_path) as client:
        address = address_of(client, "training")
        assert "Answers during the training" not in client.get(address).text
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples) + "{}\n")
        page = client.get(address).text
        assert "<b>Held-out accuracy</b>" in page
        assert "<b>Held-out loss</b>" in page
        assert '<td class="n">50 %</td>' in page
        assert re.findall(r'class="verdict (\w+)"', page) == ["wrong", "right", "right", "right"]
        assert "A &lt;b&gt;cyst&lt;/b&gt;" in page
        assert "1 line of" in page
        changed = client.get(f"{address}?kind=changed").text
        assert "1 held-out row of 2" in changed
        assert "<bdi>r0</bdi>" in changed
        assert "No row fits." in client.get(f"{address}?kind=wrong").text


def test_a_resumed_training_forgets_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(metrics(n) for n in range(1, 31)))
    with visiting(tmp_path) as client:
        address = address_of(client, "training")
        assert "30 of 40 steps" in client.get(address).text
        (folder / "metrics.jsonl").write_text("".join(metrics(n) for n in range(1, 21)))
        assert "20 of 40 steps" in client.get(address).text


def test_a_resumed_training_that_is_already_further_than_before_shows_its_new_steps(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    write_atomically(tmp_path / "training" / "metrics.jsonl", [metrics(n, loss=7.0) for n in range(1, 31)])
    with visiting(tmp_path) as client:
        address = address_of(client, "training")
        assert '<td class="n">7.0000</td>' in client.get(address).text
        write_atomically(tmp_path / "training" / "metrics.jsonl", [metrics(n, loss=2.0) for n in range(1, 36)])
        page = client.get(address).text
        assert "35 of 40 steps" in page
        assert "7.0000" not in page


def test_a_chart_leaves_out_what_is_not_finite_and_averages_long_lines() -> None:
    drawn = chart([("a", [(n, 2.0 + n % 2) for n in range(2000)], [(3.0, float("nan"))])])
    assert drawn is not None
    assert drawn.averaged
    assert drawn.lines[0].path.count("L") == 399
    assert drawn.lines[0].dots == ()
    assert chart([("a", [(1.0, float("inf"))], [])]) is None
    flat = chart([("a", [(1.0, 5.0)], [])])
    assert flat is not None
    assert [tick.label for tick in flat.y_ticks] == ["5"]
    wide = chart([("a", [(1.0, 0.001), (2.0, 10.0)], [])])
    assert wide is not None
    assert wide.logarithmic


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "dataset")
    run = tmp_path / "dataset" / "cot" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "images": str(tmp_path / "dataset" / "run_images")}))
    return tmp_path


def test_a_part_shows_rows_coverage_and_findings_with_examples(dataset: Path) -> None:
    part = dataset / "dataset" / "cot"
    example = {"check": "steps", "row": "cot:case-00001", "detail": "a step is <b>empty</b>", "severity": "warning"}
    (part / "check.json").write_text(
        json.dumps({"checks": {"steps": {"rows": 1, "errors": 0, "share": 0.33, "limit": 0.1, "examples": [example]}}})
    )
    (part / "findings.jsonl").write_text(json.dumps(example) + "\n")
    with visiting(dataset) as client:
        address = address_of(client, "cot")
        page = settled(client, address, "still reading rows")
        assert re.findall(r"data-row><bdi>([^<]*)</bdi>", page) == ["cot:case-00000", "cot:case-00001", "cot:case-00002"]
        assert "over the limit" in page
        assert "a step is &lt;b&gt;empty&lt;/b&gt;" in page
        assert '<th scope="row"><bdi>unknown</bdi></th>' in page
        link = re.search(rf'<a href="({address}/rows/1)"><bdi>cot:case-00001', page)
        assert link is not None
        row = client.get(link[1]).text
        assert "a step is &lt;b&gt;empty&lt;/b&gt;" in row
        assert "### Step 1" in row
        assert client.get(f"{address}/rows/1/images/0").headers["content-type"] == "image/png"
        assert client.get(f"{address}/rows/1/images/9").status_code == 404
        assert client.get(f"{address}/rows/3").status_code == 404


def test_rows_are_filtered_by_cells_of_the_coverage(dataset: Path) -> None:
    part = dataset / "dataset" / "cot" / "rows.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    rows[1].update(modalities=["CT", "MRI"], body_system="Chest")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with visiting(dataset) as client:
        address = address_of(client, "cot")
        page = settled(client, address, "still reading rows")
        cell = re.search(r'<a href="(\?modality=MRI&amp;body_system=Chest)#rows">1</a>', page)
        assert cell is not None
        found = client.get(address + html.unescape(cell[1])).text
        assert re.findall(r"data-row><bdi>([^<]*)</bdi>", found) == ["cot:case-00001"]
        assert re.findall(r"data-row><bdi>([^<]*)</bdi>", client.get(f"{address}?find=00002").text) == ["cot:case-00002"]


def test_a_row_says_what_reviewers_decided(dataset: Path) -> None:
    part = dataset / "dataset" / "cot" / "rows.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    rows[1]["provenance"]["review"] = {"status": "edited <i>", "edited_steps": [2]}
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with visiting(dataset) as client:
        address = address_of(client, "cot")
        settled(client, address, "still reading rows")
        assert "edited &lt;i&gt;" in client.get(f"{address}/rows/1").text
        assert "edited &lt;i&gt;" not in client.get(f"{address}/rows/0").text


def test_dropped_rows_are_counted_by_reason(dataset: Path) -> None:
    drops = [{"reason": "answered without the case"}, {"reason": "answered without the case"}, {"reason": "<i>odd</i>"}]
    (dataset / "dataset" / "text" / "dropped.jsonl").write_text("".join(json.dumps(drop) + "\n" for drop in drops) + "half a line")
    with visiting(dataset) as client:
        page = client.get(address_of(client, "text")).text
    assert '<td><bdi>answered without the case</bdi></td><td class="n">2</td>' in page
    assert "&lt;i&gt;odd&lt;/i&gt;" in page


def test_a_release_shows_splits_checks_and_rows(dataset: Path) -> None:
    pytest.importorskip("pyarrow")
    with visiting(dataset) as client:
        address = address_of(client, "release")
        page = settled(client, address, "still reading rows")
        assert '<td><bdi>text</bdi></td><td>train</td><td class="n">4</td>' in page
        assert "check: steps" in page
        assert "<code>unreadable_images</code>" in page
        row = client.get(f"{address}/rows/0").text
        assert "A fall hurts the chest." in row


def test_the_table_of_a_release_reads_no_images(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    read, columns = parquet.ParquetFile.read_row_group, list[object]()

    def counted(file: object, group: int, **options: object) -> object:
        columns.append(options.get("columns"))
        return read(file, group, **options)

    with visiting(dataset) as client:
        address = address_of(client, "release")
        settled(client, address, "still reading rows")
        monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
        client.get(f"{address}?part=text")
        client.get(f"{address}?split=train")
    assert all(names is not None and "images" not in names for names in columns)  # type: ignore[operator]


def test_drops_that_are_written_later_are_counted_too(dataset: Path) -> None:
    drops = dataset / "dataset" / "text" / "dropped.jsonl"
    drops.write_text('{"reason": "first"}\n')
    with visiting(dataset) as client:
        address = address_of(client, "text")
        assert '<bdi>first</bdi></td><td class="n">1</td>' in settled(client, address, "still reading rows")
        with drops.open("a") as file:
            file.write('{"reason": "first"}\nbroken\n')
        page = client.get(address).text
        assert '<bdi>first</bdi></td><td class="n">2</td>' in page
        assert '<bdi>(not readable)</bdi></td><td class="n">1</td>' in page
        write_atomically(drops, ['{"reason": "second"}\n'])
        page = client.get(address).text
        assert "<bdi>first</bdi>" not in page
        assert '<bdi>second</bdi></td><td class="n">1</td>' in page


def test_rows_that_grow_under_the_readers_hands_are_read_again(dataset: Path) -> None:
    part = dataset / "dataset" / "cot" / "rows.jsonl"
    with visiting(dataset) as client:
        address = address_of(client, "cot")
        settled(client, address, "still reading rows")
        with part.open("a") as file:
            file.write(json.dumps({**json.loads(part.read_text().splitlines()[0]), "id": "cot:new"}) + "\n")
        assert "cot:new" in settled(client, address, "still reading rows")
