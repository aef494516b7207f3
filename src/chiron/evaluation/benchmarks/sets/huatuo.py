"""HuatuoGPT-Vision's bundle: closed questions of six benchmarks in one file, one benchmark each. Most published rows use it."""

from chiron.evaluation.benchmarks.benchmark import BadRecord, Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import UNKNOWN, choice, gold_by_text, read_options
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    question, images, options = row.text("question"), row.images("image"), read_options(row.raw["options"])
    labels = row.label("subset=modality", "question_type")
    answer = row.text("answer")
    if not options:  # five MMMU questions are open and have no published answer
        return Item(row.name, question, "" if answer == UNKNOWN else answer, images, group=" ".join(images), labels=labels)
    if answer == UNKNOWN:
        raise BadRecord("its answer is '?'")
    return choice(row.name, question, options, gold_by_text(answer, options), images, labels)


def _part(name: str, source: str, n: int, size: str = "") -> Benchmark:
    return Benchmark(
        name=f"huatuo_{name}",
        title=f"{source} in HuatuoGPT-Vision's bundle",
        size=size or f"{n:,} closed",
        n=n,
        license="those of its sources",
        hub="FreedomIntelligence/Medical_Multimodal_Evaluation_Data",
        files=("medical_multimodel_evaluation_data.json", *files_of("test")),
        archives=("images.zip",),
        columns=("image", "question", "options", "answer", "dataset"),
        read=_item,
        belongs=having("dataset", source),
        closed=True,
    )


BENCHMARKS = (
    _part("vqa_rad", "VQA-RAD_test", 251),
    _part("slake", "SLAKE_test", 416),
    _part("path_vqa", "PathVQA_test", 3362),
    _part("pmc_vqa", "PMC-VQA_test", 2000),
    _part("mmmu", "MMMU_Medical_Validation", 150, "150: 145 choices, 5 open without an answer"),
    _part("omnimed", "OmniMedVQA", 11124),
)
