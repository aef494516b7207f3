"""The app in a real browser: it is live, works by keyboard and on a telephone, and nothing hostile runs."""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page

from chiron.client.ledger import Ledger
from chiron.jobs.directory import LEDGER
from chiron.view.access import Gate
from tests.reports.building import BIDI, BREAKOUT, NAME, SCRIPT, a_case, hostile_run, rejected, retained, stored, write_run
from tests.support.browser import CHROMIUM, new_page
from tests.support.cases import known_answers, write_cases, write_png
from tests.support.endpoint import Endpoint
from tests.support.evaluations import an_item, write_evaluation
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation
from tests.view.serving import serving
from tests.view.test_home import metrics

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]
RECORDED = Path(__file__).parents[1] / "support"


@contextmanager
def opened(
    browser: Browser, gate: Gate, *, width: int = 1400, dark: bool = False, link: str | None = None
) -> Iterator[tuple[Page, list[str]]]:
    """Yield a page at the home page, or behind a link, and everything that it did and should not."""
    scheme = "dark" if dark else "light"
    page = new_page(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    trouble: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", lambda m: trouble.append(f"console: {m.text}") if "status of 4" not in m.text else None)
    page.on("pageerror", lambda e: trouble.append(f"error: {e}"))
    page.on("dialog", dismissed)
    page.on("request", lambda r: None if r.url.startswith((f"http://127.0.0.1:{gate.port}/", "data:")) else trouble.append(r.url))
    page.goto(link or gate.link())
    try:
        yield page, trouble
    finally:
        page.context.close()


def arrived(shown: Locator) -> None:
    """Wait for a page by what it shows, and for its scripts: earlier, keys go to the page before, or are not heard."""
    shown.wait_for()
    shown.page.wait_for_load_state()


def open_row(page: Page, kind: str) -> None:
    """Open the first row of a list, and wait for its page."""
    page.locator("[data-row]").first.click()
    page.wait_for_url(f"**/{kind}/*")


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """Three cases, the first with two images and one that is missing."""
    made = [
        retained(a_case("alpha", images=("a.png", "b.png", "lost.png"))),
        rejected(a_case("beta", images=())),
        retained(a_case("gamma", images=())),
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(result.case.to_record()) + "\n" for result in made))
    write_run(tmp_path, [stored(result, n) for n, result in enumerate(made)])
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "images" / name, size=(64, 64))
    return tmp_path


def test_the_home_page_and_the_search_follow_a_writer(browser: Browser, search: Path) -> None:
    with serving(search) as gate, opened(browser, gate) as (page, trouble):
        page.locator("#live", has_text="live").wait_for()
        assert "3 of 3 cases" in page.inner_text("#runs")
        with Ledger.open(search / "run" / LEDGER) as ledger:
            ledger.drop_result("gamma")
            page.locator("#runs", has_text="2 of 3 cases").wait_for()
            open_row(page, "runs")
            page.locator("#live", has_text="live").wait_for()
            page.locator("#count", has_text="2 cases").wait_for()
            ledger.put_result(stored(retained(a_case("gamma", images=())), 2))
            page.locator("#count", has_text="3 cases").wait_for()
        assert trouble == []


def test_notes_and_tables_come_and_go_on_open_pages(browser: Browser, search: Path) -> None:
    (search / "eval").mkdir()
    (search / "eval" / "run.json").write_text(json.dumps({"model": "m", "identity": {"protocol": "exact"}}))
    with serving(search) as gate, opened(browser, gate) as (page, trouble):
        page.get_by_role("link", name="/run").click()
        page.locator("p.cut", has_text="still being read").wait_for(state="detached")
        page.locator("#to-home").click()
        page.get_by_role("link", name="/eval").click()
        page.locator("#state", has_text="when the evaluation has written its results").wait_for()
        write_evaluation(search / "eval", "Good-8B", [an_item(number) for number in range(3)])
        page.locator("#tables", has_text="Good-8B").wait_for()
        assert page.locator("article.item").count() == 3
        assert trouble == []


def test_a_live_page_keeps_the_focus(browser: Browser, search: Path) -> None:
    with serving(search) as gate, opened(browser, gate) as (page, _):
        page.locator("#live", has_text="live").wait_for()
        page.keyboard.press("j")
        focused = page.evaluate("document.activeElement.id")
        assert focused.startswith("run-")
        with Ledger.open(search / "run" / LEDGER) as ledger:
            ledger.drop_result("gamma")
            page.locator("#runs", has_text="2 of 3 cases").wait_for()
        assert page.evaluate("document.activeElement.id") == focused


def test_a_page_says_when_the_server_has_ended(browser: Browser, search: Path) -> None:
    with serving(search) as gate:
        page = new_page(browser)
        page.goto(gate.link())
        page.locator("#live", has_text="live").wait_for()
    page.locator("#live.off", has_text="not connected").wait_for()
    page.context.close()


