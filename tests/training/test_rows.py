"""Rows are read whole or refused by name."""

import json
from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.providers.local.dialogue import Turn
from chiron.training.rows import TrainingExample, read_rows

GOOD = {
    "id": "good",
    "images": ["a.png", "b.png"],
    "messages": [{"role": "user", "content": "<image>\nand <image>?"}, {"role": "assistant", "content": "A rib."}],
}


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


def said(*turns: str, roles: str = "ua") -> list[dict[str, str]]:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": names[role], "content": turn} for role, turn in zip(roles, turns, strict=True)]


def test_both_formats_are_read(tmp_path: Path) -> None:
    text = {"id": "text", "messages": said("Be brief.", "Why?", "So.", "And?", "Done.", roles="suaua")}
    internvl = {
        "id": 7,
        "image": "x/y.png",
        "width": 3,
        "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}],
    }
    several = {
        **internvl,
        "id": 8,
        "image": ["a", "b"],
        "conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "A"}],
    }
    none = {**internvl, "id": 9, "image": "", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}
    rows = read_rows(write(tmp_path, GOOD, text, "", internvl, several, none))
    assert rows[0] == TrainingExample("good", ("a.png", "b.png"), (Turn("user", "<image>\nand <image>?"), Turn("assistant", "A rib.")))
    assert [turn.role for turn in rows[1].turns] == ["system", "user", "assistant", "user", "assistant"]
    assert rows[1].images == ()
    assert rows[2] == TrainingExample("7", ("x/y.png",), (Turn("system", "S"), Turn("user", "<image>\nQ"), Turn("assistant", "A")))
    assert rows[3].images == ("a", "b")
    assert rows[4].images == ()


def test_a_byte_order_mark_and_an_empty_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert [row.id for row in read_rows(path)] == ["good"]
    path.write_bytes(b"")
    assert read_rows(path) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"images": ["a.png"]}, "2 <image> marks for 1 images"),
        ({"images": []}, "2 <image> marks for 0 images"),
        ({"messages": said("Q", "A")}, "0 <image> marks for 2 images"),
        ({"messages": said("Only asked <image><image>", roles="u")}, "no assistant turn"),
        ({"messages": said("<image><image>", " \n")}, "an empty assistant turn"),
        ({"messages": said("<image>", "<image>")}, "an <image> mark in an assistant turn"),
        ({"messages": said("<image><image>", "A", "B", roles="uaa")}, "do not take turns"),
        ({"messages": said("A", "<image><image>", "B", roles="aua")}, "do not take turns"),
        ({"messages": said("<image><image>", "S", "A", roles="usa")}, "do not take turns"),
        ({"messages": said("<image><image>", "A", "B", roles="uau")}, "ends with a user turn"),
        ({"messages": said("<image><image>", "A", roles="ut")}, "turn 2 has no 'role' of system, user, assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "turn 1 has no text in 'content'"),
        ({"messages": []}, "'messages' is not a list of turns"),
        ({"messages": "Q"}, "'messages' is not a list of turns"),
        ({"images": [1, 2]}, "images are not a list of paths"),
        ({"images": ["", "b"]}, "images are not a list of paths"),
        ({"images": {"a": 1}}, "images are not a list of paths"),
        ({"messages": said("<image><image> \ud800", "A")}, "half a character"),
    ],
)
def test_every_fault_is_named_by_line_and_id(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "id": "crooked", **changes})
    with pytest.raises(InputError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 1 broken row")
    assert "line 2, row 'crooked': " in message
    assert fault in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"id": "x", ', "line 2: broken JSON at column"),
        ("[1]", "line 2: not a JSON object"),
        ("[" * 100_000, "line 2: JSON that is nested too deeply"),
        (json.dumps({**GOOD, "id": None}), "line 2, a row without id: its id is missing"),
        (json.dumps({**GOOD, "id": True}), "line 2, a row without id: its id is missing"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "id"}), "line 2, a row without id: its id is missing"),
        (json.dumps(GOOD), "line 2, row 'good': its id is taken by line 1"),
    ],
)
def test_broken_lines_and_ids_are_named(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rows(write(tmp_path, GOOD, line))
    assert fault in str(caught.value)


def test_all_faults_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    crooked = [{**GOOD, "id": f"c{i}", "images": []} for i in range(8)]
    with pytest.raises(InputError) as caught:
        read_rows(write(tmp_path, crooked[0], GOOD, *crooked[1:], "nonsense"))
    message = str(caught.value)
    assert "9 broken rows" in message
    assert "line 1, row 'c0'" in message
    assert "line 6, row 'c4'" in message
    assert "'c5'" not in message
    assert message.endswith("and 4 more")


def test_a_hostile_id_stays_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_rows(write(tmp_path, {**GOOD, "id": "a\nb\x1b[31m" + "x" * 1000, "images": []}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(InputError, match=r"line 2: not UTF-8 text \(byte 8"):
        read_rows(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_rows(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_rows(tmp_path)
