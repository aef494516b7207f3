"""Review in a real browser: two reviewers, an adjudicator, and the dataset that results; by keyboard; nothing typed is lost."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from chiron.conversation.reasoning import parse_reasoning
from chiron.mmrp.cot import build_cot
from chiron.mmrp.row import read_rows
from chiron.reviews.records import hash_path
from chiron.reviews.store import ReviewStore
from chiron.view.access import Gate, Reviewer
from chiron.view.case_index import case_key
from chiron.view.review_queue import ReviewSettings
from tests.mmrp.building import lines
from tests.reports.building import BIDI, BREAKOUT, NAME, SCRIPT, a_case, hostile_run, retained, stored, write_run
from tests.reviews.writing import verdict
from tests.support.browser import CHROMIUM
from tests.support.cases import write_png
from tests.support.waiting import wait_until
from tests.view.serving import serving
from tests.view.test_view_in_browser import opened

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]
RECORDED = Path(__file__).parents[1] / "support" / "recorded_run"
EDIT = "The cortex of the left seventh rib is interrupted."


@pytest.fixture
def people() -> list[Reviewer]:
    return [Reviewer("anna"), Reviewer("ben"), Reviewer("cleo", reviews=False, adjudicates=True)]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    run = Path(shutil.copytree(RECORDED, tmp_path / "run"))
    about = json.loads((run / "run.json").read_text())
    write_png(tmp_path / "images" / "shared.png", size=(64, 64))
    (run / "run.json").write_text(json.dumps({**about, "cases": str(run / "cases.jsonl"), "images": str(tmp_path / "images")}))
    return tmp_path


def link(gate: Gate, name: str) -> str:
    return gate.link(reviewer=next(person for person in gate.reviewers if person.name == name))


def title(page: Page) -> str:
    return page.inner_text("h1 bdi")


def begin(page: Page, name: str) -> None:
    """Open the queue, and wait until the page of its first path is ready for keys."""
    page.get_by_role("link", name=name).click()
    page.wait_for_url(re.compile(r"/runs/\w+/(review|adjudicate)/\w+"))


def accept_all(page: Page) -> str:
    """Accept every step and the final answer by keyboard and submit; return the id of the case."""
    page.locator("#review").wait_for()
    case_id, address = title(page), page.url
    for _ in range(page.locator("[data-step]").count()):
        page.keyboard.press("a")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: url != address)
    return case_id


def test_two_reviewers_and_an_adjudicator_change_the_dataset(browser: Browser, recorded: Path, people: list[Reviewer]) -> None:
    paths = {path["case_id"]: path["reasoning"] for path in lines(recorded / "run" / "paths.jsonl")}
    settings = ReviewSettings(("anna", "ben"), double=1.0)
    with serving(recorded, reviewers=people, settings=settings) as gate:
        with opened(browser, gate, link=link(gate, "anna")) as (page, trouble):
            begin(page, "Review 3 paths")
            disputed = title(page)
            page.keyboard.press("a")
            page.keyboard.press("r")
            page.keyboard.press("1")
            page.keyboard.press("c")
            page.keyboard.type("no such finding")
            page.keyboard.press("Escape")
            page.keyboard.press("j")
            for _ in range(page.locator("[data-step]").count() - 2):
                page.keyboard.press("a")
            address = page.url
            page.keyboard.press("Control+Enter")
            page.wait_for_url(lambda url: url != address)
            accept_all(page)
            accept_all(page)
            page.get_by_text("No path waits for your review.").wait_for()
            assert trouble == []
        with opened(browser, gate, link=link(gate, "ben")) as (page, trouble):
            begin(page, "Review 3 paths")
            assert "no such finding" not in page.content()
            assert {accept_all(page), accept_all(page), accept_all(page)} == set(paths)
            assert trouble == []
        with opened(browser, gate, link=link(gate, "cleo")) as (page, trouble):
            begin(page, "Adjudicate 1 path")
            assert title(page) == disputed
            assert "no such finding" in page.inner_text("[data-step='1'] .reject")
            page.locator("#step-1").focus()
            page.keyboard.press("e")
            page.keyboard.press("Control+a")
            page.keyboard.type(EDIT)
            page.keyboard.press("Escape")
            for step in page.locator("[data-step]").all():
                if step.get_attribute("data-step") != "1":
                    step.focus()
                    page.keyboard.press("a")
            page.locator("#submit").click()
            page.get_by_text("No reviews disagree.").wait_for()
            assert trouble == []
    build_cot([recorded / "run"], recorded / "all", reviews="ignore")
    build_cot([recorded / "run"], recorded / "reviewed", reviews="require")
    before = {row.case_id: row for row in read_rows(recorded / "all" / "rows.jsonl")}
    after = {row.case_id: row for row in read_rows(recorded / "reviewed" / "rows.jsonl")}
    assert set(before) == set(after) == set(paths)
    assert {case_id for case_id in paths if before[case_id].reasoning != after[case_id].reasoning} == {disputed}
    assert parse_reasoning(after[disputed].reasoning).steps[1] == EDIT
    mark = after[disputed].provenance.review
    assert mark is not None
    assert (mark["status"], mark["edited_steps"], mark["adjudicated"], mark["reviewers"]) == ("edited", [2], True, 2)


def test_a_browser_that_closes_in_mid_edit_loses_nothing(browser: Browser, recorded: Path, people: list[Reviewer]) -> None:
    with serving(recorded, reviewers=people, settings=ReviewSettings(("anna",))) as gate:
        with opened(browser, gate, link=link(gate, "anna")) as (page, _):
            begin(page, "Review 3 paths")
            case_id = title(page)
            page.keyboard.press("a")
            page.keyboard.press("e")
            page.keyboard.press("Control+a")
            page.keyboard.type("Half a sentence")
            page.locator("#saved", has_text="draft saved").wait_for()
            # Typed after the last save, and the browser closes before the next one.
            page.keyboard.type(" more")
            page.goto("about:blank")
            wait_until(lambda: "Half a sentence more" in json.dumps(drafts(recorded / "run")), what="the draft")
        with opened(browser, gate, link=link(gate, "anna")) as (page, trouble):
            begin(page, "Review 3 paths")
            assert title(page) == case_id
            assert page.locator("[name=text-1]").input_value() == "Half a sentence more"
            assert page.locator("[name=verdict-0][value=accept]").is_checked()
            assert page.locator("#step-1 .text-field").is_visible()
            assert trouble == []
    assert ReviewStore(recorded / "run").events() == []


def drafts(run: Path) -> list[object]:
    store = ReviewStore(run)
    return [store.draft("review", "anna", path["case_id"], hash_path(path["reasoning"])) for path in lines(run / "paths.jsonl")]


def test_what_the_server_does_not_take_stays_in_the_browser_and_is_said(browser: Browser, recorded: Path, people: list[Reviewer]) -> None:
    with (
        serving(recorded, reviewers=people, settings=ReviewSettings(("anna",))) as gate,
        opened(browser, gate, link=link(gate, "anna")) as (page, _),
    ):
        begin(page, "Review 3 paths")
        full = json.dumps({"error": "reviews.sqlite cannot be written (database or disk is full): free space on its disk"})
        page.route(
            "**/review/*", lambda route: route.fulfill(status=422, body=full) if route.request.method == "POST" else route.fallback()
        )
        for _ in range(page.locator("[data-step]").count()):
            page.keyboard.press("a")
        page.locator("[name=note]").fill("kept here")
        page.locator("#trouble", has_text="free space on its disk").wait_for()
        page.locator("#submit").click()
        page.locator("#trouble", has_text="Nothing was stored").wait_for()
        page.unroute("**/review/*")
        page.reload()
        assert page.locator("[name=note]").input_value() == "kept here"
        page.locator("#saved", has_text="draft saved").wait_for()
        address = page.url
        page.locator("#submit").click()
        page.wait_for_url(lambda url: url != address)
    assert [event["note"] for event in ReviewStore(recorded / "run").events()] == ["kept here"]


def test_skip_back_and_what_is_missing(browser: Browser, recorded: Path, people: list[Reviewer]) -> None:
    with (
        serving(recorded, reviewers=people, settings=ReviewSettings(("anna",))) as gate,
        opened(browser, gate, link=link(gate, "anna")) as (page, _),
    ):
        begin(page, "Review 3 paths")
        first, address = title(page), page.url
        page.keyboard.press("s")
        page.wait_for_url(lambda url: url != address)
        page.keyboard.press("a")
        page.keyboard.press("r")
        page.keyboard.press("Control+Enter")
        page.locator("#trouble", has_text="step 2 is rejected without a reason").wait_for()
        assert page.evaluate("document.activeElement.dataset.step") == "1"
        page.keyboard.press("p")
        page.wait_for_url(address)
        assert title(page) == first
        page.keyboard.press("u")
        page.get_by_text("1 skipped").wait_for()


def test_hostile_text_stays_text_on_every_review_page(browser: Browser, tmp_path: Path) -> None:
    attack = f"{SCRIPT}{BREAKOUT}{BIDI}{{{{ 7 * 7 }}}}"
    hostile_run(tmp_path)
    case = a_case(BREAKOUT, question=SCRIPT, answer=BREAKOUT, images=("x.png", NAME), history=attack, findings=(attack,), age=attack)
    result = retained(case, step=f"{SCRIPT} ]]> {BIDI}", answer=BREAKOUT)
    more = tmp_path / "more"
    more.mkdir()
    (more / "cases.jsonl").write_text(json.dumps(case.to_record()) + "\n")
    run = write_run(more, [stored(result, 0)])
    record = result.to_record()
    sha = hash_path(record["reasoning"])
    store = ReviewStore(run)
    steps = [verdict("reject", reason=attack, note=attack, text=attack)] * len(parse_reasoning(record["reasoning"]).steps)
    for name in (f"eve{SCRIPT}", "mallory"):
        final = verdict("edit", note=attack, text=f"{attack}{name}")
        store.add("review", name, case.id, sha, {"steps": steps, "final": final, "note": attack})
    people = [Reviewer(f"anna{BREAKOUT}", adjudicates=True)]
    draft = {"steps": steps, "final": verdict("edit", note=attack, text=attack), "note": attack}
    store.save_draft("review", people[0].name, case.id, sha, draft)
    settings = ReviewSettings((people[0].name,), double=1.0, min_score=0.0)
    with (
        serving(tmp_path, reviewers=people, settings=settings) as gate,
        opened(browser, gate, link=gate.link(reviewer=people[0])) as (page, trouble),
    ):
        queues = page.locator("a.go").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        adjudicating = next(queue for queue in queues if queue.endswith("/adjudicate"))
        drafted = f"{adjudicating.removesuffix('adjudicate')}review/{case_key(case.id)}"
        for address in ["/review", drafted, *queues]:
            page.goto(f"http://127.0.0.1:{gate.port}{address}")
            page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
            page.wait_for_timeout(50)
            assert page.evaluate("typeof window.pwned") == "undefined", address
            assert page.locator("main script, main style, main iframe, img[onerror], img[src=x]").count() == 0, address
            assert page.locator("h1").count() == 1
        page.goto(f"http://127.0.0.1:{gate.port}{adjudicating}")
        for step in page.locator("[data-step]").all():
            step.focus()
            page.keyboard.press("a")
        page.locator("[name=note]").fill(attack)
        page.locator("#submit").click()
        page.get_by_text("No reviews disagree.").first.wait_for()
        assert trouble == []
    assert store.events()[-1]["kind"] == "adjudication"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1400, True)])
def test_review_pages_fit_and_their_fields_have_names(
    browser: Browser, recorded: Path, people: list[Reviewer], width: int, dark: bool
) -> None:
    with (
        serving(recorded, reviewers=people, settings=ReviewSettings(("anna", "ben"))) as gate,
        opened(browser, gate, width=width, dark=dark, link=link(gate, "anna")) as (page, trouble),
    ):
        begin(page, "Review 3 paths")
        page.keyboard.press("r")
        page.keyboard.press("j")
        page.keyboard.press("e")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = page.locator("input, select, button, textarea").evaluate_all(
            "all => all.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)"
        )
        assert nameless == []
        names = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
        assert len(names) == len(set(names))
        assert trouble == []