def test_a_link_on_another_site_opens_the_app(browser: Browser, search: Path) -> None:
    with serving(search) as gate:
        page = new_page(browser)
        page.goto(f"data:text/html,<a href='{gate.link()}'>runs</a>")
        page.get_by_text("runs").click()
        page.locator("h1", has_text="Runs").wait_for()
        page.context.close()


def test_hidden_tabs_hold_no_connections_and_are_current_when_they_are_shown_again(browser: Browser, search: Path) -> None:
    show = "hidden => { Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true}); %s }"
    show %= "document.dispatchEvent(new Event('visibilitychange'))"
    with serving(search) as gate, opened(browser, gate) as (first, trouble):
        tabs = [first, *(first.context.new_page() for _ in range(7))]  # Chromium opens six connections to a server
        for tab in tabs:
            tab.goto(f"http://127.0.0.1:{gate.port}/")
            tab.locator("#live", has_text="live").wait_for()
            tab.evaluate(show, arg=True)
        with Ledger.open(search / "run" / LEDGER) as ledger:
            ledger.drop_result("gamma")
        first.evaluate(show, arg=False)
        first.locator("#runs", has_text="2 of 3 cases").wait_for()
        assert trouble == []


def test_everything_is_reached_by_keyboard(browser: Browser, search: Path) -> None:
    with serving(search) as gate, opened(browser, gate) as (page, trouble):
        press = page.keyboard.press
        press("j")
        press("Enter")
        page.wait_for_url("**/runs/*")
        press("/")
        page.keyboard.type("alpha beta")
        press("Enter")
        page.wait_for_url("**find=alpha*")
        assert page.locator("#list .empty").is_visible()
        page.get_by_role("link", name="all cases").click()
        arrived(page.locator("[data-row]").nth(2))
        for key in ("j", "j", "k", "j", "Enter"):
            press(key)
        page.wait_for_url("**/cases/*")
        assert page.inner_text("h1") == "Case beta"
        for key, heading in (("n", "gamma"), ("p", "beta"), ("u", "Search"), ("u", "Runs")):
            press(key)
            arrived(page.locator("h1", has_text=heading))
        assert trouble == []


def test_a_chosen_filter_applies_at_once(browser: Browser, search: Path) -> None:
    with serving(search) as gate, opened(browser, gate) as (page, trouble):
        open_row(page, "runs")
        page.locator("select[name=outcome]").select_option("rejected")
        page.wait_for_url("**?outcome=rejected*")
        assert page.locator("[data-row]").all_inner_texts() == ["beta"]
        assert trouble == []


def test_images_zoom_move_turn_and_say_why_one_is_missing(browser: Browser, search: Path) -> None:
    with serving(search) as gate, opened(browser, gate) as (page, trouble):
        open_row(page, "runs")
        open_row(page, "cases")
        said = page.locator("#viewer output")
        page.locator(".stage").focus()
        page.wait_for_function("document.querySelector('.stage img').naturalWidth === 64")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("+")
        page.keyboard.press("+")
        assert said.inner_text() == "image 1 of 3, 156 %"
        page.keyboard.press("ArrowLeft")
        assert "translate(40px, 0px) scale(1.5625)" in (page.locator(".stage img").first.get_attribute("style") or "")
        page.locator(".stage").hover()
        page.mouse.down()
        page.mouse.move(900, 300)
        page.mouse.up()
        assert "translate(40px, 0px)" not in (page.locator(".stage img").first.get_attribute("style") or "")
        page.keyboard.press("0")
        assert said.inner_text() == "image 1 of 3, 100 %"
        page.locator("[data-window=width]").fill("0.5")
        page.locator(".stage img[src$='?center=0.5&width=0.5']").wait_for()
        page.get_by_role("button", name="Next image").click()
        assert page.locator(".stage figcaption").nth(1).is_visible()
        page.locator(".stage").focus()
        page.keyboard.press("]")
        page.locator(".stage .no-image", has_text="is missing").wait_for()
        assert said.inner_text().startswith("image 3 of 3")
        assert trouble == []


