"""A preference stage: pairs of a chosen and a rejected reply, packed like all rows, with TRL's DPO loss."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.training.batches import Decoder, collate
from chiron.training.encoding import IGNORED, Encoded, encode_all
from chiron.training.estimate import estimate
from chiron.training.metrics import StepMetrics, draw_curves, read_metrics
from chiron.training.model import Loss, add_adapter
from chiron.training.packing import pack
from chiron.training.recipe import Adapter, Recipe, load_recipe
from chiron.training.rows import read_rows
from chiron.training.session import prepare, train
from tests.training.tiny import tiny_encoder, tiny_model, tiny_tiling, tiny_tokenizer, write_image, write_rows

SFT = {"name": "cot", "data": "cot.jsonl", "steps": 3, "batch": {"rows": 5}, "learning_rate": 1e-3}
DPO = {"name": "dpo", "data": "pairs.jsonl", "objective": "dpo", "steps": 7, "batch": {"rows": 4}, "learning_rate": 5e-3, "beta": 0.5}


def write_pairs(folder: Path, count: int, *, seed: int = 0, name: str = "pairs.jsonl", images: bool = True) -> Path:
    """Pairs over zero, one or two images; every third continues a begun reply, as pairs at a prefix do."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        names = [f"p{seed}-{number}/{i}.png" for i in range(number % 3 if images else 0)]
        for image in names:
            write_image(folder / "images" / image, random)
        prompt = [{"role": "user", "content": "<image>" * len(names) + f"What is {number}?"}]
        if number % 4 == 1:
            prompt = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes?"},
                *prompt,
            ]
        start = "### Step 1: So. " * (number % 3)
        chosen, rejected = ([{"role": "assistant", "content": f"{start}It is {word}."}] for word in ("right" + "!" * number, "wrong"))
        rows.append({"id": f"pair{seed}-{number}", "images": names, "prompt": prompt, "chosen": chosen, "rejected": rejected})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "data", 9, ("one", "several"), seed=5, name="cot.jsonl")
    write_pairs(folder / "data", 10)
    write_pairs(folder / "data", 4, seed=1, name="held.jsonl")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.1}, "images": {"tile": 32},
        "max_seq_length": 1000, "precision": "fp32", "checkpoint_every": 2, "stages": [SFT, {**DPO, "held_out": "held.jsonl"}],
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def pairs_of(folder: Path) -> list[Encoded]:
    return encode_all(read_rows(folder / "pairs.jsonl", preferences=True), ImageFolder(folder / "images"), tiny_encoder(), limit=1000)


def test_only_the_replies_of_a_pair_are_learned(world: Path) -> None:
    tokenizer = tiny_tokenizer()
    for number, pair in enumerate(pairs_of(world / "data")):
        begins = (0, pair.lengths[0])
        for begin, size, word in zip(begins, pair.lengths, ("right" + "!" * number, "wrong"), strict=True):
            labels = pair.labels[begin : begin + size]
            start = "### Step 1: So. " * (number % 3)
            assert tokenizer.decode(labels[labels != IGNORED].tolist()) == f"{start}It is {word}.<|im_end|>"
            assert f"What is {number}?" in tokenizer.decode(pair.input_ids[begin : begin + size].tolist())


