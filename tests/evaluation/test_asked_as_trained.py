"""What a model is asked is what it was trained on, to the letter; published rows are asked as their authors ask them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chiron.cases.case import Case
from chiron.evaluation.benchmarks.loading import load
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.controls import Control
from chiron.evaluation.items import Item
from chiron.evaluation.preparation import prepare_evaluation
from chiron.evaluation.registry import benchmark_of
from chiron.mmrp.templates import PaperTemplate, QuizTemplate
from chiron.providers.local.dialogue import Turn
from tests.evaluation import published
from tests.mmrp.making import REASONING, a_row, a_text_row, write_part
from tests.support.cases import a_case
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.simulation import prompt_of

pytestmark = pytest.mark.slow

GROUPS = {
    "none": (),
    "one": ("{}/ct_group1/0.png",),
    "several": ("{}/ct_group1/0.png", "{}/ct_group1/1.png", "{}/ct_group1/2.png"),
    "groups": ("{}/ct_group1/0.png", "{}/ct_group1/1.png", "{}/mri_group2/0.png"),
}


def turns_of(case: Case, kind: str) -> tuple[Turn, ...]:
    if kind == "none":
        quiz = QuizTemplate("Which sign is it?", ("Halo sign", "Comet tail", "Deep sulcus"), 1, ("It looks like one.",))
        (dialogue,) = PaperTemplate().of_quiz(case, quiz, chance=None)  # type: ignore[arg-type]
    else:
        (dialogue,) = PaperTemplate().of_path(case, REASONING)
    return dialogue.turns


def a_release(folder: Path, kinds: tuple[str, ...], *, count: int = 12) -> dict[str, list[Turn]]:
    """A release of rows as ``chiron build`` words them; their turns by the text of the user's."""
    made: dict[str, list[Turn]] = {}
    rows: dict[str, list[Any]] = {"text": [], "cot": []}
    for kind in kinds:
        for number in range(count):
            name = f"{kind}{number}"
            images = tuple(image.format(name) for image in GROUPS[kind])
            words = a_row(name).question  # distinct words, so that no two rows are near each other
            case = a_case(name, question=words, images=images, history=f"Pain, {words}")
            turns = turns_of(case, kind)
            made[turns[0].text] = list(turns)
            if kind == "none":
                options = ("Halo sign", "Comet tail", "Deep sulcus")
                rows["text"].append(a_text_row(name, turns=turns, question="Which sign is it?", options=options, answer="Comet tail"))
            else:
                rows["cot"].append(a_row(name, images=images, turns=turns, question=words))
    parts = [write_part(folder / part, rows[part]) for part in rows if rows[part]]
    ended = chiron("build", "release", *parts, "--out", folder / "mmrp", "--ratios", "0.5,0.2,0.3", "--limit", "near_duplicates=1")
    assert ended.returncode == 0, ended.stderr
    return made


def config(folder: Path, url: str) -> Path:
    path = folder / "c.yaml"
    models = {name: {"provider": "openai", "base_url": url, "model": name, "timeout": 20.0} for name in ("m", "judge", "intern")}
    path.write_text(yaml.safe_dump({"models": models}))
    return path


def evaluated(folder: Path, data: Path, url: str, benchmarks: tuple[str, ...], *, into: str = "run", **more: Any) -> Any:
    control = more.pop("control", Control.NONE)
    chosen = load_evaluation(config(folder, url), "m", **more)
    return asyncio.run(prepare_evaluation("m", benchmarks, folder / into, chosen, data=data, control=control).execute())


