"""Pages of a search: totals, the table of cases, a case, its images and its calls."""

import html
import io
import json
import re
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from PIL import Image, ImageOps
from starlette.testclient import TestClient

from chiron.client.call import Call, Message, TextPart
from chiron.client.images import stretched
from chiron.client.ledger import Ledger
from chiron.jobs.directory import LEDGER
from chiron.view.accounts import Accounts
from chiron.view.files import reading
from tests.reports.building import a_case, bad, hostile_run, pending, rejected, retained, stored, unsolved, write_run
from tests.support.cases import known_answers, write_cases, write_png
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation, prompt_of
from tests.view.serving import address_of, case_links, settled, visiting

WAITS = ("more record", "still being read")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six cases of every outcome."""
    made = [
        retained(a_case("alpha", answer="Lung cyst", images=("chest x-ray/alpha.png",))),
        rejected(a_case("beta", question="What does the CT of the abdomen show?")),
        unsolved(a_case("gamma")),
        retained(a_case("delta", question="Which rib?")),
        pending(a_case("epsilon")),
    ]
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps({**r.case.to_record(), "modality": ["CT", "MRI"][n % 2]}) + "\n" for n, r in enumerate(made)))
    write_run(tmp_path, [*(stored(r, n) for n, r in enumerate(made)), bad(5)])
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with visiting(folder) as visitor:
        yield visitor


def ids(page: str) -> list[str]:
    return re.findall(r"data-row><bdi>([^<]*)</bdi>", page)


def test_totals_and_figures_are_those_of_the_report(client: TestClient) -> None:
    page = settled(client, address_of(client, "run"), *WAITS)
    assert "<b>6</b> <span>cases on record</span>" in page
    assert "mean MICS-Score" in page
    assert "Distribution of MICS-Scores. above 0.2 up to 0.3: 0 retained, 1 not; exactly 1: 2 retained, 0 not" in page
    assert "What the reasoning adds" in page
    assert "at some depth no candidate led an intern to the answer" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["alpha", "beta", "gamma", "delta", "epsilon", "line 6"]),
        ("outcome=retained", ["alpha", "delta"]),
        ("outcome=bad", ["line 6"]),
        ("outcome=nonsense", []),
        ("score=1", ["alpha", "delta"]),
        ("score=0-0.5", ["beta"]),
        ("score=nonsense&outcome=retained", ["alpha", "delta"]),
        ("uplift=better", ["alpha", "delta"]),
        ("uplift=same", ["beta"]),
        ("depth=2", ["alpha", "beta", "delta"]),
        ("depth=1", ["gamma"]),
        ("modality=CT", ["alpha", "gamma", "epsilon"]),
        ("find=WHICH+rib", ["delta"]),
        ("find=cyst", ["alpha"]),
        ("find=%25", []),
        ("find=no+such+word", []),
        ("sort=score", ["alpha", "delta", "beta", "gamma", "epsilon", "line 6"]),
        ("sort=low", ["beta", "alpha", "delta", "gamma", "epsilon", "line 6"]),
        ("sort=nonsense&page=99999999999", ["alpha", "beta", "gamma", "delta", "epsilon", "line 6"]),
        ("page=7&outcome=retained", ["alpha", "delta"]),
    ],
)
def test_cases_are_filtered_searched_and_sorted(client: TestClient, query: str, expected: list[str]) -> None:
    address = address_of(client, "run")
    settled(client, address, *WAITS)
    assert ids(client.get(f"{address}?{query}").text) == expected


def test_the_table_has_pages_and_keeps_the_filters_in_their_links(tmp_path: Path) -> None:
    made = [retained(a_case(f"case-{n:03d}")) if n % 2 else rejected(a_case(f"case-{n:03d}")) for n in range(130)]
    write_run(tmp_path, [stored(r, n) for n, r in enumerate(made)])
    with visiting(tmp_path) as client:
        address = address_of(client, "run")
        settled(client, address, "more record")
        page = client.get(f"{address}?outcome=retained&page=2").text
        assert ids(page) == [f"case-{n:03d}" for n in range(101, 130, 2)]
        assert "page 2 of 2" in page
        assert 'href="?outcome=retained&amp;page=1"' in page
        case = re.search(r'href="(/runs/\w+/cases/\w+\?outcome=retained)" id="case-\w+" data-row><bdi>case-103', page)
        assert case is not None
        steps = client.get(html.unescape(case[1])).text
        assert "52 of 65" in steps
        before = re.search(r'href="([^"]+)" id="case-before"', steps)
        assert before is not None
        assert "<bdi>case-101</bdi>" in client.get(html.unescape(before[1])).text


def test_a_case_shows_question_answer_path_and_tree(client: TestClient) -> None:
    page = client.get(case_links(client.get(address_of(client, "run")).text)[0]).text
    assert "What does alpha show?" in page
    assert '<dd class="known" dir="auto">Lung cyst</dd>' in page
    assert "The cortex is broken." in page
    assert "Depth 2" in page
    assert "✓ chosen" in page
    assert "What the interns answered" in page


def test_a_case_that_is_not_there_is_not_found(client: TestClient) -> None:
    address = address_of(client, "run")
    for path in ("cases/0000000000000000", "cases/0000000000000000/calls", "cases/0000000000000000/images/0", "rows/0"):
        assert client.get(f"{address}/{path}").status_code == 404
    first = case_links(client.get(address).text)[0]
    assert client.get(f"{first}/images/1").status_code == 404


def test_a_record_of_another_version_is_a_page_with_its_problem(folder: Path, client: TestClient) -> None:
    case = retained(a_case("odd"))
    result = stored(case, 9)
    result.record["tree"] = [[{"depth": 1}]]
    with Ledger.open(folder / "run" / LEDGER) as ledger:
        ledger.put_result(result)
    page = settled(client, address_of(client, "run"), *WAITS)
    link = case_links(page)[-1]
    answer = client.get(link)
    assert answer.status_code == 422
    assert "of another version of chiron" in answer.text


def test_only_images_inside_the_folder_are_sent(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    write_png(tmp_path / "outside.png")
    (tmp_path / "images" / "missing.png").symlink_to(tmp_path / "outside.png")
    with visiting(tmp_path) as client:
        case = case_links(client.get(address_of(client, "run")).text)[0]
        good, hostile_name, link, outside = (client.get(f"{case}/images/{number}") for number in range(4))
        assert good.status_code == hostile_name.status_code == 200
        assert good.headers["content-type"] == "image/png"
        assert good.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert link.status_code == outside.status_code == 404
        assert "link out of the image folder" in link.text
        assert "leaves the image folder" in outside.text


def test_a_deep_image_is_sent_as_eight_bits_in_the_window_that_is_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, [stored(retained(a_case("deep", images=("deep.png",))), 0)])
    Image.fromarray(np.array([[0, 1000, 2000, 4000]], dtype=np.uint16)).save(tmp_path / "images" / "deep.png")
    with visiting(tmp_path) as client:
        address = f"{case_links(client.get(address_of(client, 'run')).text)[0]}/images/0"
        whole, narrow = (pixels(client.get(address + query).content) for query in ("", "?center=0.25&width=0.5"))
        assert whole[0] < whole[1] < whole[2] < whole[3]
        assert narrow == [0, 127, 255, 255]
        assert pixels(client.get(f"{address}?center=nan&width=x").content) == whole


@pytest.mark.parametrize(("name", "mode"), [("gray.jpg", np.uint8), ("deep.png", np.uint16), ("deep.tif", np.uint16)])
def test_an_image_is_upright_in_every_window(tmp_path: Path, name: str, mode: type[np.generic]) -> None:
    write_run(tmp_path, [stored(retained(a_case("turned", images=(name,))), 0)])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    wide = np.zeros((8, 32), mode)
    wide[:, 16:] = 200
    Image.fromarray(wide).save(tmp_path / "images" / name, exif=exif)
    with visiting(tmp_path) as client:
        address = f"{case_links(client.get(address_of(client, 'run')).text)[0]}/images/0"
        for query in ("", "?center=0.5&width=0.9"):
            with Image.open(io.BytesIO(client.get(address + query).content)) as image:
                shown = ImageOps.exif_transpose(image)
                assert shown.size == (8, 32)
                gray = np.asarray(shown.convert("L"))
                assert gray[4, 4] < 100 < gray[28, 4]


@pytest.mark.slow
def test_a_large_deep_image_is_shown_in_little_memory() -> None:
    image = Image.fromarray(np.tile(np.arange(4000, dtype=np.uint16), (4000, 1)))
    tracemalloc.start()
    stretched(image, 0.25, 0.5)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 4000 * 4000  # not even one copy in doubles


def pixels(data: bytes) -> list[int]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        return [int(value) for value in np.asarray(image).ravel()]


@pytest.mark.slow
def test_the_calls_of_a_case_have_the_prompts_that_were_sent(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
        sent = {prompt_of(body) for body in endpoint.seen.bodies}
    with visiting(tmp_path) as client:
        shown: set[str] = set()
        for case in case_links(client.get(address_of(client, "run")).text):
            page = client.get(f"{case}/calls").text
            assert "no reply" not in page
            for details in re.findall(r"<details>\n<summary>Prompt</summary>(.*?)</details>", page, re.DOTALL):
                shown.add("\n\n".join(html.unescape(part) for part in re.findall(r'<pre dir="auto">(.*?)</pre>', details, re.DOTALL)))
    assert shown == sent


def test_replies_that_a_replay_copied_cost_nothing(tmp_path: Path) -> None:
    run = tmp_path / "recorded_run"
    shutil.copytree(Path(__file__).parents[1] / "support" / "recorded_run", run)
    with sqlite3.connect(run / LEDGER) as connection:
        connection.execute("UPDATE calls SET copied = 1")
    connection.close()
    with visiting(tmp_path) as client:
        case = case_links(client.get(address_of(client, "recorded_run")).text)[0]
        page = client.get(f"{case}/calls").text
    assert re.search(r"(\d+) with a reply, \1 of them replayed from another run, \$0\. ", page)
    assert page.count(", replayed") == int(re.findall(r"(\d+) with a reply", page)[0])


@pytest.mark.slow
def test_a_case_says_why_its_calls_failed_in_the_words_of_the_server(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)

    def refusal(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        return web.json_response({"error": {"message": "too long <for us>"}}, status=400) if body["model"] == "mentor-a" else None

    with Endpoint(Simulation(known_answers(cases)).reply, override=refusal) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "run")
    with visiting(tmp_path) as client:
        address = address_of(client, "run")
        assert "too long &lt;for us&gt;" in client.get(address).text
        case = case_links(client.get(address).text)[0]
        assert "too long &lt;for us&gt;" in client.get(case).text
        calls = client.get(f"{case}/calls").text
        assert "no reply" in calls
        assert re.search(r"failed: [^\n]*too long &lt;for us&gt;", calls)


def test_without_the_file_of_cases_replies_are_shown_without_prompts(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "support" / "recorded_run", tmp_path / "recorded_run")
    with visiting(tmp_path) as client:
        case = case_links(client.get(address_of(client, "recorded_run")).text)[0]
        page = client.get(f"{case}/calls").text
    assert "cases.jsonl does not exist" in page
    assert "### The final answer is:" in page


def test_words_of_failures_that_may_quote_a_prompt_are_not_shown(folder: Path) -> None:
    from chiron.view.accounts import failures_of

    call = Call("intern", "m", "m", (Message("user", (TextPart("q"),)),), 0.0, 1)
    with Ledger.open(folder / "run" / LEDGER) as ledger:
        ledger.note_failure(call, "transient", "the prompt said: patient X", final=False)
        ledger.keep_words_from_here()
        ledger.note_failure(call, "transient", "HTTP 503", final=True)
        after = ledger.shown_after()
    with reading(folder / "run" / LEDGER) as connection:
        assert failures_of(connection, call.key, after) == ["transient", "HTTP 503"]


@pytest.fixture
def two_searches(tmp_path: Path) -> Path:
    """Two searches of alpha, beta and gamma; the second retains beta, lacks gamma, and has delta."""
    first = [retained(a_case("alpha", images=("a.png",))), rejected(a_case("beta")), retained(a_case("gamma"))]
    second = [retained(a_case("alpha", images=("a.png",))), retained(a_case("beta")), unsolved(a_case("delta"))]
    for name, made in (("one", first), ("two", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cases.jsonl").write_text("".join(json.dumps(r.case.to_record()) + "\n" for r in made))
        write_run(tmp_path / name, [stored(r, n) for n, r in enumerate(made)])
    return tmp_path


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["alpha", "beta", "gamma", "delta"]),
        ("kind=differ", ["beta", "gamma", "delta"]),
        ("kind=better", ["beta"]),
        ("kind=worse", []),
        ("kind=second", ["beta"]),
        ("kind=missing", ["gamma", "delta"]),
        ("kind=nonsense&find=ALP", ["alpha"]),
    ],
)
def test_two_searches_are_compared_case_by_case(two_searches: Path, query: str, expected: list[str]) -> None:
    with visiting(two_searches) as client:
        one, two = (address_of(client, f"{name}/run").rpartition("/")[2] for name in ("one", "two"))
        assert f'href="/compare?run={one}&amp;run={two}"' in client.get(f"/runs/{one}").text
        page = client.get(f"/compare?run={one}&run={two}&{query}").text
        assert ids(page) == expected
        assert "Retained in both 1, only in the first 1, only in the second 1, in neither 1." in page
        assert client.get(f"/compare?run={one}").status_code == 404


def test_the_paths_of_a_case_in_two_searches_are_next_to_each_other(two_searches: Path) -> None:
    with visiting(two_searches) as client:
        one, two = (address_of(client, f"{name}/run").rpartition("/")[2] for name in ("one", "two"))
        page = client.get(f"/compare?run={one}&run={two}").text
        alpha, beta, _, delta = re.findall(r'<a href="(/compare/cases/[^"]*)"', page)
        both = client.get(html.unescape(alpha)).text
        assert both.count("The cortex is broken.") == 2
        assert f'src="/runs/{one}/cases/' in both
        assert re.findall(r'class="badge (\w+)"', client.get(html.unescape(beta)).text) == ["rejected", "retained"]
        only = client.get(html.unescape(delta)).text
        assert "This search does not have the case." in only
        assert client.get(f"/compare/cases/0?run={one}&run={two}").status_code == 404


def test_one_case_is_a_case_and_costs_are_those_of_the_ledger(tmp_path: Path) -> None:
    run = tmp_path / "recorded_run"
    shutil.copytree(Path(__file__).parents[1] / "support" / "recorded_run", run)
    with reading(run / LEDGER) as connection, Ledger.read(run / LEDGER) as ledger:
        accounts = Accounts(run / LEDGER)
        assert accounts.advance(connection, float("inf"))
        assert accounts.spending() == ledger.spending()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "cases.jsonl").write_text(json.dumps(a_case("alpha").to_record()) + "\n")
    write_run(tmp_path / "small", [stored(retained(a_case("alpha")), 0)])
    with visiting(tmp_path) as client:
        address = address_of(client, "small/run")
        assert "1 of 1 case</td>" in client.get("/").text
        assert re.search(r"1 of 1 case\b", client.get(address).text)
