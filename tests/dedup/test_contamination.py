"""Contamination: items of a benchmark are found in training data in other layouts and formats, and nothing else is found."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiron.cases.images import ImageFolder
from chiron.dedup.contamination import BenchmarkItem, Contamination, Likeness, TrainingRow, find_contamination
from chiron.errors import InputError

VIGNETTE = "A 54 year old man fell from a ladder and now has pain over the left seventh rib when he breathes in. What does the film show?"


def picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth, and unlike any other seed's."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    train, bench = tmp_path / "train", tmp_path / "bench"
    train.mkdir()
    bench.mkdir()
    return train, bench


def look(tmp_path: Path, rows: list[TrainingRow], items: list[BenchmarkItem]) -> Contamination:
    """Compare items, whose images are in ``bench``, with rows, whose images are in ``train``."""
    placed = [replace(item, images=tuple(tmp_path / "bench" / path for path in item.images)) for item in items]
    return find_contamination(rows, ImageFolder(tmp_path / "train"), placed)


def an_item(name: str, question: str, *images: str, options: tuple[str, ...] = ()) -> BenchmarkItem:
    return BenchmarkItem("bench", name, question, tuple(map(Path, images)), options)


def test_images_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    train, bench = folders(tmp_path)
    picture(1).save(train / "a.png")
    (bench / "same.png").write_bytes((train / "a.png").read_bytes())
    picture(1).resize((64, 64)).save(bench / "smaller.jpg", quality=70)
    picture(2).save(bench / "other.png")
    rows = [TrainingRow("r1", ("a.png",), ("Describe <image>.",))]
    items = [an_item(name, f"Question {name} about nothing else", name) for name in ("same.png", "smaller.jpg", "other.png")]
    found = look(tmp_path, rows, items)
    assert {(o.item, o.likeness) for o in found.overlaps} == {
        ("same.png", Likeness.SAME_IMAGE),
        ("smaller.jpg", Likeness.NEAR_IMAGE),
    }
    near = next(o for o in found.overlaps if o.likeness == Likeness.NEAR_IMAGE)
    assert 0 <= near.distance <= 4
    assert near.rows == ("r1",)
    assert found.touched == 2
    assert found.both == ()


def chest(seed: int) -> Image.Image:
    """A bright field with two dark lungs and a nodule; much alike from seed to seed, as films are."""
    random, (y, x) = np.random.default_rng(seed), np.mgrid[0:256, 0:256]
    grey = np.full((256, 256), 200.0)
    for middle in (85, 171):
        dx, dy, a, b = random.integers(-3, 4, 4)
        grey[((x - middle - dx) / (40 + a)) ** 2 + ((y - 128 - dy) / (80 + b)) ** 2 < 1] = 40
    grey[np.hypot(x - random.integers(60, 110), y - random.integers(80, 170)) < random.integers(6, 10)] = 180
    return Image.fromarray(np.clip(grey + random.normal(0, 6, grey.shape), 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_films_of_different_people_are_not_the_same(tmp_path: Path) -> None:
    train, bench = folders(tmp_path)
    for number in range(30):
        chest(number).save(train / f"{number}.png")
        chest(100 + number).save(bench / f"{number}.png")
    chest(7).resize((200, 200)).save(bench / "copy.jpg", quality=80)
    rows = [TrainingRow(f"r{n}", (f"{n}.png",), ("Seen?",)) for n in range(30)]
    items = [an_item(name, f"zz {name}", name) for name in ("copy.jpg", *(f"{n}.png" for n in range(30)))]
    assert [(o.item, o.rows) for o in look(tmp_path, rows, items).overlaps] == [("copy.jpg", ("r7",))]


def test_questions_are_found_in_other_layouts(tmp_path: Path) -> None:
    folders(tmp_path)
    rows = [
        TrainingRow("same", (), (f"<image>\n{VIGNETTE.upper()}\nA. Fracture\nB. Cyst",)),
        TrainingRow("near", (), (VIGNETTE.replace("ladder", "roof"),)),
        TrainingRow("other", (), ("Which of these enzymes is missing in the disease that the vignette describes here?",)),
    ]
    items = [an_item("q1", VIGNETTE, options=("Fracture", "Cyst")), an_item("q2", "Is there air under the right diaphragm?")]
    found = look(tmp_path, rows, items)
    assert {(o.item, o.likeness, o.rows) for o in found.overlaps} == {
        ("q1", Likeness.SAME_TEXT, ("same",)),
        ("q1", Likeness.NEAR_TEXT, ("near",)),
    }
    near = next(o for o in found.overlaps if o.likeness == Likeness.NEAR_TEXT)
    assert 0 < near.distance <= 0.3


def test_a_short_question_is_found_only_in_a_row_with_its_image(tmp_path: Path) -> None:
    train, bench = folders(tmp_path)
    for name in ("a.png", "b.png"):
        picture(ord(name[0])).save(train / name)
        picture(ord(name[0])).save(bench / name)
    rows = [TrainingRow("r1", ("a.png",), ("Is it a cyst?",)), TrainingRow("r2", ("b.png",), ("Which organ is it?",))]
    items = [an_item("both", "Is it a cyst?", "a.png"), an_item("apart", "Is it a cyst?", "b.png"), an_item("words", "Is it a cyst?")]
    found = look(tmp_path, rows, items)
    assert found.both == ("both",)
    assert [(o.item, o.rows, o.certain) for o in found.overlaps if o.likeness == Likeness.SAME_TEXT] == [("both", ("r1",), True)]


@pytest.mark.parametrize(
    ("question", "certain"),
    [
        ("Is there a visible fracture?", None),
        ("Is there a visible rib fracture?", False),
        ("Is there a fracture of a rib on the left side?", False),
        ("Is there a fracture of a rib on the left side here?", True),
    ],
)
def test_the_longer_a_question_the_less_it_can_be_a_coincidence(tmp_path: Path, question: str, certain: bool | None) -> None:
    folders(tmp_path)
    options = ("yes", "no")
    rows = [TrainingRow("r", (), (f"<image>\n{question}\nA. yes\nB. no",))]
    found = look(tmp_path, rows, [an_item("q", question, options=options)])
    assert [overlap.certain for overlap in found.overlaps] == ([] if certain is None else [certain])


@pytest.mark.parametrize(
    "options", ["", "\nOptions:\n(a) Cyst\n(b) Aspergilloma", "\nA) Cyst\n\nB) Aspergilloma, which\ngrew\nC) None", "\nChoices: yes, no"]
)
def test_a_line_that_looks_like_an_option_does_not_make_a_question_short(tmp_path: Path, options: str) -> None:
    folders(tmp_path)
    question = "What is it?\nA. fumigatus was cultured from the cavity in the upper lobe of this patient.\nOptions for treatment exist."
    rows = [TrainingRow("other", (), ("What is it?\nA. baumannii was not found.",)), TrainingRow("same", (), (question + options,))]
    [overlap] = look(tmp_path, rows, [an_item("q", question)]).overlaps
    assert (overlap.rows, overlap.likeness, overlap.certain) == (("same",), Likeness.SAME_TEXT, True)


def test_many_rows_are_counted_and_a_few_named(tmp_path: Path) -> None:
    folders(tmp_path)
    rows = [TrainingRow(f"r{n}", (), ("What is the modality of this image?",)) for n in range(300)]
    [overlap] = look(tmp_path, rows, [an_item("q", "What is the modality of this image?")]).overlaps
    assert overlap.of_rows == 300
    assert overlap.rows == ("r0", "r1", "r2", "r3", "r4")


@pytest.mark.slow
def test_a_common_question_is_not_kept_for_every_item_and_row(tmp_path: Path) -> None:
    folders(tmp_path)
    rows = [TrainingRow(f"r{n}", (), ("What is the modality of this image?",)) for n in range(3000)]
    items = [an_item(f"q{n}", "What is the modality of this image?") for n in range(300)]
    tracemalloc.start()
    found = look(tmp_path, rows, items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {(o.of_rows, o.rows) for o in found.overlaps} == {(3000, ("r0", "r1", "r2", "r3", "r4"))}
    assert len(found.overlaps) == 300
    assert peak < 20e6  # 900,000 pairs of an item and a row take a hundred


def test_images_that_cannot_be_looked_at_are_told(tmp_path: Path) -> None:
    train, bench = folders(tmp_path)
    (train / "broken.png").write_bytes(b"\x89PNG nonsense")
    Image.new("L", (64, 64), 7).save(train / "black.png")
    Image.new("L", (80, 80), 9).save(bench / "black.png")
    rows = [TrainingRow("r", ("broken.png", "black.png"), ("x",))]
    found = look(tmp_path, rows, [an_item("q", "Is it?", "gone.png", "black.png")])
    assert len(found.unreadable) == 2
    assert any("broken.png" in problem for problem in found.unreadable)
    assert any("gone.png" in problem for problem in found.unreadable)
    assert found.overlaps == ()  # two blank images are not the same picture


def test_nothing_given_is_nothing_found(tmp_path: Path) -> None:
    folders(tmp_path)
    assert look(tmp_path, [], []).overlaps == ()
    assert look(tmp_path, [TrainingRow("r", (), ("",))], [an_item("q", "<image>")]).overlaps == ()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chiron.cli.eval import contamination_command as command

    train, bench = tmp_path / "train", tmp_path / "bench"
    (train / "images").mkdir(parents=True)
    (bench / "images").mkdir(parents=True)
    picture(1).save(train / "images" / "a.png")
    picture(1).save(bench / "images" / "b.png")
    hostile = "r\x1b[31m1"
    turns = [{"role": "user", "content": f"<image>\n{VIGNETTE}"}, {"role": "assistant", "content": "A fracture."}]
    (train / "rows.jsonl").write_text(json.dumps({"id": hostile, "images": ["a.png"], "messages": turns}) + "\n")
    record = {"image": ["images/b.png"], "question": VIGNETTE, "options": ["Fracture", "Cyst"], "answer": "Fracture"}
    record |= {"dataset": "VQA-RAD_test", "subset": "", "question_type": ""}
    (bench / "medical_multimodel_evaluation_data.json").write_text(json.dumps([record]))
    command(train / "rows.jsonl", "huatuo_vqa_rad", images=None, data=bench, distance=4, json_output=True)
    found = json.loads(capsys.readouterr().out)
    assert {o["likeness"] for o in found["overlaps"]} == {"same image", "same question"}
    assert len(found["both"]) == 1
    for more in ({"chosen": turns[1:], "rejected": turns[1:]}, {"units": ["### Step 1: A fracture."], "labels": [True]}):
        row = {"id": "r2", "images": ["a.png"], "prompt": turns[:1], **more}
        (train / "signal.jsonl").write_text(json.dumps(row) + "\n")
        command(train / "signal.jsonl", "huatuo_vqa_rad", images=None, data=bench, distance=4, json_output=True)
        assert len(json.loads(capsys.readouterr().out)["both"]) == 1
    (train / "signal.jsonl").write_text(json.dumps({"id": "r2", "images": [], "prompt": "Which?"}) + "\n")
    with pytest.raises(InputError, match="its 'prompt' is not a list of turns"):
        command(train / "signal.jsonl", "huatuo_vqa_rad", images=None, data=bench, distance=4, json_output=True)
    command(train / "rows.jsonl", "huatuo_vqa_rad", images=None, data=bench, distance=4, json_output=False)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out
    assert "1 of 1 items are found in 1 training rows" in shown.err
