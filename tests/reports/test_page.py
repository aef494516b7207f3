import base64
import hashlib
import re
import sqlite3
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chiron.client.ledger import Ledger
from chiron.errors import DiskError, InputError
from chiron.reports.page import write_report
from tests.reports.building import NAME, a_case, hostile_run, pending, rejected, retained, stored, write_run


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str]:
        return [value for _, n, value in self.attributes if n == name]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile_run(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def text(hostile: Path) -> str:
    return hostile.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_only_its_owner_may_read_it(hostile: Path) -> None:
    assert stat.S_IMODE(hostile.stat().st_mode) == 0o600
    assert sorted(p.name for p in hostile.parent.iterdir() if p.name.startswith(".")) == []


def test_hostile_text_makes_no_markup(page: Page, text: str) -> None:
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert page.tags.count("img") == 2
    assert page.tags.count("article") == 6
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "window.pwned" in page.words  # shown, as text
    assert "{{ 7 * 7 }}" in page.words


def test_nothing_refers_to_the_outside(page: Page) -> None:
    for name in ("src", "href", "action", "data", "poster", "srcset"):
        assert all(value.startswith(("data:", "#case-")) for value in page.values(name))
    assert "style" not in {name for _, name, _ in page.attributes}


def test_ids_are_made_here(page: Page) -> None:
    made = [i for i in page.values("id") if i.startswith("case-")]
    assert made == [f"case-{n}{end}" for n in range(1, 7) for end in ("", "-id")]
    assert len(page.values("id")) == len(set(page.values("id")))


def test_the_policy_lets_in_its_own_style_and_script_alone(text: str, page: Page) -> None:
    policy = next(v for v in page.values("content") if v.startswith("default-src"))
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_direction_controls_do_not_reach_the_page(text: str) -> None:
    assert "safe\ufffdgnp.exe\ufffd" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)


def test_images_are_small_copies_or_say_what_is_wrong(page: Page) -> None:
    assert all(v.startswith("data:image/jpeg;base64,") for t, n, v in page.attributes if (t, n) == ("img", "src"))
    assert [v for t, n, v in page.attributes if (t, n) == ("img", "width")] == ["320", "32"]
    assert any(v.endswith(f": {NAME}") for v in page.values("alt"))
    assert "image 'missing.png' is missing" in page.words
    assert "image '../outside.png' leaves the image folder" in page.words


def test_a_case_is_told_whole(page: Page) -> None:
    words = " ".join(page.words.split())
    assert "a full score ended the search" in words
    assert "3/3 = 1.00 1 missing +0.75" in words
    assert "depth 1, mentor-a 2/3 Look at image 1." in words
    assert "the rest, mentor-a So it is a rib fracture." in words
    assert "This step names the answer: interns were shown nothing from here on." in words
    assert "Whole path: 3/3; interns saw 2 of its 4 steps." in words
    assert "mentor-a ✓ chosen" in words
    assert "✗ wrong intern-b at 1.2" in words
    assert "\N{EN DASH} missing intern-b at 0.2" in words
    assert "Attempt 2 of 2 given up" in words
    assert "2 of 3 mentors did not answer: HTTP 503" in words
    assert "line 6" in words


def test_totals(page: Page) -> None:
    words = " ".join(page.words.split())
    for tile in ("6 cases on record", "✓ 2 retained, 33 %", "✗ 1 rejected, 17 %", "∅ 1 unsolved", "… 1 pending", "! 1 bad"):
        assert tile in words.replace("\xa0", " ")
    assert "0.75 mean MICS-Score" in words
    assert "+0.50 mean uplift" in words
    assert "2 above the baseline, 1 the same, 0 below" in words
    assert "1 too few interns reached the answer along the path" in words


def test_spending_row_by_row(text: str) -> None:
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr><td>.*?</tr>", text)]
    cells = [[c for c in row.split("|") if c] for row in rows]
    assert cells == [
        ["mentor", "mentor-a", "2", "0", "2,000", "400", "$1.00", "0.00", "2", "0"],
        ["intern", "intern-a", "1", "0", "10", "5", "no price", "0.00", "0", "1"],
    ]


def test_a_run_that_has_no_result_yet(tmp_path: Path) -> None:
    words = Page(write_report(write_run(tmp_path, [])).read_text()).words
    assert "No case has ended yet" in words
    assert "0 cases on record" in " ".join(words.split())


def test_a_run_with_nothing_but_pending_cases_has_no_figures(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path, [stored(pending(a_case("c")), 0)])).read_text())
    assert "svg" not in page.tags
    assert "no MICS-Score" in page.words


def test_only_the_first_cases_get_a_section_and_all_are_counted(tmp_path: Path) -> None:
    results = [stored((retained if n % 2 else rejected)(a_case(f"c{n}", images=())), n) for n in range(12)]
    run = write_run(tmp_path / "a folder", results)
    page = Page(write_report(run, cases=5).read_text())
    words = " ".join(page.words.split())
    assert page.tags.count("article") == 5
    assert f"Showing 5 of 12 cases; chiron report '{run}' --cases all shows every one." in words
    assert "12 cases on record" in words
    assert "✓ 6 retained" in words

    everything = Page(write_report(run, cases=None).read_text())
    assert everything.tags.count("article") == 12
    assert "Showing" not in everything.words


def test_another_place_for_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, [])
    out = tmp_path / "elsewhere.html"
    assert write_report(run, out=out) == out
    assert out.is_file()
    assert not (run / "report.html").exists()


@pytest.mark.slow
def test_beside_a_writer(tmp_path: Path) -> None:
    run = write_run(tmp_path, [stored(retained(a_case("first", images=())), 0)])
    with Ledger.open(run / "ledger.sqlite") as writer:
        writer._db.execute("BEGIN IMMEDIATE")
        writer.put_result(stored(retained(a_case("second", images=())), 1))
        assert "1 case on record" in " ".join(Page(write_report(run).read_text()).words.split())
        writer._db.execute("COMMIT")
        assert "2 cases on record" in " ".join(Page(write_report(run).read_text()).words.split())


def test_text_that_cannot_be_encoded(tmp_path: Path) -> None:
    run = write_run(tmp_path, [stored(retained(a_case("c", images=("\ud800.png",)), answer="a lone \ud83d surrogate"), 0)])
    text = write_report(run).read_text("utf-8")
    assert "a lone \ufffd surrogate" in text
    assert "the image cannot be shown" in text


def test_no_image_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path, [stored(retained(a_case("c")), 0)], images=None)
    assert "run.json names no image folder" in write_report(run).read_text()


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run directory \(it has no run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"no ledger\.sqlite"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"identity": {"depth": "deep"}}', "\x00"])
def test_a_damaged_run_json(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path, [])
    (run / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        write_report(run)


def test_a_damaged_ledger(tmp_path: Path) -> None:
    run = write_run(tmp_path, [stored(retained(a_case("c", images=())), 0)])
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE results SET record = x'00'")
    db.close()
    with pytest.raises(InputError, match="damaged"):
        write_report(run)


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path, [])
    with pytest.raises(DiskError, match=r"nowhere/report\.html cannot be written \(No such file or directory\)"):
        write_report(run, out=tmp_path / "nowhere" / "report.html")


def test_a_failure_leaves_the_page_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, [])
    page = write_report(run)
    before = page.read_text()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_report(run)
    assert page.read_text() == before
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []
