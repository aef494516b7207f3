"""MMMU, Health & Medicine: five subjects. The answers to its test questions are published separately, in MMMU's repository."""

from dataclasses import replace
from functools import partial

from chiron.evaluation.benchmarks.benchmark import BadRecord, Benchmark, BenchmarkRecord, WebFile, having
from chiron.evaluation.benchmarks.fields import UNKNOWN, choice, gold_by_letter, read_options, with_marks
from chiron.evaluation.items import Item

SUBJECTS = ("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health")


def _item(split: str, row: BenchmarkRecord) -> Item:
    name = row.text("id")
    numbered = {n: image for n in range(1, 8) for image in row.images(f"image_{n}")}
    options = read_options(row.raw.get("options"))
    (question, *options_marked), images = with_marks((row.text("question"), *options), numbered)
    subject = name.removeprefix(f"{split}_").rsplit("_", 1)[0]
    labels = {"subject": subject, **row.label("subfield", "topic_difficulty=difficulty", "question_type", "img_type")}
    answer = row.raw.get("answer")
    if answer in (None, "", UNKNOWN):
        answer = row.extra_records.get(name, {}).get("ground_truth", UNKNOWN)
    if row.text("question_type") == "multiple-choice":
        if answer == UNKNOWN:
            raise BadRecord("its answer is '?', and answer_dict_test.json has none for it")
        return choice(name, question, options_marked, gold_by_letter(answer, options), images, labels)
    # An open question may have several answers that are equally right.
    known = read_options(answer) if isinstance(answer, list) or str(answer).startswith("[") else (str(answer),)
    return Item(name, question, " or ".join(a for a in known if a != UNKNOWN), images, group=" ".join(images), labels=labels)


def _split(split: str, size: str, n: int) -> Benchmark:
    return Benchmark(
        name=f"mmmu_health_{split}",
        title=f"MMMU Health & Medicine, {split}",
        size=size,
        n=n,
        license="Apache-2.0",
        hub="MMMU/MMMU",
        files=("|".join(f"{subject}/{split}-*.parquet" for subject in SUBJECTS), f"{split}*.parquet", f"{split}*.json*"),
        columns=("id", "question", "options", "answer", "question_type"),
        read=partial(_item, split),
        belongs=having("id", *(f"{split}_{subject}_" for subject in SUBJECTS), at_start=True),
    )


BENCHMARKS = (
    _split("validation", "150: 145 choices, 5 open", 150),
    replace(
        _split("test", "1,752: 1,712 choices, 40 open", 1752),
        extra_files=("answer_dict_test.json", "mmmu/answer_dict_test.json"),
        web_files=(WebFile("https://github.com/MMMU-Benchmark/MMMU/raw/main/mmmu/answer_dict_test.json", "answer_dict_test.json"),),
        instructions="its labels are mmmu/answer_dict_test.json of MMMU's repository on GitHub: put that file next to the others",
    ),
)