def written(message: dict[str, Any]) -> str:
    """A message as one text, an image as its mark."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)


@pytest.mark.parametrize("protocol", ["exact", "huatuo_closed", "chiron_judge", "medevalkit_full"])
def test_rows_of_a_release_are_asked_as_they_were_trained(tmp_path: Path, protocol: str) -> None:
    trained = a_release(tmp_path, ("none", "one", "several", "groups"))
    with Endpoint(lambda body: "no" if body["model"] == "judge" else "### The final answer is: Rib fracture") as endpoint:
        done = evaluated(tmp_path, tmp_path / "mmrp", endpoint.base_url, ("mmrp_text", "mmrp_reasoning"), protocol=protocol, judge="judge")
        bodies = [body for body in endpoint.seen.bodies if body["model"] == "m"]
    assert sum(group["n"] for group in done.groups) == len(bodies) > 6
    asked = [written(message) for body in bodies for message in body["messages"]]
    assert set(asked) <= trained.keys()
    assert {body["messages"][0]["role"] for body in bodies} == {"user"}
    assert any("(Modality 1: <image>\n<image>,\nModality 2: <image>)" in text for text in asked)
    assert any("Findings:\n" in text and "B. Comet tail" in text for text in asked)
    assert all("Age: 54 years, Chief complaint: Pain" in text for text in asked if "<image>" in text)


EVAL_ROW: dict[str, Any] = {
    "id": 1,
    "img_name": ["images/c1/ct_group1/0.png", "images/c1/ct_group1/1.png"],
    "question": (
        "What is the diagnosis? (Supplementary information is as follows:\nGender: Female, Age: 45 years, Chief complaint: Pain.)\n"
        "Please base your response on the keyframes (Modality 1: <image>\n<image>) and reason step-by-step to answer the above question."
    ),
    "reasoning": "### Step 1: x",
    "answer": "**A fracture.**",
    "answer_type": "OPEN",
}
TWO_GROUPS: dict[str, Any] = {
    **EVAL_ROW,
    "id": 2,
    "img_name": ["images/c2/mri_group2/0.png", "images/c2/x-ray_group1/0.png"],
    "question": "What now? (Modality 1: <image>,\nModality 2: <image>) Reason.",
}
ONE_STRING: dict[str, Any] = {**EVAL_ROW, "id": 3, "img_name": "images/c3/x-ray_group1/0.png", "question": " Why (Modality 1: <image>)?\n"}


def eval_folder(folder: Path, name: str = "eval_data.json") -> Path:
    """As the authors publish it: a JSON array of any name next to ``images/``."""
    rows = [EVAL_ROW, TWO_GROUPS, ONE_STRING]
    for row in rows:
        for number, image in enumerate([row["img_name"]] if isinstance(row["img_name"], str) else row["img_name"]):
            path = folder / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(published.png(number + 10 * int(row["id"])))
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", ["eval_data.json", "whatever it is.jsonl"])
def test_published_rows_are_asked_as_they_stand(tmp_path: Path, name: str) -> None:
    data = eval_folder(tmp_path / "eval", name)
    with Endpoint(lambda body: "Yes" if body["model"] == "judge" else "### The final answer is: A fracture") as endpoint:
        done = evaluated(tmp_path, data, endpoint.base_url, ("mmrp_reasoning",), judge="judge")
        asked = {written(message) for body in endpoint.seen.bodies if body["model"] == "m" for message in body["messages"]}
        judged = [prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "judge"]
    assert asked == {EVAL_ROW["question"], TWO_GROUPS["question"], ONE_STRING["question"]}
    assert (done.groups[0]["n"], done.groups[0]["right"]) == (3, 3)
    assert not any("<image>" in text for text in judged)


def test_the_text_part_of_the_published_rows_is_asked_as_it_stands(tmp_path: Path) -> None:
    question = "Which is it?\nA) one  \nB) two\nLet's reason step-by-step to answer the above question."
    published.jsonl(tmp_path / "d" / "text qa.jsonl", [{"id": "1", "question": question, "answer": "B) two"}])
    with Endpoint(lambda _: "### The final answer is: B) two") as endpoint:
        evaluated(tmp_path, tmp_path / "d", endpoint.base_url, ("mmrp_text",))
        (body,) = endpoint.seen.bodies
    assert [written(message) for message in body["messages"]] == [question]


def test_two_files_that_could_be_the_published_rows_are_not_guessed_between(tmp_path: Path) -> None:
    eval_folder(tmp_path / "eval")
    eval_folder(tmp_path / "eval", "other.jsonl")
    ended = chiron(
        "eval",
        "--model",
        "offline:match/normalised",
        "--benchmarks",
        "mmrp_reasoning",
        "--data",
        tmp_path / "eval",
        "--run",
        tmp_path / "r",
    )
    assert ended.returncode == 2
    assert "eval_data.json and other.jsonl" in ended.stderr


def test_interns_see_images_where_the_question_has_them_and_the_judge_reads_their_numbers(tmp_path: Path) -> None:
    data = eval_folder(tmp_path / "eval")
    said = "### Step 1: The cortex is broken.\n### The final answer is: A fracture"
    with Endpoint(lambda body: "yes" if body["model"] == "judge" else said) as endpoint:
        evaluated(tmp_path, data, endpoint.base_url, ("mmrp_reasoning",), protocol="exact", judge="judge", interns=["intern"])
        interns = [written(body["messages"][-1]) for body in endpoint.seen.bodies if body["model"] == "intern"]
        judged = [prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "judge"]
    assert any(f"<question>\n{EVAL_ROW['question']}\n</question>" in text for text in interns)
    assert any("(Modality 1: image 1,\nModality 2: image 2)" in text for text in judged)
    assert not any("<image>" in text for text in judged)


def test_options_of_a_row_of_ones_own_wording_are_shuffled_where_they_stand(tmp_path: Path) -> None:
    trained = a_release(tmp_path, ("none",))
    with Endpoint(lambda _: "A") as endpoint:
        evaluated(tmp_path, tmp_path / "mmrp", endpoint.base_url, ("mmrp_text",), control=Control.SHUFFLE_OPTIONS)
        asked = [written(message) for body in endpoint.seen.bodies for message in body["messages"]]
    assert asked
    for text in asked:
        assert text not in trained
        head, options = text.rsplit("Which sign is it?\n", 1)
        assert sorted(line[3:] for line in options.splitlines()) == ["Comet tail", "Deep sulcus", "Halo sign"]
        assert any(own.startswith(head) for own in trained)


def test_without_images_the_marks_of_a_row_are_left_out(tmp_path: Path) -> None:
    data = eval_folder(tmp_path / "eval")
    with Endpoint(lambda body: "yes" if body["model"] == "judge" else "x") as endpoint:
        evaluated(tmp_path, data, endpoint.base_url, ("mmrp_reasoning",), judge="judge", control=Control.NO_IMAGE)
        asked = {written(body["messages"][0]) for body in endpoint.seen.bodies if body["model"] == "m"}
    assert EVAL_ROW["question"].replace("<image>", "") in asked


def test_a_question_with_marks_is_sent_as_it_is_by_ask(tmp_path: Path) -> None:
    eval_folder(tmp_path / "eval")
    images = [tmp_path / "eval" / name for name in EVAL_ROW["img_name"]]
    with Endpoint(lambda _: "It is.") as endpoint:
        command = ["--model", "m", "--config", config(tmp_path, endpoint.base_url)]
        ended = chiron("ask", *images, EVAL_ROW["question"], *command)
        assert ended.returncode == 0, ended.stderr
        assert written(endpoint.seen.bodies[-1]["messages"][0]) == EVAL_ROW["question"]
        few = chiron("ask", images[0], EVAL_ROW["question"], *command)
        assert (few.returncode, "2 <image> marks, but the number of images is 1" in few.stderr) == (2, True)


def test_ask_groups_images_into_modalities(tmp_path: Path) -> None:
    eval_folder(tmp_path / "eval")
    images = [tmp_path / "eval" / name for name in (*EVAL_ROW["img_name"], ONE_STRING["img_name"])]
    with Endpoint(lambda _: "It is.") as endpoint:
        command = ["--model", "m", "--config", config(tmp_path, endpoint.base_url)]
        ended = chiron("ask", *images, "What is it?", *command, "--groups", "2,1")
        assert ended.returncode == 0, ended.stderr
        asked = written(endpoint.seen.bodies[-1]["messages"][0])
        wrong = chiron("ask", *images, "What is it?", *command, "--groups", "2,2")
    assert asked.startswith("Modality 1: <image>\n<image>,\nModality 2: <image>\nWhat is it?\n")
    assert (wrong.returncode, "do not add up to the 3" in wrong.stderr) == (2, True)


def test_an_item_of_the_published_rows_keeps_its_question_to_the_letter(tmp_path: Path) -> None:
    items = load(benchmark_of("mmrp_reasoning"), eval_folder(tmp_path / "eval"), tmp_path).items
    assert [item.asked[0].text for item in items if isinstance(item, Item)] == [
        row["question"] for row in (EVAL_ROW, TWO_GROUPS, ONE_STRING)
    ]
