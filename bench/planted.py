"""A thousand cases of which it is known what is wrong with them: precision and recall of the dataset's checks.

Images are phantoms of 96 pixels: many of different cases look much alike. Faults and their near misses were written by the people who wrote
the rules, so the figures say how the rules do what they are meant to do, not how often models make other mistakes.
``python -m bench.planted FOLDER [COUNT]`` writes them, to be looked at with ``chiron build check FOLDER``.
"""

import io
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from chiron.dedup.contamination import BenchmarkItem
from chiron.mmrp.checking import check_rows
from chiron.mmrp.dataset_index import sources_of
from chiron.mmrp.row import MmrpRow
from chiron.phantom.sample import generate_case
from chiron.phantom.world import World
from chiron.providers.local.dialogue import Turn
from tests.support.records import write_lines

COUNT = 1000
_COUNTED = ("duplicates", "near_duplicates", "overlap", "given_away", "contradiction", "steps", "final_answer")
_FILL = tuple(
    """ventral dorsal cranial caudal medial lateral proximal distal margin contour signal density echo uptake pattern region border shape
    texture course extent phase series plane window level contrast layer segment branch""".split()
)

# Findings, reasoning: of each kind what contradicts, and what only looks as if it did.
_CONTRARY = (
    ("A mass lies in the left lung.", "A mass in the right lung stands out."),
    ("The right kidney holds a stone.", "The left kidney shows a stone."),
    ("There is a left-sided pleural effusion in the left hemithorax.", "Fluid fills the right hemithorax."),
    ("The nodule measures 8 mm.", "The nodule measures 8 cm and is large."),
    ("A cyst of 3.2 x 2.8 cm is seen.", "The cyst, at first sight; this cyst measures 9 mm."),
    ("Mass measuring 45 mm in diameter.", "A mass of 1.5 cm is present."),
    ("Two nodules are seen in the lung.", "Three nodules are seen, all round."),
    ("There is a single fracture.", "Two fractures cross the bone."),
    ("Four gallbladder stones lie in the neck.", "Two stones are in the neck."),
    ("The left breast contains an irregular mass.", "The right breast holds an irregular mass."),
)
_AGREEING = (
    ("A mass lies in the left lung.", "The left lung holds a mass, the right lung is clear."),
    ("The right kidney holds a stone.", "The contralateral left kidney is normal. A stone is in the right kidney."),
    ("Effusions on both sides, left lung and right lung.", "The right lung borders on fluid."),
    ("The nodule measures 8 mm.", "The nodule measures 0.8 cm."),
    ("The nodule measures 8 mm.", "Nodules larger than 3 cm are called masses, and this is smaller."),
    ("A cyst of 3.2 x 2.8 cm is seen.", "The cyst measures about 3 cm."),
    ("Mass measuring 45 mm in diameter.", "The lymph node beside it measures 6 mm."),
    ("Two nodules are seen in the lung.", "One of two nodules has a cavity."),
    ("There is a single fracture.", "Three views show one fracture."),
    ("No stone in the left kidney. A stone in the right kidney.", "The stone is in the right kidney, not in the left kidney."),
)
_ANSWERS = ("Pulmonary embolism", "Osteosarcoma of femur", "Meningioma", "Hepatic hemangioma", "Acute appendicitis", "Ovarian torsion")
_GIVEN = (
    "Given the {a} seen here, what is the diagnosis?",
    "Which sign of {a} is visible?",
    "What explains the findings of this patient with {a}?",
)
_KEPT = (
    "Is this {a} or a simple cyst?",
    "Which is more likely, lymphoma versus {a}?",
    "What is the most likely diagnosis of the lesion?",
    "Which process best explains an acute pain of the abdomen?",
)


def measure(count: int = COUNT) -> list[tuple[object, ...]]:
    """For each check: rows with the fault, rows found, rows rightly found, precision, recall."""
    with tempfile.TemporaryDirectory(prefix="bench-planted-") as folder:
        work = Path(folder)
        rows, faults, foreign = plant(work, count)
        write_lines(work / "rows.jsonl", (row.to_record() for row in rows))
        with check_rows(sources_of([work]), benchmark_items=foreign) as (index, report):
            found_by = {check: {index.entries[position].id for position in report.counts[check].rows} for check in _COUNTED}
    lines: list[tuple[object, ...]] = []
    for check in _COUNTED:
        found = found_by[check]
        right = len(found & faults[check])
        lines.append((check, len(faults[check]), len(found), right, right / max(1, len(found)), right / max(1, len(faults[check]))))
    return lines


