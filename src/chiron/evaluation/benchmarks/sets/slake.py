"""SLAKE: questions on radiology images, in English and in Chinese. Closed questions are not only yes/no.

The yes and no words of the Chinese questions are those that lmms-eval's task ``slake_zh`` lists for them.
"""

from functools import partial

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import choice, without_options
from chiron.evaluation.items import Item

_PAIRS = (
    ("\u662f", "\u5426"),
    ("\u6709", "\u6ca1\u6709"),
    ("\u5305\u542b", "\u4e0d\u5305\u542b"),
    ("\u53ef\u4ee5", "\u4e0d\u53ef\u4ee5"),
    ("\u80fd", "\u4e0d\u80fd"),
    ("\u4f1a", "\u4e0d\u4f1a"),
)
"""Chinese yes and no: is, has, contains, may, can, will."""
_OTHER_WORDS = {"\u662f\u7684": "\u662f", "\u4e0d\u662f": "\u5426", "\u65e0": "\u6ca1\u6709"}
"""Other words for one of them. Each pair has fixed options: options that depend on the answer would reveal it."""


def _item(language: str, row: BenchmarkRecord) -> Item:
    images = row.images("img_name")
    answer = row.text("answer")
    labels = row.label("modality", "location=body_system", "content_type=question_type", "answer_type")
    spelled = _OTHER_WORDS.get(answer, answer)
    pair = next((pair for pair in _PAIRS if spelled in pair), None)
    if language == "zh" and pair is not None and labels.get("answer_type") == "CLOSED":
        return choice(row.text("qid"), row.text("question"), pair, pair.index(spelled), images, labels)
    return without_options(row.text("qid"), row.text("question"), answer, images, labels)


def _language(name: str, language: str, title: str, size: str, n: int) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"SLAKE, test, {title}",
        size=size,
        n=n,
        license="CC-BY-4.0",
        hub="BoKelvin/SLAKE",
        files=("test.json", *files_of("test")),
        archives=("imgs.zip",),
        columns=("img_name", "question", "answer", "q_lang", "answer_type", "qid"),
        read=partial(_item, language),
        belongs=having("q_lang", language),
    )


BENCHMARKS = (
    _language("slake", "en", "English", "1,061: 416 closed, 645 open; 180 images in both languages", 1061),
    _language("slake_zh", "zh", "Chinese", "1,033 open and closed; 180 images in both languages", 1033),
)