def randomized(model: torch.nn.Module) -> None:
    """Give every adapter weight a random value; the same for the same layer names."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            seed = sum(name[name.index("layers.") :].encode())
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def layer_gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name[name.index("layers.") :]: p.grad for name, p in model.named_parameters() if p.grad is not None and "lora_" in name}


def with_reference(loss: Loss, pairs: list[Encoded], pixels: Any) -> list[Encoded]:
    found = []
    with torch.no_grad():
        for pair in pairs:
            scores = loss(**collate([[pair]], pixels, length=None, pad_id=0).loss_inputs())
            found.append(replace(pair, reference=tuple(scores.tolist())))
    return found


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_trl(tmp_path: Path) -> None:
    """TRL's own trainer on the language model alone, with padded pairs; ours on packed pairs."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    write_pairs(tmp_path, 6, images=False)
    model, tokenizer = tiny_model(), tiny_tokenizer()
    language = Qwen2ForCausalLM(model.config.text_config)
    language.model.load_state_dict(model.model.language_model.state_dict())
    language.lm_head.load_state_dict(model.lm_head.state_dict())
    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), beta=0.3, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False
    )
    some = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    layers = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=layers)
    trainer = trl.DPOTrainer(language, args=settings, train_dataset=some, processing_class=tokenizer, peft_config=lora)
    theirs = trainer.model.train()
    randomized(theirs)
    pairs = encode_all(read_rows(tmp_path / "pairs.jsonl", preferences=True), ImageFolder(tmp_path), tiny_encoder(), limit=1000)
    chosen = [(pair.input_ids[: pair.lengths[0]], pair.labels[: pair.lengths[0]]) for pair in pairs]
    rejected = [(pair.input_ids[pair.lengths[0] :], pair.labels[pair.lengths[0] :]) for pair in pairs]
    rows = [*chosen, *rejected]
    width = max(len(ids) for ids, _ in rows)
    inputs = {name: torch.zeros((len(rows), width), dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")}
    for number, (ids, labels) in enumerate(rows):
        inputs["input_ids"][number, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        inputs["attention_mask"][number, : len(ids)] = 1
        inputs["completion_mask"][number, : len(ids)] = torch.from_numpy((labels != IGNORED).astype(np.int64))
    wanted = trainer._compute_loss(theirs, inputs, return_outputs=False)
    wanted.backward()

    loss = Loss(add_adapter(model, Adapter(rank=4, alpha=8, dropout=0.0)), beta=0.3)
    known = with_reference(loss, pairs, {})  # the adapter is still zero, as if it were switched off
    randomized(loss)
    lines = [[known[i] for i in line] for line in pack([len(pair.input_ids) for pair in known], 500)]
    assert any(len(line) > 1 for line in lines)
    found = loss(**collate(lines, {}, length=None, pad_id=0).loss_inputs()) / len(pairs)
    found.backward()
    assert abs(wanted.item() - np.log(2)) > 0.01
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    ours, reference = layer_gradients(loss), layer_gradients(theirs)
    assert ours.keys() == reference.keys()
    assert max(float(gradient.abs().max()) for gradient in reference.values()) > 0.01
    for name, gradient in reference.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_packed_pairs_with_images_have_the_losses_of_single_ones(world: Path) -> None:
    pairs = pairs_of(world / "data")
    loss = Loss(add_adapter(tiny_model(), Adapter(rank=4, alpha=8, dropout=0.0)), beta=0.3)
    with Decoder(ImageFolder(world / "data" / "images"), tiny_tiling(), 1) as decoder:
        [(_, pixels)] = decoder.ahead([[pairs]])
    known = with_reference(loss, pairs, pixels)
    randomized(loss)
    with torch.no_grad():
        single = [float(loss(**collate([[pair]], pixels, length=None, pad_id=0).loss_inputs())) for pair in known]
        lines = [[known[i] for i in line] for line in pack([len(pair.input_ids) for pair in known], 900)]
        packed = float(loss(**collate(lines, pixels, length=None, pad_id=0).loss_inputs()))
    assert len(lines) < len(pairs)
    assert len({round(value, 4) for value in single}) > 5
    assert packed == pytest.approx(sum(single), rel=1e-5)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    train(prepare(recipe_of(world), world / "data"), out)
    return out


@pytest.mark.slow
def test_a_preference_stage_begins_at_its_reference_and_learns_to_prefer(undisturbed: Path) -> None:
    lines = [line for line in read_metrics(undisturbed / "metrics.jsonl") if line["stage"] == "dpo"]
    losses = [line["loss"] for line in lines if "loss" in line]
    # At its start the model is its own reference, but for dropout.
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.5
    assert lines[-1]["held_out_loss"] < 0.6
    assert lines[-1]["rows"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 3, 4, 6, 9])
def test_a_preference_stage_cut_off_anywhere_ends_bit_equal(world: Path, undisturbed: Path, tmp_path: Path, at: int) -> None:
    def cut(metrics: Any) -> None:
        if isinstance(metrics, StepMetrics) and metrics.total_steps == at:
            raise Killed

    with pytest.raises(Killed):
        train(prepare(recipe_of(world), world / "data"), tmp_path, watch=cut)
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    one, other = (load_file(out / "model" / "model.safetensors") for out in (tmp_path, undisturbed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_lost_reference_is_named(world: Path, tmp_path: Path) -> None:
    def cut(metrics: Any) -> None:
        if isinstance(metrics, StepMetrics) and metrics.total_steps == 6:
            raise Killed

    with pytest.raises(Killed):
        train(prepare(recipe_of(world), world / "data"), tmp_path, watch=cut)
    (tmp_path / "reference-dpo.json").unlink()
    with pytest.raises(InputError, match=r"reference-dpo\.json, the reference of stage dpo, cannot be read"):
        train(prepare(recipe_of(world), world / "data"), tmp_path)


def test_a_dry_run_counts_both_replies_and_the_reference(world: Path) -> None:
    prepared = prepare(recipe_of(world), world / "data")
    stage = estimate(prepared).stages[1]
    pairs = prepared.data["dpo"]
    assert (prepared.plans[1].rows, prepared.plans[1].steps) == (10, 7)
    assert all(sum(pair.lengths) == len(pair.input_ids) and len(pair.lengths) == 2 for pair in pairs)
    plain = estimate(prepare(recipe_of(world, stages=[SFT, {**DPO, "steps": 14}]), world / "data")).stages[1]
    # Twice the steps are less than twice the work: the reference is computed once.
    assert stage.petaflops < plain.petaflops < 2 * stage.petaflops
    tiles = [sum(pair.tile_counts) * 2 for pair in pairs]
    assert [pair.tiles() for pair in pairs] == tiles


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": None}, "its 'chosen' is not a list of turns"),
        ({"rejected": [{"role": "assistant", "content": ""}]}, "an empty assistant turn"),
        ({"rejected": [{"role": "robot", "content": "x"}]}, "turn 1 of 'rejected' has no 'role'"),
        ({"rejected": [{"role": "assistant", "content": "A"}]}, "chosen and rejected are equal"),
        ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "its prompt does not end with a user turn"),
        ({"images": ["a.png"]}, "0 <image> marks for 1 images"),
        ({"chosen": [{"role": "assistant", "content": "<image>"}]}, "mark outside of the prompt"),
        ({"chosen": [{"role": "assistant", "content": [{"type": "video"}]}]}, "turn 1 of 'chosen' has no text"),
    ],
)
def test_a_broken_pair_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    answers = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "A"), ("rejected", "B"))}
    row = {"id": "p", "images": [], "prompt": [{"role": "user", "content": "Q"}], **answers, **change}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="row 'p'.*" + words):
        read_rows(tmp_path / "pairs.jsonl", preferences=True)