def plant(  # noqa: C901, PLR0912, PLR0915 - a table of twenty kinds, read from top to bottom
    work: Path, count: int
) -> tuple[list[MmrpRow], dict[str, set[str]], list[BenchmarkItem]]:
    """Rows, the ids of those with each fault, and a benchmark's items. Of twenty rows nine have a fault, and five nearly have one."""
    world, rows, foreign = World(0), list[MmrpRow](), list[BenchmarkItem]()
    faults: dict[str, set[str]] = defaultdict(set)
    for number in range(count):
        random = np.random.default_rng(number)
        casting = generate_case(world, number, seed=0, size=96)
        name, tones = next(casting.pictures())
        picture = Image.fromarray(tones)
        row = _clean(number, name, random)
        kind = number % 20
        earlier = rows[-1] if rows else row
        match kind:
            case 1:  # the same again under another id and file name
                row = replace(earlier, id=row.id, images=(name,))
                (work / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                (work / "images" / name).write_bytes((work / "images" / earlier.images[0]).read_bytes())
                faults["duplicates"].add(row.id)
            case 3:  # nearly the same: three words of ninety, and the image in another format, size or brightness
                row = _with(replace(row, question=earlier.question), _reworded(earlier.reasoning, random))
                _save(_altered(Image.open(work / "images" / earlier.images[0]), number // 20), work / "images" / name)
                faults["near_duplicates"].add(row.id)
            case 5:  # near miss: the same words with another image
                row = _with(replace(row, question=earlier.question), earlier.reasoning)
            case 7:  # near miss: the same image with other words
                row = replace(row, images=earlier.images)
            case 8:
                foreign.append(_taken(work, number, picture, "An unrelated question of the benchmark about something else entirely here?"))
                faults["overlap"].add(row.id)
            case 9:
                foreign.append(BenchmarkItem("bench", str(number), row.question))
                faults["overlap"].add(row.id)
            case 10:  # near miss: the benchmark shows another case of the same kind
                other = next(generate_case(world, number + 36 * 1000, seed=1, size=96).pictures())[1]
                foreign.append(_taken(work, number, Image.fromarray(other), "What is seen?"))
            case 11 | 12:
                answer = _ANSWERS[number // 20 % len(_ANSWERS)]
                row = _asking(row, _GIVEN[number // 20 % len(_GIVEN)].format(a=answer.lower()), answer)
                faults["given_away"].add(row.id)
            case 13:
                answer = _ANSWERS[number // 20 % len(_ANSWERS)]
                row = _asking(row, _KEPT[number // 20 % len(_KEPT)].format(a=answer.lower()), answer)
            case 14 | 15:
                found, said = (_CONTRARY if kind == 14 else _AGREEING)[number // 20 % len(_CONTRARY)]
                row = _with(replace(row, findings=(found,)), row.reasoning.replace("### Step 2:", f"### Step 2: {said}"))
                if kind == 14:
                    faults["contradiction"].add(row.id)
            case 16:
                row = _with(row, row.reasoning.replace("### The final", f"### Step 4: {_step(row, 1)}\n### The final"))
                faults["steps"].add(row.id)
            case 17:  # near miss: a step that speaks of the same in other words
                row = _with(
                    row, row.reasoning.replace("### The final", f"### Step 4: Again, {_step(row, 1)[:40]} but later\n### The final")
                )
            case 18:
                row = _with(row, row.reasoning.split("### The final")[0])
                faults["final_answer"].add(row.id)
            case _:
                pass
        if not (work / "images" / row.images[0]).exists():
            _save(picture, work / "images" / row.images[0])
        rows.append(row)
    return rows, faults, foreign


def _clean(number: int, image: str, random: np.random.Generator) -> MmrpRow:
    question = f"Which process explains {' '.join(random.choice(_FILL, 10))} in case {number}?"
    steps = "".join(f"### Step {i}: {' '.join(random.choice(_FILL, 30))} n{number}.\n" for i in (1, 2, 3))
    answer = f"Entity {number}"
    row = MmrpRow(
        id=f"cot:{number}",
        part="cot",
        case_id=str(number),
        patient=str(number),
        images=(f"{number}.png",),
        turns=(),
        question=question,
        answer=answer,
        findings=("Nothing else.",),
        modalities=("CT",),
    )
    row = replace(row, images=(image,))
    return _with(row, f"{steps}### The final answer is: {answer}")


def _with(row: MmrpRow, reasoning: str) -> MmrpRow:
    answer = reasoning.rpartition("### The final answer is: ")[2] if "### The final" in reasoning else row.answer
    return replace(row, reasoning=reasoning, answer=answer, turns=(Turn("user", f"<image>\n{row.question}"), Turn("assistant", reasoning)))


def _asking(row: MmrpRow, question: str, answer: str) -> MmrpRow:
    return _with(replace(row, question=question), row.reasoning.rpartition("### The")[0] + f"### The final answer is: {answer}")


def _step(row: MmrpRow, number: int) -> str:
    return row.reasoning.split("\n")[number - 1].split(": ", 1)[1]


def _reworded(text: str, random: np.random.Generator) -> str:
    words = text.split(" ")
    for at in random.choice(np.arange(5, len(words) - 12), 3, replace=False):
        if not words[at].startswith(("###", "Step")) and not words[at][:-1].isdigit() and "\n" not in words[at]:
            words[at] = "altered"
    return " ".join(words)


def _altered(image: Image.Image, kind: int) -> Image.Image:
    match kind % 4:
        case 0:
            return image.resize((64, 64), Image.Resampling.LANCZOS)
        case 1:
            return image.resize((200, 200), Image.Resampling.BICUBIC)
        case 2:
            return image.point(lambda tone: min(255, int(tone * 1.1 + 8)))
        case _:
            data = io.BytesIO()
            image.convert("L").save(data, "JPEG", quality=60)
            return Image.open(data)


def _taken(work: Path, number: int, picture: Image.Image, question: str) -> BenchmarkItem:
    path = work / "benchmark" / f"{number}.jpg"
    _save(picture, path)
    return BenchmarkItem("bench", str(number), question, (path,))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(folder: Path, count: int) -> None:
    """The same rows as a part's directory, to look at them: ``chiron build check FOLDER``."""
    folder.mkdir(parents=True)
    write_lines(folder / "rows.jsonl", (row.to_record() for row in plant(folder, count)[0]))


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else COUNT)
