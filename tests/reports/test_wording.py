import pytest

from chiron.reports import wording


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\N{EN DASH}"), (0.0, "±0.00"), (-0.004, "±0.00"), (1 / 3, "+0.33"), (-0.5, "\N{MINUS SIGN}0.50")]
)
def test_signed(value: float | None, text: str) -> None:
    assert wording.signed(value) == text


@pytest.mark.parametrize(
    ("began", "text"), [("2026-11-22T13:30:58+0000", "2026-11-22 13:30 +0000"), ("2026-11-22", "2026-11-22 00:00"), ("once", "once")]
)
def test_moment(began: str, text: str) -> None:
    assert wording.moment(began) == text


def test_legible_keeps_what_people_write() -> None:
    text = "Größe 3 µm,\tتصوير الصدر 🩻\nline"
    assert wording.legible(text) == text
    assert wording.legible("a\x00b\x1b[31m\u202e\ud800") == "a\ufffdb\ufffd[31m\ufffd\ufffd"
    assert wording.legible(3) == 3


def test_small_things() -> None:
    assert wording.plural(1, "case", "cases") == "1 case"
    assert wording.plural(2000, "case", "cases") == "2,000 cases"
    assert wording.usd(0.01234) == "$0.0123"
    assert wording.usd(1234.5) == "$1,234.50"
    assert wording.share(0, 0) == "\N{EN DASH}"
