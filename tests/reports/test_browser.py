"""The page in a real browser: nothing hostile runs, and what can be clicked works."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, Request

from chiron.reports.page import write_report
from tests.reports.building import a_case, hostile_run, put_calls, rejected, retained, stored, unsolved, write_run
from tests.support.browser import CHROMIUM, new_page
from tests.support.cases import write_png

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]


@dataclass
class Opened:
    """A page, and everything it did that it should not."""

    page: Page
    trouble: list[str] = field(default_factory=list)

    def dismiss(self, dialog: Dialog) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def notice(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.trouble.append(f"request: {request.url}")

    @property
    def shown(self) -> list[str]:
        """Anchors of the cases that can be seen, from top to bottom."""
        cases = self.page.locator("article.case").all()
        return [c.get_attribute("id") or "" for c in cases if c.is_visible()]


def opened(browser: Browser, path: Path, *, width: int = 1200, scripts: bool = True, dark: bool = False) -> Opened:
    scheme = "dark" if dark else "light"
    page = new_page(browser, viewport={"width": width, "height": 900}, java_script_enabled=scripts, color_scheme=scheme)
    it = Opened(page)
    page.on("console", lambda m: it.trouble.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: it.trouble.append(f"error: {e}"))
    page.on("dialog", it.dismiss)
    page.on("request", it.notice)
    page.goto(path.as_uri())
    return it


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile_run(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def friendly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("friendly")
    results = [
        retained(a_case("alpha", answer="Lung cyst")),
        rejected(a_case("beta")),
        unsolved(a_case("gamma")),
        retained(a_case("delta", question="Which rib?")),
    ]
    run = write_run(folder, [stored(r, i) for i, r in enumerate(results)])
    put_calls(run)
    for result in results:
        write_png(folder / "images" / result.case.images[0], size=(200, 200))
    return write_report(run)


@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_content_does_nothing(browser: Browser, hostile: Path, scripts: bool) -> None:
    it = opened(browser, hostile, scripts=scripts)
    it.page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })") if scripts else None
    it.page.mouse.wheel(0, 20000)
    it.page.wait_for_timeout(200)
    assert it.trouble == []
    assert it.page.locator("script").count() == 1
    assert it.page.locator("article.case").count() == 6
    assert it.page.locator("article.case article, main ~ article").count() == 0
    if scripts:
        assert it.page.evaluate("typeof window.pwned") == "undefined"
        assert it.page.evaluate("[...document.images].every(i => i.src.startsWith('data:image/jpeg'))")
    it.page.context.close()


def test_images_are_drawn(browser: Browser, friendly: Path) -> None:
    it = opened(browser, friendly)
    image = it.page.locator("#case-1 img")
    image.scroll_into_view_if_needed()
    it.page.wait_for_function("document.querySelector('#case-1 img').naturalWidth === 200")
    it.page.context.close()


def test_filters_search_and_order(browser: Browser, friendly: Path) -> None:
    it = opened(browser, friendly)
    page = it.page
    everything = ["case-1", "case-2", "case-3", "case-4"]
    assert it.shown == everything

    page.get_by_role("button", name="retained").click()
    assert it.shown == ["case-1", "case-4"]
    assert page.get_by_role("button", name="retained").get_attribute("aria-pressed") == "true"
    assert page.locator("#count").inner_text() == "2 of 4"

    page.locator("#find").fill("WHICH rib")
    assert it.shown == ["case-4"]
    page.locator("#find").fill("cyst")
    assert it.shown == ["case-1"]
    page.locator("#find").fill("no such word")
    assert it.shown == []
    assert page.locator("#none").is_visible()
    page.locator("#find").press("Enter")
    assert page.url == friendly.as_uri()

    page.locator("#find").fill("")
    page.get_by_role("button", name="all").click()
    assert it.shown == everything
    page.locator("#order").select_option("low")
    assert it.shown == ["case-2", "case-1", "case-4", "case-3"]
    page.locator("#order").select_option("high")
    assert it.shown == ["case-1", "case-4", "case-2", "case-3"]
    page.locator("#order").select_option("file")
    assert it.shown == everything
    assert page.get_by_role("button", name="pending").is_disabled()
    assert it.trouble == []
    page.context.close()


def test_the_tree_opens_from_the_keyboard(browser: Browser, friendly: Path) -> None:
    it = opened(browser, friendly)
    mentor = it.page.locator("#case-1 .tree .mentor").first
    assert not mentor.is_visible()
    it.page.locator("#case-1 .tree > summary").focus()
    it.page.keyboard.press("Enter")
    assert mentor.is_visible()
    it.page.keyboard.press("Tab")
    it.page.keyboard.press("Enter")
    assert it.page.locator("#case-1 .evaluations li").first.is_visible()
    it.page.context.close()


def test_compact_rows(browser: Browser, friendly: Path) -> None:
    it = opened(browser, friendly)
    assert it.page.locator("#case-1 .path").is_visible()
    it.page.locator("#compact").click()
    assert not it.page.locator("#case-1 .path").is_visible()
    assert it.page.locator("#case-1 .known").is_visible()
    it.page.context.close()


def test_it_reads_without_scripts(browser: Browser, friendly: Path) -> None:
    it = opened(browser, friendly, scripts=False)
    assert len(it.shown) == 4
    assert not it.page.locator("#tools").is_visible()
    it.page.locator("#case-1 .tree > summary").click()
    assert it.page.locator("#case-1 .tree .mentor").first.is_visible()
    it.page.context.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_telephone_needs_no_sideways_scrolling(browser: Browser, hostile: Path, dark: bool) -> None:
    it = opened(browser, hostile, width=400, dark=dark)
    it.page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
    assert it.page.evaluate("document.documentElement.scrollWidth") == 400
    background = it.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(15, 19, 22)") == dark
    it.page.context.close()
