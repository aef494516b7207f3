"""``chiron view`` as a person starts it, in a process of its own."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.command import CHIRON, chiron, environment
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow
RECORDED = Path(__file__).parents[1] / "support" / "recorded_run"


@contextmanager
def started(*arguments: object, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    command = [*CHIRON, "view", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**variables)) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_it_prints_one_line_answers_with_the_token_only_and_ends_with_130(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "recorded_run")
    with started(tmp_path, "--no-browser", "--json") as process:
        url = json.loads(first_line(process))["url"]
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1"
        connection = HTTPConnection("127.0.0.1", parts.port or 0, timeout=PATIENCE)
        connection.request("GET", "/")
        refused = connection.getresponse()
        assert refused.status == 403
        refused.read()
        connection.request("GET", f"/?{parts.query}")
        exchange = connection.getresponse()
        exchange.read()
        cookie = str(exchange.getheader("set-cookie")).partition(";")[0]
        connection.request("GET", "/", headers={"Cookie": cookie})
        assert "recorded_run" in connection.getresponse().read().decode()
        connection.close()
        stream = HTTPConnection("127.0.0.1", parts.port or 0, timeout=PATIENCE)
        stream.request("GET", "/events", headers={"Cookie": cookie})
        with stream.getresponse() as events:
            assert events.readline() == b"retry: 2000\n"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=PATIENCE)
        stream.close()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in error
    assert parts.query.partition("=")[2] not in error


def test_it_ends_in_order_when_it_is_terminated(tmp_path: Path) -> None:
    with started(tmp_path, "--no-browser", "--json") as process:
        first_line(process)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_the_ordinary_start_says_where_to_look(tmp_path: Path) -> None:
    with started(tmp_path, "--no-browser") as process:
        assert process.stderr is not None
        assert "http://127.0.0.1:" in process.stderr.readline()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = chiron("view", tmp_path / "nowhere", "--no-browser")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_a_browser_that_runs_in_the_foreground_gets_its_page(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "recorded_run")
    browser, seen = tmp_path / "browser", tmp_path / "seen.html"
    browser.write_text(
        f"#!{sys.executable}\nimport sys, pathlib, urllib.request as r\nopener = r.build_opener(r.HTTPCookieProcessor())\n"
        f"try: page = opener.open(sys.argv[1], timeout={PATIENCE}).read().decode()\nexcept OSError as error: page = repr(error)\n"
        f"pathlib.Path({str(seen)!r}).write_text(page + 'end')\n"
    )
    browser.chmod(0o755)
    with started(tmp_path, BROWSER=f"{browser} %s"):
        wait_until(lambda: seen.is_file() and seen.read_text().endswith("end"), what="the browser's end")
    assert "recorded_run" in seen.read_text()


def test_each_reviewer_gets_a_link_that_opens_the_queue(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "recorded_run")
    people = ("--review", "Dr. Ann\u00e9", "--review", "ben", "--adjudicate", "cleo")
    with started(tmp_path, "--no-browser", "--json", *people, "--double", "0.5", "--min-score", "0.2") as process:
        line = json.loads(first_line(process))
        assert list(line["reviewers"]) == ["Dr. Ann\u00e9", "ben", "cleo"]
        assert len({line["url"], *line["reviewers"].values()}) == 4
        parts = urlsplit(line["reviewers"]["ben"])
        connection = HTTPConnection("127.0.0.1", parts.port or 0, timeout=PATIENCE)
        connection.request("GET", f"/?{parts.query}")
        exchange = connection.getresponse()
        exchange.read()
        assert exchange.getheader("location") == "/review"
        connection.request("GET", "/review", headers={"Cookie": str(exchange.getheader("set-cookie")).partition(";")[0]})
        assert "Review 3 paths" in connection.getresponse().read().decode()
        connection.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--review", " "), "cannot be a reviewer's name"),
        (("--review", "a\u202eb"), "cannot be a reviewer's name"),
        (("--double", "0.2"), "need reviewers: add --review NAME"),
        (("--review", "anna", "--double", "20"), "--double must be between 0 and 1"),
        (("--review", "anna", "--min-score", "-1"), "--min-score must be between 0 and 1"),
    ],
)
def test_options_of_reviews_that_make_no_sense_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = chiron("view", tmp_path, "--no-browser", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
