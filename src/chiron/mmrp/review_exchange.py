"""Paths for review in Argilla and Label Studio, and the reviews that were made there.

Both tools get one task for each step and one for the final answer, because their forms have a fixed number of questions.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args
from xml.sax.saxutils import quoteattr

from PIL import Image

from chiron.cases.images import ImageFolder
from chiron.client.ledger import Ledger, StoredResult
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.jobs.directory import LEDGER, WorkDirectory
from chiron.reports.thumbnails import thumbnails
from chiron.reviews.records import REASONS, VERDICTS, ReviewBody, hash_path, need_reviewer_name, parse_body
from chiron.reviews.store import ReviewStore

Tool = Literal["argilla", "label-studio"]
FINAL: Final = "final"
"""Part of a path that is its final answer; the other parts are numbers of steps, from 1."""
_SIDE: Final = 768
"""Longest side of an image in pixels."""
_FIELDS: Final = {"part": "Judge this part", "text": "Text", "question": "Question", "answer": "Known answer", "path": "Whole path"}
_HELP: Final = "Accept, edit or reject this part of the path. A rejection needs a reason, an edit the new text. Judge all parts of a path."
_Answers = dict[str, Any]
"""What a person answered about one part: ``verdict``, ``reason``, ``text`` and ``note``."""
_NAMES: Final = {"verdict": "verdict", "reason": "reason", "edited": "text", "note": "note"}
"""Our name of each question. In Argilla, questions and fields may not have the same name."""


@dataclass(frozen=True)
class ReviewTask:
    """One step, or the final answer, of a path that is to be reviewed."""

    case_id: str
    path_sha256: str
    part: str
    """Number of the step from 1, or :data:`FINAL`."""
    text: str
    question: str
    answer: str
    path: str
    images: tuple[str, ...]
    """Data URLs."""

    @property
    def fields(self) -> dict[str, str]:
        """What a person reads."""
        title = "the final answer" if self.part == FINAL else f"step {self.part}"
        return {"part": title, "text": self.text or "(empty)", "question": self.question, "answer": self.answer, "path": self.path}

    @property
    def key(self) -> dict[str, str]:
        """What an import finds the part by."""
        return {"case_id": self.case_id, "path_sha256": self.path_sha256, "part": self.part}


@dataclass(frozen=True)
class ReviewImport:
    reviews: int
    """Number of reviews added."""
    known: int
    """Reviews that the run had already."""
    incomplete: int
    """Paths of which a person judged only some parts; nothing of them was added."""


def tool_of(name: str, option: str) -> Tool:
    """Parse the name of a tool.

    Raises:
        InputError: it is not known.
    """
    if name not in get_args(Tool):
        raise InputError(f"unknown tool '{name}' ({option}): choose one of {', '.join(get_args(Tool))}")
    return cast("Tool", name)


def export_tasks(run: Path, tool: Tool, out: Path | None = None, *, min_score: float | None = None) -> Path:
    """Write the paths of a run for review in another tool, and return the folder, by default ``RUN/argilla`` or ``RUN/label-studio``.

    Args:
        run: run directory of a search.
        tool: the tool.
        out: folder to write.
        min_score: also write rejected paths with at least this MICS-Score.

    Raises:
        InputError: the run cannot be read or has no path, or the folder cannot be created.
        DiskError: a file cannot be written.
    """
    root = (WorkDirectory(run).read_run() or {}).get("images")
    images = ImageFolder(Path(root)) if root else None
    tasks: list[ReviewTask] = []
    with Ledger.read(run / LEDGER) as ledger:
        for head in sorted(ledger.result_heads().values(), key=lambda head: (head.position, head.case_id)):
            if head.retained or (min_score is not None and head.mics_score is not None and head.mics_score >= min_score):
                tasks += _tasks_of(ledger.result(head.case_id), images)
    if not tasks:
        raise InputError(f"no path to review ({run}): run the search first, or lower --min-score")
    folder = out if out is not None else run / tool
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror}): choose another --out") from error
    most = max(len(task.images) for task in tasks)
    if tool == "argilla":
        files = {"settings.json": _argilla_settings(most), "records.json": [_argilla_record(task) for task in tasks]}
    else:
        write_atomically(folder / "config.xml", [_label_config(images=bool(most))])
        files = {"tasks.json": [_label_task(task, images=bool(most)) for task in tasks]}
    for name, content in files.items():
        write_atomically(folder / name, [json.dumps(content, ensure_ascii=False, indent=1)])
    return folder


def import_reviews(run: Path, file: Path, tool: Tool, names: Mapping[str, str] | None = None) -> ReviewImport:
    """Add the reviews of a tool's JSON export to a run. Nothing is added if one of them is wrong. Importing a file again changes nothing.

    Args:
        run: run directory of the search that was exported.
        file: records of Argilla (``dataset.records.to_json``), or the JSON export of a Label Studio project.
        tool: the tool.
        names: name of the reviewer by the tool's id of the person.

    Raises:
        InputError: the file is not such an export, or is about a path that the run does not have.
        DiskError: the reviews cannot be written.
    """
    answers: dict[tuple[str, str, str], dict[str, _Answers]] = {}
    reader: Callable[[Any], Iterator[tuple[Any, str, _Answers]]] = _from_argilla if tool == "argilla" else _from_label_studio
    try:
        for key, person, given in reader(json.loads(file.read_bytes())):
            name = need_reviewer_name((names or {}).get(person, person))
            path = (str(key["case_id"]), str(key["path_sha256"]), name)
            answers.setdefault(path, {})[str(key["part"])] = given
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{file} is not a JSON export of {tool} with tasks of this run ({type(error).__name__}): export it again"
        ) from error
    store = ReviewStore(run)
    new: list[tuple[str, str, str, ReviewBody]] = []
    known = incomplete = 0
    with Ledger.read(run / LEDGER) as ledger:
        for (case_id, sha, name), parts in answers.items():
            result = ledger.result(case_id)
            reasoning = result.record.get("reasoning") if result is not None else None
            if not isinstance(reasoning, str) or hash_path(reasoning) != sha:
                raise InputError(f"{file} reviews a path of case '{case_id}' that {run} does not have: import it into the run it is from")
            body = _body_of(parts, reasoning, f"{file}, case '{case_id}', reviewer '{name}'")
            mine = [event for event in store.events(case_id) if (event["path_sha256"], event["reviewer"]) == (sha, name)]
            if body is None:
                incomplete += 1
            elif any((event["steps"], event["final"]) == (body["steps"], body["final"]) for event in mine):  # also if changed since
                known += 1
            else:
                new.append((name, case_id, sha, body))
    for name, case_id, sha, body in new:
        store.add("review", name, case_id, sha, body)
    return ReviewImport(len(new), known, incomplete)


def _body_of(parts: Mapping[str, _Answers], reasoning: str, where: str) -> ReviewBody | None:
    """Return the review that answers about the parts of a path make; ``None`` if a part has no verdict."""
    wanted = [*(str(number) for number in range(1, len(parse_reasoning(reasoning).steps) + 1)), FINAL]
    given = [parts.get(part, {}) for part in wanted]
    if not all(answers.get("verdict") for answers in given):
        return None
    try:
        return parse_body({"steps": given[:-1], "final": given[-1], "note": ""}, reasoning)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem


def _tasks_of(result: StoredResult | None, folder: ImageFolder | None) -> Iterator[ReviewTask]:
    if result is None:
        return
    record = result.record
    reasoning = record.get("reasoning")
    if not isinstance(reasoning, str) or not reasoning:
        return
    shown = thumbnails(folder, [str(name) for name in record.get("images") or ()], side=_SIDE)
    images = tuple(image.url for image in shown if image.url)
    question, answer = str(record.get("question") or "(none)"), str(record.get("answer") or "(none)")
    total = len(record.get("images") or ())
    if total > len(images):
        question += f"\n({total - len(images)} of {total} images of this case are not shown here.)"
    path = parse_reasoning(reasoning)
    for part, text in (*((str(number), step) for number, step in enumerate(path.steps, start=1)), (FINAL, path.answer or "")):
        yield ReviewTask(result.case_id, hash_path(reasoning), part, text, question, answer, reasoning, images)


def _argilla_settings(images: int) -> dict[str, Any]:
    fields = [
        *({"name": f"image_{n}", "settings": {"type": "image"}, "required": False} for n in range(1, images + 1)),
        *({"name": name, "title": title, "settings": {"type": "text", "use_markdown": False}} for name, title in _FIELDS.items()),
    ]
    choices: dict[str, Mapping[str, str]] = {"verdict": {verdict: verdict for verdict in VERDICTS}, "reason": REASONS}
    questions = [
        {
            "name": name,
            "required": name == "verdict",
            "settings": {"type": "label_selection", "options": [{"value": value, "text": text} for value, text in options.items()]},
        }
        for name, options in choices.items()
    ]
    texts = {"edited": "The new text of an edit", "note": "Comment"}
    questions += [
        {"name": name, "title": title, "required": False, "settings": {"type": "text", "use_markdown": False}}
        for name, title in texts.items()
    ]
    return {"guidelines": _HELP, "fields": fields, "questions": questions, "metadata": [], "vectors": [], "allow_extra_metadata": True}


def _argilla_record(task: ReviewTask) -> dict[str, Any]:
    pictures = {f"image_{number}": url for number, url in enumerate(task.images, start=1)}
    name = f"{hash_path(task.case_id)[:16]}-{task.path_sha256[:16]}-{task.part}"
    return {"id": name, "fields": {**pictures, **task.fields}, "metadata": task.key, "suggestions": {}, "responses": {}, "vectors": {}}


def _from_argilla(data: Any) -> Iterator[tuple[Any, str, _Answers]]:
    for record in data:
        by_person: dict[str, _Answers] = {}
        for name, responses in record.get("responses", {}).items():
            for response in responses:
                if response.get("status", "submitted") == "submitted":
                    by_person.setdefault(str(response["user_id"]), {})[_NAMES[name]] = response["value"]
        for person, given in by_person.items():
            yield record["metadata"], person, given


def _label_task(task: ReviewTask, *, images: bool) -> dict[str, Any]:
    """Return a task of a project whose interface shows images if ``images``. Label Studio never opens such a task with an empty list."""
    return {"data": {**task.fields, "images": list(task.images) or [_blank_image()] * images, "chiron": task.key}}


def _blank_image() -> str:
    out = io.BytesIO()
    Image.new("L", (_SIDE, 32), "white").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _label_config(*, images: bool) -> str:
    """Return the labeling interface of Label Studio."""
    shown = "".join(f'  <Header value={quoteattr(title)}/>\n  <Text name="{name}" value="${name}"/>\n' for name, title in _FIELDS.items())
    picture = '  <Image name="images" valueList="$images" zoom="true" brightnessControl="true" contrastControl="true"/>\n' if images else ""
    verdicts = "".join(f'<Choice value="{verdict}"/>' for verdict in VERDICTS)
    reasons = "".join(f"<Choice alias={quoteattr(value)} value={quoteattr(title)}/>" for value, title in REASONS.items())
    return (
        f"<View>\n{picture}{shown}"
        f'  <Choices name="verdict" toName="text" choice="single-radio" required="true" showInline="true">{verdicts}</Choices>\n'
        '  <Header value="Reason of an edit or a rejection"/>\n'
        f'  <Choices name="reason" toName="text" choice="single-radio">{reasons}</Choices>\n'
        '  <Header value="The new text of an edit"/>\n  <TextArea name="edited" toName="text" maxSubmissions="1" rows="3"/>\n'
        '  <Header value="Comment"/>\n  <TextArea name="note" toName="text" maxSubmissions="1"/>\n</View>\n'
    )


def _from_label_studio(data: Any) -> Iterator[tuple[Any, str, _Answers]]:
    for task in data:
        # The last annotation of a person counts, as the last review does.
        for annotation in sorted(task.get("annotations", ()), key=lambda annotation: str(annotation.get("created_at", ""))):
            if not annotation.get("was_cancelled"):
                yield task["data"]["chiron"], _person_of(annotation["completed_by"]), _labels_of(annotation["result"])


def _person_of(value: Any) -> str:
    return str(value.get("email") or value["id"]) if isinstance(value, dict) else str(value)


def _labels_of(regions: Sequence[Any]) -> _Answers:
    values = {region["from_name"]: region["value"] for region in regions if region["from_name"] in _NAMES}
    given = {_NAMES[name]: (value.get("choices") or value.get("text") or [""]) for name, value in values.items()}
    answers: _Answers = {name: " ".join(value) if isinstance(value, list) else value for name, value in given.items()}
    titles = {title: value for value, title in REASONS.items()}
    return answers | {"reason": titles.get(answers.get("reason", ""), answers.get("reason"))}