def test_trl_blocks_are_read_as_marks(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat?"}]}]
    answers = {name: [{"role": "assistant", "content": [{"type": "text", "text": name}]}] for name in ("chosen", "rejected")}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"id": "p", "images": ["a.png"], "prompt": prompt, **answers}))
    [row] = read_rows(tmp_path / "pairs.jsonl", preferences=True)
    assert [turn.text for turn in row.turns] == ["<image>\nWhat?", "chosen"]
    assert [turn.text for turn in row.rejected] == ["<image>\nWhat?", "rejected"]


def test_rows_of_another_objective_are_refused(world: Path) -> None:
    for stage in ({**SFT, "data": "pairs.jsonl"}, {**DPO, "data": "cot.jsonl"}):
        with pytest.raises(InputError, match=r"10 broken rows|9 broken rows"):
            prepare(recipe_of(world, stages=[stage]), world / "data")


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([SFT, {**DPO, "replay": {"cot": 0.2}}], "does not support replay"),
        ([{**SFT, "beta": 0.2}], "beta belongs to objective: dpo"),
        ([DPO, {**SFT, "replay": {"dpo": 0.2}}], "replays 'dpo', whose rows are preference pairs"),
    ],
)
def test_a_recipe_with_a_wrong_preference_stage_is_refused(world: Path, tmp_path: Path, stages: list[Any], words: str) -> None:
    values = {**recipe_of(world).model_dump(mode="json", exclude_unset=True), "stages": stages}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=words):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_written_out_in_full_is_read_back(world: Path, tmp_path: Path) -> None:
    """The model card contains it so."""
    recipe = recipe_of(world)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("preference_stages", "label"),
    [
        ((), "loss per trained token (nats)"),
        (("dpo",), "loss per trained token (nats) or DPO loss per pair"),
        (("reasoning", "dpo"), "DPO loss per pair"),
    ],
)
def test_the_axis_of_the_curves_names_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preference_stages: tuple[str, ...], label: str
) -> None:
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure.axes[0].get_ylabel()))
    steps = [{"stage": stage, "total_steps": step, "loss": 0.5} for step, stage in enumerate(("reasoning", "dpo"))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", preference_stages=preference_stages)
    assert shown == [label]
