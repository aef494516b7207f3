"""axe finds no serious or critical problem on any kind of page. Needs the package axe-playwright-python, which contains axe-core."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from chiron.evaluation.items import Verdict
from chiron.reviews.records import hash_path
from chiron.reviews.store import ReviewStore
from chiron.view.access import Reviewer
from tests.reports.building import a_case, pending, rejected, retained, stored, unsolved, write_run
from tests.reviews.writing import a_review, verdict
from tests.support.browser import CHROMIUM
from tests.support.cases import write_png
from tests.support.evaluations import an_item, with_verdict, write_evaluation
from tests.view.serving import serving
from tests.view.test_home import metrics
from tests.view.test_view_in_browser import RECORDED, addresses, opened

_PACKAGE = importlib.util.find_spec("axe_playwright_python")
AXE = Path(_PACKAGE.submodule_search_locations[0]) / "axe.min.js" if _PACKAGE and _PACKAGE.submodule_search_locations else None
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
    pytest.mark.skipif(AXE is None or not AXE.is_file(), reason="no axe: pip install axe-playwright-python"),
]
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two searches, one of them reviewed; two evaluations; a training, parts and a release."""
    folder = tmp_path_factory.mktemp("everything")
    for name, last in (("one", pending), ("two", rejected)):
        (folder / name).mkdir()
        made = [
            retained(a_case("alpha", images=("a.png", "lost.png"))),
            rejected(a_case("beta", images=())),
            unsolved(a_case("gamma", images=())),
            last(a_case("delta", images=())),
        ]
        (folder / name / "cases.jsonl").write_text("".join(json.dumps(result.case.to_record()) + "\n" for result in made))
        write_run(folder / name, [stored(result, number) for number, result in enumerate(made)])
        write_png(folder / name / "images" / "a.png", size=(64, 64))
    reasoning = str(stored(retained(a_case("alpha", images=("a.png", "lost.png"))), 0).record["reasoning"])
    accept = [verdict("accept")] * 4
    for person, steps in (("anna", accept), ("ben", [verdict("reject", reason="unsupported", note="why?"), *accept[1:]])):
        ReviewStore(folder / "one" / "run").add("review", person, "alpha", hash_path(reasoning), a_review(*steps))
    for name, answer in (("good", Verdict.RIGHT), ("bad", Verdict.WRONG)):
        items = [an_item(0), with_verdict(an_item(1), answer), with_verdict(an_item(2), Verdict.UNPARSED)]
        group = {"benchmark": "vqa_rad", "protocol": "huatuo_closed", "control": "none", "data": {"images": str(folder / "pictures")}}
        write_evaluation(folder / name, f"Model-{name}", items, [group])
    write_png(folder / "pictures" / "0.png")
    (folder / "training").mkdir()
    held = json.dumps({"stage": "text", "total_steps": 20, "held_out_loss": 0.7, "rows": 2, "answers": 2, "accuracy": 0.5}) + "\n"
    (folder / "training" / "metrics.jsonl").write_text("".join(metrics(n) for n in range(1, 31)) + held)
    sample = {"stage": "text", "id": "r", "images": [], "question": "What?", "reference": "A", "reply": "B", "finished": True}
    lines = [{**sample, "total_steps": n, "correct": n == 20} for n in (10, 20)]
    (folder / "training" / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(RECORDED / "recorded_dataset", folder / "dataset")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    return folder


def problems(page: Page, path: str) -> list[str]:
    """Return what axe calls serious or critical on the open page."""
    assert AXE is not None
    # The lazy parts are also pages of their own.
    page.locator("details:not([data-lazy])").evaluate_all("all => all.forEach(d => { d.open = true; })")
    page.evaluate(AXE.read_text("utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)")
    return [
        f"{path}: {problem['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for problem in found
        if problem["impact"] in SERIOUS
        for node in problem["nodes"][:3]
    ]


@pytest.fixture(scope="module")
def paths(browser: Browser, folder: Path) -> list[str]:
    """One page of each kind in each run. The ids of runs do not change between servers."""
    with serving(folder) as gate, opened(browser, gate) as (page, _):
        found = addresses(page, gate)
        texts = {path: page.request.get(f"http://127.0.0.1:{gate.port}{path}").text() for path in found if re.fullmatch(r"/runs/\w+", path)}
    runs = "&run=".join(path.rpartition("/")[2] for path, text in texts.items() if "<h1>Evaluation" in text)
    models = [f"/compare?run={runs}", f"/compare?run={runs}&as=full", f"/compare/item?run={runs}&item=vqa_rad/q1"]
    kinds = {re.sub(r"(cases/|rows/|=)[^/&?]*", r"\1", path): path for path in found}
    return [*kinds.values(), *models, "/no-such-page"]


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1400, False)])
def test_axe_finds_nothing_serious_on_any_page(browser: Browser, folder: Path, paths: list[str], width: int, dark: bool) -> None:
    people = [Reviewer("anna"), Reviewer("cleo", reviews=False, adjudicates=True)]
    found: list[str] = []
    with serving(folder, reviewers=people) as gate:
        base = f"http://127.0.0.1:{gate.port}"
        with opened(browser, gate, width=width, dark=dark) as (page, _):
            for path in paths:
                page.goto(base + path)
                found += problems(page, path)
        for person in people:
            with opened(browser, gate, width=width, dark=dark, link=gate.link(reviewer=person)) as (page, _):
                found += problems(page, "/review")
                page.locator("a.go").first.click()
                page.locator("#submit").wait_for()
                found += problems(page, page.url.partition(base)[2])
    assert any(path.startswith("/compare/cases/") for path in paths)
    assert found == []
