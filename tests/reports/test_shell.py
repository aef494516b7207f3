"""The shell of all pages, and how pages write values."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pytest

from chiron.reports import shell


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\N{EN DASH}"), (0.0, "±0.00"), (-0.004, "±0.00"), (1 / 3, "+0.33"), (-0.5, "\N{MINUS SIGN}0.50")]
)
def test_signed(value: float | None, text: str) -> None:
    assert shell.signed(value) == text


@pytest.mark.parametrize(
    ("began", "text"), [("2026-11-22T13:30:58+0000", "2026-11-22 13:30 +0000"), ("2026-11-22", "2026-11-22 00:00"), ("once", "once")]
)
def test_moment(began: str, text: str) -> None:
    assert shell.moment(began) == text


def test_legible_keeps_what_people_write() -> None:
    text = "Größe 3 µm,\tتصوير الصدر 🩻\nline"
    assert shell.legible(text) == text
    assert shell.legible("a\x00b\x1b[31m\u202e\ud800") == "a\ufffdb\ufffd[31m\ufffd\ufffd"
    assert shell.legible(3) == 3


def test_small_things() -> None:
    assert shell.plural(1, "case", "cases") == "1 case"
    assert shell.plural(2000, "case", "cases") == "2,000 cases"
    assert shell.usd(0.01234) == "$0.0123"
    assert shell.usd(1234.5) == "$1,234.50"
    assert shell.share(0, 0) == "\N{EN DASH}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a page of its own, as another part of the program has."""
    folder = tmp_path / "pages_of_another_part"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "small.html").write_text(
        '{% extends "base.html" %}{% block title %}{{ title }}{% endblock %}'
        '{% block main %}<p id="{{ title }}">{{ number|count }}</p>{% endblock %}'
    )
    (folder / "small.css").write_text("p { margin: 1rem; }\n")
    (folder / "small.js").write_text("document.title = 'seen';\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_a_page_of_any_package_gets_the_shell_and_a_policy_for_its_own_style_and_script(package: str) -> None:
    page = "".join(shell.render_page(package, "small.html", styles=["small.css"], script="small.js", title="a", number=1000))
    policy = re.search('Content-Security-Policy" content="(.*?)">', page)
    assert policy is not None
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in html.unescape(policy.group(1))
    assert "p { margin: 1rem; }" in page
    assert "--page:" in page  # the style sheet of all pages
    assert '<p id="a">1,000</p>' in page
    assert "<script>" not in "".join(shell.render_page(package, "small.html", title="a", number=1))


def test_a_value_on_a_page_can_neither_be_markup_nor_turn_the_text_around(package: str) -> None:
    page = "".join(shell.render_page(package, "small.html", title='"><script>alert(1)</script>\u202e', number=1))
    assert "<script>" not in page
    assert "\u202e" not in page


def test_data_in_a_page_cannot_end_its_script_element() -> None:
    text = str(shell.embedded_json({"a": "</script><!--&\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}