def test_the_calls_are_loaded_when_they_are_opened(browser: Browser, tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        # in another thread, because playwright has an event loop in this one
        other = ThreadPoolExecutor(1)
        other.submit(execute, cases, config_of(team(endpoint.base_url)), tmp_path / "run").result()
        other.shutdown()
    with serving(tmp_path) as gate, opened(browser, gate) as (page, trouble):
        open_row(page, "runs")
        open_row(page, "cases")
        assert page.locator("details.tree").get_attribute("open") is not None
        page.locator("#calls > summary").focus()
        page.keyboard.press("Enter")
        page.locator("#calls .call").first.wait_for()
        page.locator("#calls details > summary").first.click()
        assert "<question>" in page.locator("#calls .turn pre").nth(1).inner_text()
        assert trouble == []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind with an attack in everything that can hold one."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_run(folder)
    attack = f"{SCRIPT}{BREAKOUT}{BIDI}{{{{ 7 * 7 }}}}"
    fields = ("id", "question", "answer", "reply", "given", "rule", "benchmark", "problem")
    images = ("../outside.png", NAME)
    item = an_item(0, **dict.fromkeys(fields, attack), options=(attack, "b"), labels={attack: attack}, images=images)
    write_evaluation(folder / "eval", attack.replace("\u2066", ""), [item])
    write_evaluation(folder / "eval2", "Other", [item])
    training = folder / "training"
    training.mkdir()
    (training / "metrics.jsonl").write_text("".join(metrics(n, attack) for n in range(1, 5)) + attack + "\n")
    sample = {"id": attack, "stage": attack, "total_steps": 1, "question": attack, "reference": attack, "reply": attack, "correct": False}
    (training / "samples.jsonl").write_text(json.dumps(sample) + "\n" + attack + "\n")
    shutil.copytree(folder / "run", folder / "run2")
    part = folder / "part"
    shutil.copytree(RECORDED / "recorded_dataset" / "cot", part)
    row = json.loads((part / "rows.jsonl").read_text().splitlines()[0])
    row.update(dict.fromkeys(("id", "question", "answer", "body_system", "licence"), attack))
    row.update(images=images, modalities=[attack], messages=[{"role": attack, "content": attack}])
    row.update(provenance={"run": attack, "calls": [attack], "models": {attack: attack}})
    (part / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (part / "dropped.jsonl").write_text(json.dumps({"reason": attack}) + "\n")
    example = {"check": attack, "row": attack, "detail": attack, "severity": attack}
    (part / "check.json").write_text(
        json.dumps({"checks": {attack: {"rows": 1, "errors": 1, "share": 1, "limit": 0, "examples": [example]}}})
    )
    (part / "findings.jsonl").write_text(json.dumps(example) + "\n")
    (folder / "damaged" / SCRIPT.replace("/", "-")).mkdir(parents=True)
    (folder / "damaged" / SCRIPT.replace("/", "-") / "run.json").write_text(attack)
    return folder


def addresses(page: Page, gate: Gate) -> list[str]:
    """Return every page that links lead to. The pages are read and not drawn, which takes a tenth of the time."""
    waiting, seen = ["/"], list[str]()
    while waiting:
        path = waiting.pop()
        if path in seen or len(seen) > 60:
            continue
        seen.append(path)
        text = page.request.get(f"http://127.0.0.1:{gate.port}{path}").text()
        links = [*re.findall(r'<a\b[^>]*?\shref="([^"]*)"', text), *re.findall(r'\sdata-lazy="([^"]*)"', text)]
        waiting += [unescape(link).partition("#")[0] for link in links if link.startswith("/")]
    return seen


@pytest.fixture(scope="module")
def pages(browser: Browser, hostile: Path) -> list[str]:
    """Every page of the hostile runs. The ids of runs do not change between servers."""
    with serving(hostile) as gate, opened(browser, gate) as (page, _):
        return addresses(page, gate)


def test_hostile_text_stays_text_on_every_page(browser: Browser, hostile: Path, pages: list[str]) -> None:
    with serving(hostile) as gate, opened(browser, gate) as (page, trouble):
        runs = [path for path in pages if re.fullmatch(r"/runs/\w+", path)]
        assert len(runs) == 7
        assert any(path.startswith("/compare/cases/") for path in pages)
        assert any(path.startswith("/compare/item?") for path in pages)
        evaluations = [
            path.rpartition("/")[2] for path in runs if "<h1>Evaluation" in page.request.get(f"http://127.0.0.1:{gate.port}{path}").text()
        ]
        for path in [*pages, f"/compare?run={'&run='.join(evaluations)}"]:
            page.goto(f"http://127.0.0.1:{gate.port}{path}")
            page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
            page.wait_for_timeout(50)
            assert page.evaluate("typeof window.pwned") == "undefined", path
            assert page.locator("main script, main style, main iframe, img[onerror], img[src=x]").count() == 0, path
        assert trouble == []
        assert len(evaluations) == 2


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_scrolls_sideways_in_light_or_dark(browser: Browser, hostile: Path, pages: list[str], width: int) -> None:
    with serving(hostile) as gate, opened(browser, gate, width=width) as (page, _):
        for path in pages:
            page.goto(f"http://127.0.0.1:{gate.port}{path}")
            page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (background == "rgb(15, 19, 22)") == (scheme == "dark"), path


def test_every_field_image_and_region_has_a_name(browser: Browser, hostile: Path, pages: list[str]) -> None:
    with serving(hostile) as gate, opened(browser, gate) as (page, _):
        for path in pages:
            page.goto(f"http://127.0.0.1:{gate.port}{path}")
            nameless = page.locator("input:not([type=hidden]), select, button").evaluate_all(
                "all => all.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)"
            )
            assert nameless == [], path
            assert page.locator("img:not([alt]), img[alt='']").count() == 0, path
            assert page.locator("h1").count() == 1, path
            assert page.locator("[role=region]:not([aria-label]), nav:not([aria-label])").count() == 0, path
            names = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
            assert len(names) == len(set(names)), path
