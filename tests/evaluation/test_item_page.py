"""The page of items in a real browser: nothing hostile runs, filters filter, thousands are no burden."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, Request

from chiron.evaluation import item_page as gathering
from chiron.evaluation.item_page import write_item_page
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import read_evaluations
from tests.support.browser import CHROMIUM, new_page
from tests.support.cases import write_png
from tests.support.command import Cli
from tests.support.evaluations import an_item, answers, with_verdict, write_evaluation

browsing = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

ATTACKS = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<a href='javascript:window.pwned=1'>x</a><style>*{display:none}</style>",
    "]]></pre>&lt;b&gt; \u202e turned \u2028 \ud800 half",
)


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
        return self.page.locator("article.case h3").all_inner_texts()


def opened(browser: Browser, path: Path, *, width: int = 1200) -> Opened:
    page = new_page(browser, viewport={"width": width, "height": 900})
    it = Opened(page)
    page.on("console", lambda m: it.trouble.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: it.trouble.append(f"error: {e}"))
    page.on("dialog", it.dismiss)
    page.on("request", it.notice)
    page.goto(path.as_uri())
    return it


def page_of(folder: Path, *models: tuple[str, list[ItemResult]], images: Path | None = None) -> Path:
    runs = [write_evaluation(folder / name, name, items) for name, items in models]
    return write_item_page(read_evaluations(runs), folder / "items.html", {"vqa_rad": images} if images else {})


def some(*verdicts: Verdict, **changes: object) -> list[ItemResult]:
    return [with_verdict(an_item(number, **changes), verdict) for number, verdict in enumerate(verdicts)]


R, W, U, X, P = Verdict.RIGHT, Verdict.WRONG, Verdict.UNPARSED, Verdict.UNUSABLE, Verdict.PENDING


class TestInTheBrowser:
    pytestmark = browsing

    def test_filters(self, browser: Browser, tmp_path: Path) -> None:
        first = [*some(R, W, U, R, X), an_item(9, benchmark="slake", question="Which lung?")]
        it = opened(browser, page_of(tmp_path, ("A", first), ("B", some(R, R, W, W, X))))
        page, everything = it.page, ["q0", "q1", "q2", "q3", "q4", "q9"]
        assert it.shown == everything
        assert page.locator("#count").inner_text() == "6 items"
        for button, expected in (
            ("wrong", ["q1", "q2", "q3"]),
            ("unparsed", ["q2"]),
            ("unusable or pending", ["q4"]),
            ("models disagree", ["q1", "q3"]),
            ("all", everything),
        ):
            page.get_by_role("button", name=button, exact=True).click()
            assert it.shown == expected
        page.locator("#by").select_option(label="A")
        page.get_by_role("button", name="wrong", exact=True).click()
        assert it.shown == ["q1"]
        page.locator("#by").select_option(label="any model")
        page.get_by_role("button", name="all", exact=True).click()
        page.locator("#benchmark").select_option(label="slake")
        assert it.shown == ["q9"]
        page.locator("#benchmark").select_option(label="all benchmarks")
        page.locator("#find").fill("WHICH lung")
        assert it.shown == ["q9"]
        page.locator("#find").fill("no such word")
        assert page.locator("#none").is_visible()
        assert it.trouble == []
        page.context.close()

    def test_what_an_item_shows(self, browser: Browser, tmp_path: Path) -> None:
        write_png(tmp_path / "images" / "0.png", size=(200, 200))
        first = [replace(an_item(0), scores={"judge:gpt": 1.0}, labels={"modality": "CT"}), with_verdict(an_item(1), P)]
        it = opened(browser, page_of(tmp_path, ("A", first), images=tmp_path / "images"))
        item = it.page.locator("article.case").first
        it.page.wait_for_function("document.querySelector('article.case img').naturalWidth === 200")
        text = item.inner_text()
        for words in (
            "What does image 0 show?",
            "known answer: Fracture",
            "right",
            "by rule: final answer",
            "judge:gpt 1.00",
            "modality: CT",
        ):
            assert words in text
        assert item.locator(".options .gold").inner_text() == "Fracture"
        assert not item.locator("pre").is_visible()
        it.page.locator("#open").click()
        assert "### Step 1" in item.locator("pre").inner_text()
        assert "is missing" in it.page.locator("article.case").nth(1).inner_text()
        it.page.context.close()

    def test_the_known_option_is_marked_however_it_is_written(self, browser: Browser, tmp_path: Path) -> None:
        it = opened(browser, page_of(tmp_path, ("A", [an_item(0, kind="yes_no", options=("Yes", "No"), answer="no")])))
        assert it.page.locator(".options .gold").all_inner_texts() == ["No"]
        it.page.context.close()

    def test_hostile_text_does_nothing(self, browser: Browser, tmp_path: Path) -> None:
        items = [
            an_item(
                number,
                id=f"{attack}{number}",
                question=attack,
                options=(attack, "b"),
                answer=attack,
                given=attack,
                reply=attack,
                rule=attack,
                problem=attack,
                images=(f"{attack}.png",),
                labels={attack: attack},
                scores={attack: 0.5},
            )
            for number, attack in enumerate(ATTACKS)
        ]
        it = opened(browser, page_of(tmp_path, ("<script>window.pwned=1</script>", items), images=tmp_path))
        it.page.locator("#open").click()
        assert it.page.locator("article.case").count() == len(ATTACKS)
        assert it.page.locator("script").count() == 2
        assert it.page.locator("style").count() == 1
        assert it.page.locator("main img, main a:not([href^='#'])").count() == 0
        assert it.page.evaluate("typeof window.pwned") == "undefined"
        assert "<script>window.pwned = 1</script>" in it.page.locator("article.case pre").first.inner_text()
        assert it.trouble == []
        it.page.context.close()

    def test_thousands_are_drawn_a_few_at_a_time(self, browser: Browser, tmp_path: Path) -> None:
        it = opened(browser, page_of(tmp_path, ("A", answers(0.8, 5000)), ("B", answers(0.5, 5000, seed=9))))
        page = it.page
        assert len(it.shown) == 25
        assert page.locator("#page").inner_text() == "page 1 of 200"
        assert page.locator("#before").is_disabled()
        page.locator("#after").click()
        assert it.shown[0] == "q25"
        page.locator("#find").fill("image 4999 ")
        assert it.shown == ["q4999"]
        assert not page.locator("#pages").is_visible()
        assert it.trouble == []
        page.context.close()

    def test_models_are_side_by_side_and_every_item_has_a_link(self, browser: Browser, tmp_path: Path) -> None:
        path = page_of(tmp_path, ("A", answers(0.8, 60)), ("B", answers(0.5, 60, seed=9)))
        it = opened(browser, path)
        left, right = (box for said in it.page.locator("article.case").first.locator(".said").all() if (box := said.bounding_box()))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        assert it.page.locator("article.case .anchor").nth(3).get_attribute("href") == "#vqa_rad%2Fq3"
        it.page.locator("#find").fill("image 4 ")
        it.page.evaluate("location.hash = '#vqa_rad%2Fq57'")
        it.page.locator(".case.linked").wait_for()
        assert it.page.locator(".case.linked h3").inner_text() == "q57"
        assert it.page.locator("#page").inner_text() == "page 3 of 3"
        it.page.goto("about:blank")
        it.page.goto(f"{path.as_uri()}#vqa_rad%2Fq30")
        assert it.page.locator(".case.linked h3").inner_text() == "q30"
        it.page.evaluate("location.hash = '#%E0%A4%A'")
        assert it.trouble == []
        it.page.context.close()

    def test_a_telephone_needs_no_sideways_scrolling(self, browser: Browser, tmp_path: Path) -> None:
        it = opened(browser, page_of(tmp_path, ("A", some(R, W)), ("B" * 60, some(W, W))), width=390)
        assert it.page.evaluate("document.documentElement.scrollWidth") == 390
        right = it.page.locator(".counts th", has_text="right").bounding_box()
        assert right is not None
        assert right["x"] + right["width"] < 390  # next to a long name
        it.page.context.close()


def test_images_are_bounded_and_each_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MAX_IMAGES", 3)
    for number in range(5):
        write_png(tmp_path / "images" / f"{number}.png", seed=number)
    items = [replace(an_item(n), images=(f"{n // 2}.png",)) for n in range(10)]
    runs = [write_evaluation(tmp_path / name, name, items) for name in ("A", "B")]
    found = gathering.gather(read_evaluations(runs), {"vqa_rad": tmp_path / "images"})
    assert len(found.images) == 5
    assert [bool(image["url"]) for image in found.images] == [True] * 3 + [False] * 2
    assert "first 3 images" in found.images[4]["problem"]


def test_images_outside_their_folder_are_not_read(tmp_path: Path) -> None:
    write_png(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    items = [replace(an_item(0), images=("../secret.png", "/etc/passwd"))]
    found = gathering.gather(read_evaluations([write_evaluation(tmp_path / "A", "A", items)]), {"vqa_rad": tmp_path / "images"})
    assert [image["url"] for image in found.images] == ["", ""]


def test_controls_stay_out_and_seeds_stand_side_by_side(tmp_path: Path) -> None:
    items = [an_item(0), replace(an_item(0), seed=1, verdict=Verdict.WRONG), replace(an_item(0), control="blank")]
    found = gathering.gather(read_evaluations([write_evaluation(tmp_path / "A", "A", items)]), {})
    assert found.answerers == ["A", "A, seed 1"]
    assert [s["verdict"] for s in found.items[0]["said"]] == ["right", "wrong"]


def test_long_replies_are_cut(tmp_path: Path) -> None:
    items = [replace(an_item(0), reply="x" * 50_000)]
    found = gathering.gather(read_evaluations([write_evaluation(tmp_path / "A", "A", items)]), {})
    reply = found.items[0]["said"][0]["reply"]
    assert len(reply) < 21_000
    assert reply.endswith("and 30,000 more characters")


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    page = page_of(tmp_path, ("A", some(R)))
    assert page.stat().st_mode & 0o077 == 0


STEPS = "### Step 1: The cortex is interrupted at $5 and $6.\n### Step 2: {}\n### The final answer is: {}"


def figure_runs(folder: Path) -> list[str]:
    """A right model with steps, a wrong one with a long step, and one without steps; the item has an image."""
    write_png(folder / "images" / "0.png", size=(300, 200))
    right = replace(an_item(0), reply=STEPS.format("It is a fracture.", "Fracture"), scores={"mics_score@1": 0.5, "mics_score@2": 1.0})
    wrong = replace(with_verdict(an_item(0), W), reply=STEPS.format("<b>Round</b> and smooth. " * 40, "Cyst"))
    runs = [("Right-8B", right), ("Wrong-2B", wrong), ("Silent", with_verdict(an_item(0), U))]
    group = {"benchmark": "vqa_rad", "control": "none", "protocol": "huatuo_closed", "data": {"images": str(folder / "images")}}
    other = an_item(1, benchmark="slake", id="q7")
    return [str(write_evaluation(folder / name, name, [item, replace(item, id="q7"), other], [group])) for name, item in runs]


def test_the_figure_of_an_item_as_a_page(tmp_path: Path, cli: Cli) -> None:
    ended = cli(["compare", *figure_runs(tmp_path), "--item", "q0", "--out", str(tmp_path / "f.html")])
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path / 'f.html'}\n"), ended.stderr
    page = (tmp_path / "f.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "What does image 0 show?" in page
    assert '<li class="gold">Fracture</li>' in page
    assert [page.count(label) for label in ("\N{CHECK MARK} right", "\N{BALLOT X} wrong", ">unparsed<")] == [1, 1, 1]
    assert page.count('<li class="step" dir="auto">') == 4
    assert 'It is a fracture. <span class="muted">MICS 1.00</span>' in page
    assert "&lt;b&gt;Round&lt;/b&gt;" in page
    assert '<p class="reply" dir="auto">I cannot tell.</p>' in page


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_figure_of_an_item_as_a_picture(tmp_path: Path, cli: Cli, ending: str, start: bytes) -> None:
    out = tmp_path / f"f{ending}"
    command = ["compare", *figure_runs(tmp_path), "--item", "vqa_rad/q7", "--out", str(out)]
    ended = cli(command)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "note: long replies are cut: .html shows them whole\n"
    first = out.read_bytes()
    assert first.startswith(start)
    cli(command)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--item", "q99"), "no item 'q99' in these runs"),
        (("--item", "q7", "--out", "f.html"), "item 'q7' is in vqa_rad and slake: write --item vqa_rad/q7"),
        (("--item", "q0"), "--item draws a figure: name its file with --out"),
        (("--item", "q0", "--out", "f.txt"), "--out f.txt: a figure of an item is written as .html, .png or .pdf"),
    ],
)
def test_a_figure_that_cannot_be_drawn(tmp_path: Path, cli: Cli, more: tuple[str, ...], words: str) -> None:
    ended = cli(["compare", *figure_runs(tmp_path), *(more if "q99" not in more else (*more, "--out", "f.html"))])
    assert (ended.returncode, words in " ".join(ended.stderr.split())) == (2, True), ended.stderr
