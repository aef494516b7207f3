"""A row's own turns become the tokens that training made of them, image tiles included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiron.cases.images import ImageFolder
from chiron.client.call import ImagePart
from chiron.client.images import PictureStore
from chiron.evaluation.items import Item, own_messages
from chiron.mmrp.templates import PaperTemplate
from chiron.providers.local.checkpoint import find_checkpoint
from chiron.providers.local.loading import load
from chiron.training.encoding import IGNORED, encode_all
from chiron.training.rows import TrainingExample, read_rows
from tests.providers.local.checkpoints import config_of, write_internvl
from tests.support.cases import a_case
from tests.training.tiny import tiny_encoder, write_image

GROUPS = {
    "text": (),
    "one": ("c/ct_group1/0.png",),
    "several": ("c/ct_group1/0.png", "c/ct_group1/1.png", "c/ct_group1/2.png"),
    "groups": ("c/ct_group1/0.png", "c/ct_group1/1.png", "c/mri_group2/0.png"),
    "own marks": ("c/ct_group1/0.png", "c/ct_group1/1.png"),
}


def a_row(folder: Path, kind: str) -> TrainingExample:
    random = np.random.default_rng(5)
    images = GROUPS[kind]
    for image in images:
        write_image(folder / "images" / image, random)
    question = "Why (Modality 1: <image>\n<image>)?" if kind == "own marks" else "Why?"
    turns: Any = (
        [("system", "Be brief."), ("user", " A\n\nB. "), ("assistant", "C")]
        if kind == "text"
        else [(t.role, t.text) for t in PaperTemplate().of_path(a_case("c", images=images, question=question), "### Step 1: x")[0].turns]
    )
    record = {"id": "r", "images": images, "messages": [{"role": role, "content": text} for role, text in turns]}
    (folder / "rows.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = read_rows(folder / "rows.jsonl")
    return row


@pytest.mark.parametrize("kind", GROUPS)
def test_a_row_is_asked_in_the_tokens_that_it_was_trained_in(tmp_path: Path, kind: str) -> None:
    row, folder = a_row(tmp_path, kind), ImageFolder(tmp_path / "images")
    (trained,) = encode_all([row], folder, tiny_encoder(), limit=4000)
    family, _ = load(find_checkpoint(write_internvl(tmp_path / "model")), config_of(tmp_path / "model"))
    store = PictureStore()
    pictures = []
    for name in row.images:
        image = folder.check(name)
        store.add(image.sha256, image.path)
        pictures.append(ImagePart(image.sha256, 1536))
    item = Item("r", "Why?", "x", row.images, asked=row.turns[:-1])
    prompt = family.prompt(own_messages(item, pictures), store)
    begins = int(np.flatnonzero(trained.labels != IGNORED)[0])
    assert prompt.ids.tolist() == trained.input_ids[:begins].tolist()
    assert [len(seen.features) // 4 for seen in prompt.images] == list(trained.tile_counts)
