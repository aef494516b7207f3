"""VQA-Med 2019, test: one question on each of 500 radiology images.

Schema: ``VQAMed2019Test/README-VQA-Med-2019-TestSet.txt`` of the authors' repository. Fields are separated by ``|``. In an answer, ``#``
separates alternatives, and a part in brackets may be left out.
"""

import re

from chiron.evaluation.benchmarks.benchmark import BadRecord, Benchmark, BenchmarkRecord, WebFile
from chiron.evaluation.benchmarks.fields import yes_or_no
from chiron.evaluation.items import Item

_FOLDERS = tuple(
    "/".join(parts)
    for parts in (("VQAMed2019_Test_Images",), ("VQAMed2019_Test_Images",) * 2, ("VQAMed2019Test", "VQAMed2019_Test_Images"))
)
"""Where the images are: in the zip, unpacked into a folder of its name, or next to the questions in the repository's folder."""
_REPOSITORY = "https://github.com/abachaa/VQA-Med-2019/raw/e673406ebc64cf499397e8abc0b63771b2db4bb9/VQAMed2019Test"
_QUESTIONS, _IMAGES = "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images.zip"
_OPTIONAL = re.compile(r"\(([^()]*)\)")


def _item(row: BenchmarkRecord) -> Item:
    fields = [field.strip() for field in row.text("line").split("|")]
    if len(fields) != 4 or not all(fields):
        raise BadRecord("it does not have the four fields image|category|question|answer")
    image, category, question, answer = fields
    names = [f"{folder}/{image}.jpg" for folder in _FOLDERS]
    image_name = next((name for name in names if row.image_source.has(name)), names[0])
    labels = {"question_type": category}
    if word := yes_or_no(answer):
        return Item(image, question, word, (image_name,), kind="yes_no", group=image, labels=labels)
    whole = [_OPTIONAL.sub(r"\1", part).strip() for part in answer.split("#")]
    short = [" ".join(_OPTIONAL.sub(" ", part).split()) for part in answer.split("#")]
    right = tuple(dict.fromkeys(part for part in (*whole, *short) if part))
    return Item(image, question, " or ".join(whole), (image_name,), group=image, labels=labels, alternatives=right)


BENCHMARKS = (
    Benchmark(
        name="vqa_med_2019",
        title="VQA-Med 2019, test",
        size="500: 64 yes/no, 436 open; 500 images",
        n=500,
        license="none shown",
        files=(_QUESTIONS, f"VQAMed2019Test/{_QUESTIONS}"),
        archives=(_IMAGES, f"VQAMed2019Test/{_IMAGES}"),
        web_files=(
            WebFile(f"{_REPOSITORY}/{_QUESTIONS}", _QUESTIONS, "git:5d6a4b9b0d4801b34db83853ae56c83502b200d4"),
            WebFile(f"{_REPOSITORY}/{_IMAGES}", _IMAGES),
        ),
        columns=("line",),
        read=_item,
        instructions=(
            "download VQAMed2019_Test_Questions_w_Ref_Answers.txt and VQAMed2019_Test_Images.zip from the folder VQAMed2019Test of"
            " abachaa/VQA-Med-2019 on GitHub, and give --data DIR with both"
        ),
    ),
)
