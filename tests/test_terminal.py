"""What others wrote is shown on a terminal, and steers nothing."""

import pytest

from chiron.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("case-7", "case-7"),
        ("Röntgen 胸部 [x]", "Röntgen 胸部 [x]"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\tc\x00", "a\\nb\\r\\tc\\x00"),
        ("\x7f\x85\x9b31m", "\\x7f\\x85\\x9b31m"),
        ("gnp\u202eexe\u2066\u2028", "gnp\\u202eexe\\u2066\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_could_steer_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_whatever_is_printable_stays_so() -> None:
    everything = "".join(map(chr, range(0x11000)))
    once = printable(everything)
    assert printable(once) == once
    assert once.encode("utf-8")
    assert all(c.isprintable() or ord(c) >= 0xA0 for c in once)
