"""Every family of bases trains as its single rows would, resumes, merges, and is served as it was trained."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from chiron.cases.images import ImageFolder
from chiron.cli.app import app
from chiron.client.call import ImagePart
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.evaluation.api import evaluate
from chiron.evaluation.config import EvaluationConfig, EvaluationTokens, load_evaluation
from chiron.evaluation.items import ITEMS, Item, own_messages, read_results
from chiron.providers.local.checkpoint import find_checkpoint
from chiron.providers.local.families.registry import FAMILIES
from chiron.providers.local.generation import PrefixCache, Request
from chiron.providers.local.loading import load
from chiron.providers.local.provider import Local
from chiron.providers.local.tiling import Tiling, normalise
from chiron.training.batches import Decoder, PackedBatch, collate
from chiron.training.encoding import IGNORED, Encoded
from chiron.training.estimate import estimate
from chiron.training.held_out import answer, choose_questions
from chiron.training.loop import TrainState
from chiron.training.metrics import StepMetrics, read_metrics
from chiron.training.model import Loss, add_adapter, plain
from chiron.training.packing import pack
from chiron.training.recipe import Adapter, Recipe
from chiron.training.rows import read_rows
from chiron.training.session import Prepared, prepare, train
from tests.evaluation import published
from tests.providers.local.checkpoints import as_processed, config_of, generate, generated, write_family
from tests.training.test_preferences import write_pairs
from tests.training.tiny import model_inputs, write_rows

pytestmark = pytest.mark.slow

KINDS = ("internvl3_5", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm")
"""InternVL3 itself is tested everywhere else."""


ENDS = {"gemma3": ("<end_of_turn>", ""), "idefics3": ("<end_of_utterance>", " "), "smolvlm": ("<end_of_utterance>", " ")}
"""The token that ends a turn, and the text before a reply."""


@dataclass
class World:
    """A base, rows, and the images as plain transformers sees them."""

    kind: str
    folder: Path

    def recipe(self, **changes: Any) -> Recipe:
        stages = [
            {"name": "text", "data": "text.jsonl", "trainable": "all", "steps": 2, "batch": {"rows": 4}, "learning_rate": 1e-3},
            {
                "name": "cot", "data": "rows.jsonl", "steps": 4, "batch": {"rows": 5}, "learning_rate": 5e-3, "replay": {"text": 0.2},
                "held_out": "text.jsonl",
            },
        ]  # fmt: skip
        images = {"tile": 32} if self.tiled else {self.limit: {"max_pixels": 1600, "longest_edge": 64}[self.limit]} if self.limit else {}
        values: dict[str, Any] = {
            "name": "tiny", "base": str(self.folder / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.1}, "images": images,
            "max_seq_length": 700, "precision": "fp32", "checkpoint_every": 2, "stages": stages,
        }  # fmt: skip
        return Recipe.model_validate({**values, **changes})

    @property
    def tiled(self) -> bool:
        return self.kind.startswith("internvl")

    @property
    def limit(self) -> str | None:
        """The key of ``images`` that limits the size of images."""
        return {"q": "max_pixels", "g": None, "i": "longest_edge", "s": "longest_edge"}[self.kind[0]] if not self.tiled else None

    def prepared(self, **changes: Any) -> Prepared:
        return prepare(self.recipe(**changes), self.folder / "data")

    def images(self, names: tuple[str, ...], trained: Path | None = None) -> dict[str, Tensor]:
        """Image inputs of one row as transformers' own processor makes them, with the limit of the recipe or the settings of a trained
        model; InternVL's tiles are cut here and now.
        """
        opened = [Image.open(self.folder / "data" / "images" / name) for name in names]
        if not opened:
            return {}
        if self.tiled:
            tiling = Tiling(tile=32)
            tiles = [tiling.cut(image, len(opened)) for image in opened]
            return {"pixel_values": torch.from_numpy(normalise(np.concatenate(tiles)))}
        if trained is not None or self.limit is None:
            return as_processed(trained or self.folder / "base", opened)
        settings = json.loads((self.folder / "base" / "preprocessor_config.json").read_text())
        settings["size"]["longest_edge"] = {"max_pixels": 1600, "longest_edge": 64}[self.limit]
        (self.folder / "limited").mkdir(exist_ok=True)
        (self.folder / "limited" / "preprocessor_config.json").write_text(json.dumps(settings))
        return as_processed(self.folder / "limited", opened)

    def alone(self, model: Any, row: Encoded, **changes: Any) -> Any:
        """What transformers computes for one row, with its own positions and its own loss."""
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        inputs = self.images(row.images)
        if row.images:
            inputs |= token_types(self.kind, ids == model.config.image_token_id)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, **changes)

    @cached_property
    def undisturbed(self) -> Path:
        train(self.prepared(), self.folder / "out")
        return self.folder / "out"


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param)
    write_family(folder / "base", request.param)
    write_rows(folder / "data", 9)
    write_rows(folder / "data", 6, ("text",), seed=1, name="text.jsonl")
    write_pairs(folder / "data", 4)
    return World(request.param, folder)


def token_types(kind: str, is_image: Tensor) -> dict[str, Tensor]:
    """What transformers needs to know besides the pixels: which tokens are of images."""
    name = {"q": "mm_token_type_ids", "g": "token_type_ids"}.get(kind[0])
    return {name: is_image.long()} if name else {}


def packed(world: World, prepared: Prepared, rows: list[Encoded], capacity: int = 700) -> PackedBatch:
    lines = [[rows[i] for i in line] for line in pack([len(row.input_ids) for row in rows], capacity)]
    assert max(len(line) for line in lines) > 1
    layout = prepared.base.layout
    with Decoder(ImageFolder(world.folder / "data" / "images"), layout, 1) as decoder:
        [(_, pixels)] = decoder.ahead([lines])
    return collate(lines, pixels, length=None, pad_id=0, layout=layout)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_packed_loss_and_gradients_are_transformers_own_for_single_rows(world: World) -> None:
    prepared = world.prepared()
    model: Any = prepared.base.model.double().eval()
    rows = prepared.data["cot"]
    batch = packed(world, prepared, rows)
    loss = Loss(model)(**batch.loss_inputs())
    loss.backward()
    ours = gradients(model)
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        labels = torch.from_numpy(row.labels.astype(np.int64))[None]
        one = world.alone(model, row, labels=labels).loss * int((labels != IGNORED).sum())
        one.backward()
        total += one.detach()
    torch.testing.assert_close(loss.detach().double(), total, rtol=1e-6, atol=0)  # both compute the loss itself in single precision
    theirs = gradients(model)
    assert ours.keys() == theirs.keys()
    assert any(prepared.base.family.vision_tower in name for name in ours)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_row_of_a_line_has_the_logits_it_has_alone(world: World) -> None:
    prepared = world.prepared()
    model: Any = prepared.base.model.eval()
    rows = prepared.data["cot"][:5]
    layout = prepared.base.layout
    with Decoder(ImageFolder(world.folder / "data" / "images"), layout, 1) as decoder:
        [(_, pixels)] = decoder.ahead([[rows]])
    batch = collate([rows], pixels, length=None, pad_id=0, layout=layout)
    given = model_inputs(batch)
    given["attention_mask"] = prepared.base.family.packed_mask(model.config, batch.input_ids, batch.position_ids)
    logits = model(**given).logits[0]
    at = 0
    for row in rows:
        torch.testing.assert_close(logits[at : at + len(row.input_ids)], world.alone(model, row).logits[0], rtol=0, atol=3e-5)
        at += len(row.input_ids)
    # A mask of ones lets the rows see each other, so this test can fail.
    leaking = model(**{**model_inputs(batch), "attention_mask": torch.ones_like(batch.input_ids)}).logits[0]
    assert (leaking - logits)[:at].abs().max() > 0.01


def test_only_the_assistants_text_is_trained(world: World) -> None:
    prepared = world.prepared()
    decode = prepared.base.tokenizer.decode
    for row, example in zip(prepared.data["cot"], read_rows(world.folder / "data" / "rows.jsonl"), strict=True):
        learned = decode(row.labels[row.labels != IGNORED].tolist(), skip_special_tokens=False)
        end, space = ENDS.get(world.kind, ("<|im_end|>", ""))
        assert learned == "".join(f"{space}{turn.text}{end}" for turn in example.turns if turn.role == "assistant")
        system = [turn.text for turn in example.turns if turn.role == "system"] or [prepared.base.family.default_system or ""]
        written = decode(row.input_ids.tolist(), skip_special_tokens=False)
        if world.kind == "gemma3":
            assert written.startswith(f"<bos><start_of_turn>user\n{system[0]}\n\n" if system[0] else "<bos><start_of_turn>user\n")
        elif world.kind in ENDS:
            assert written.startswith(f"<|im_start|>System: {system[0]}{end}\nUser:" if system[0] else "<|im_start|>User:")
        else:
            assert written.startswith(f"<|im_start|>system\n{system[0]}<|im_end|>\n" if system[0] else "<|im_start|>user\n")


@torch.no_grad()
def test_packed_pairs_have_the_log_probabilities_of_single_ones(world: World) -> None:
    stage = {"name": "pairs", "data": "pairs.jsonl", "objective": "dpo", "steps": 1, "batch": {"rows": 2}, "learning_rate": 1e-3}
    prepared = world.prepared(stages=[stage], max_seq_length=1500)
    loss = Loss(prepared.base.model.eval())
    pairs = prepared.data["pairs"]
    together = loss(**packed(world, prepared, pairs, 3000).loss_inputs())
    order = [i for line in pack([len(pair.input_ids) for pair in pairs], 3000) for i in line]
    for place, number in enumerate(order):
        pair, begin = pairs[number], 0
        for index, size in enumerate(pair.lengths):
            half = Encoded(pair.id, pair.input_ids[begin : begin + size], pair.labels[begin : begin + size], pair.images, pair.tile_counts)
            labels = torch.from_numpy(half.labels.astype(np.int64))[None]
            one = -world.alone(prepared.base.model, half, labels=labels).loss * int((labels != IGNORED).sum())
            torch.testing.assert_close(together[2 * place + index], one, rtol=1e-4, atol=1e-4)
            begin += size


def assert_bit_equal(out: Path, wanted_out: Path) -> None:
    """The same model, adapter and losses."""
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        ours, wanted = load_file(out / file), load_file(wanted_out / file)
        assert ours.keys() == wanted.keys()
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    losses = [[line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line] for folder in (out, wanted_out)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


class Killed(Exception):
    pass


def test_a_run_cut_off_again_and_again_ends_bit_equal(world: World, tmp_path: Path) -> None:
    for at in (1, 3, 5):

        def kill(metrics: Any, at: int = at) -> None:
            if isinstance(metrics, StepMetrics) and metrics.total_steps == at:
                raise Killed

        with pytest.raises(Killed):
            train(world.prepared(), tmp_path, watch=kill)
    train(world.prepared(), tmp_path)
    assert_bit_equal(tmp_path, world.undisturbed)


def train_until_killed(world: World, out: Path, at: str, threads: int) -> None:
    """In a process of its own: ``kill -9`` while the checkpoint of step 4 is written, or after step 5."""
    torch.set_num_threads(threads)

    def die(metrics: Any = None) -> None:
        if at == "writing" or metrics.total_steps == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(value: object, path: Path) -> None:
        plain_save(value, path)
        if "step-00000004" in str(path):
            die()

    plain_save = torch.save
    if at == "writing":
        torch.save = write  # type: ignore[assignment]
    train(world.prepared(), out, watch=die if at == "step" else lambda _: None)


@pytest.mark.parametrize("world", ["internvl", *KINDS], indirect=True)
def test_a_run_killed_in_a_step_and_while_it_writes_a_checkpoint_ends_bit_equal(world: World, tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])  # imported once for all families
    for at in ("writing", "step"):
        process = server.Process(target=train_until_killed, args=(world, tmp_path, at, torch.get_num_threads()))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "model").exists()
        (draft,) = (tmp_path / "checkpoints").glob(".step-*") if at == "writing" else [None]
        assert draft is None or not (draft / "place.json").exists()
    train(world.prepared(), tmp_path)
    assert_bit_equal(tmp_path, world.undisturbed)


@torch.no_grad()
def test_the_merged_model_computes_what_base_and_adapter_compute(world: World) -> None:
    from peft import PeftModel

    prepared = world.prepared()
    merged = getattr(transformers, prepared.base.family.architecture).from_pretrained(world.undisturbed / "model").eval()
    base: Any = prepared.base.model
    base.load_state_dict(load_file(world.undisturbed / "base.safetensors"))
    row = next(row for row in prepared.data["cot"] if len(row.images) > 1)
    untrained = world.alone(base.eval(), row).logits
    adapted = PeftModel.from_pretrained(base, world.undisturbed / "adapter").eval()
    wanted = world.alone(plain(adapted), row).logits
    torch.testing.assert_close(world.alone(merged, row).logits, wanted, rtol=0, atol=1e-4)
    assert (wanted - untrained).abs().max() > 0.01
    adapters = {name.split(".lora_")[0] for name, _ in adapted.named_parameters() if "lora_" in name}
    assert len(adapters) == (3 if world.kind == "gemma3" else 2) * 7
    assert all("language_model" in name or "text_model" in name for name in adapters)


@pytest.mark.parametrize("world", ["internvl", *KINDS], indirect=True)
def test_a_trained_model_is_evaluated_in_this_process(world: World, tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    model = str(world.undisturbed / "model")
    config = load_evaluation(None, model)
    config = config.model_copy(update={"evaluation": EvaluationConfig(max_tokens=EvaluationTokens(model=16))})
    (group,) = evaluate(model, ["vqa_rad"], tmp_path / "run", config, data=tmp_path / "d").groups
    assert group["n"] == 4
    assert group["verdicts"]["pending"] == group["verdicts"]["unusable"] == 0
    replies = [item.reply for item in read_results(tmp_path / "run" / ITEMS)]
    assert len(replies) == 4
    assert all(replies)


@pytest.mark.parametrize("system", [None, "Be kind.", "none"])
def test_a_trained_model_is_asked_in_the_tokens_of_its_training_and_replies_as_in_transformers(
    world: World, tmp_path: Path, system: str | None
) -> None:
    stages = [{"name": "cot", "data": "rows.jsonl", "steps": 1, "batch": {"rows": 3}, "learning_rate": 1e-3}]
    prepared = world.prepared(system=system, stages=stages)
    train(prepared, tmp_path)
    backend, _ = load(find_checkpoint(tmp_path / "model"), config_of(tmp_path / "model"))
    folder, store = ImageFolder(world.folder / "data" / "images"), PictureStore()
    trained = {row.id: row for row in prepared.data["cot"]}
    for example in read_rows(world.folder / "data" / "rows.jsonl"):
        if example.turns[0].role == "system" or len(example.turns) > 2:
            continue
        pictures = []
        for name in example.images:
            image = folder.check(name)
            store.add(image.sha256, image.path)
            pictures.append(ImagePart(image.sha256, 1536))
        item = Item(example.id, "Why?", "x", example.images, asked=example.turns[:-1])
        prompt = backend.prompt(own_messages(item, pictures), store)
        row = trained[example.id]
        begins = int(np.flatnonzero(row.labels != IGNORED)[0])
        assert prompt.ids.tolist() == row.input_ids[:begins].tolist()
        inputs = world.images(example.images)
        if example.images:
            inputs |= token_types(world.kind, torch.from_numpy(prompt.ids == backend.dialogue.image_ids[1])[None])
        (reply,) = generate(backend, [Request(prompt, 0.0, 16, "seed")], PrefixCache(2**26))
        assert list(reply.tokens) == generated(backend.model, prompt.ids.tolist(), 16, sorted(backend.stop_ids), **inputs)


def test_held_out_answers_are_what_transformers_generates(world: World) -> None:
    stage = {"name": "cot", "data": "rows.jsonl", "steps": 1, "batch": {"rows": 3}, "learning_rate": 1e-3, "held_out": "rows.jsonl"}
    prepared = world.prepared(stages=[{**stage, "held_out_every": 1}])
    path = world.folder / "data" / "rows.jsonl"
    chosen = prepared.recipe.stages[0].model_copy(update={"answers": 9})
    questions = choose_questions(path, read_rows(path), prepared.held_out["cot"], prepared.recipe, chosen)
    model: Any = prepared.base.model
    state = TrainState(model, torch.optim.SGD(model.parameters()), Accelerator(cpu=True), 0, prepared.base.layout)
    replies: Any = answer(model, state, prepared.recipe, questions, prepared.folder, 8)
    for question, (tokens, _) in zip(questions, replies, strict=True):
        inputs = world.images(question.encoded.images)
        ids = question.encoded.input_ids
        if question.encoded.images:
            inputs |= token_types(world.kind, torch.from_numpy(ids == model.config.image_token_id)[None])
        assert tokens == generated(model, ids.tolist(), 8, [question.stop_id], **inputs)


def test_gradient_checkpointing_changes_no_gradient(world: World) -> None:
    found = []
    for checkpointing in (False, True):
        prepared = world.prepared(gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        model = add_adapter(prepared.base.model, Adapter(dropout=0)).train()
        torch.nn.init.ones_(next(p for name, p in model.named_parameters() if "lora_B" in name))
        loss = Loss(model)(**packed(world, prepared, prepared.data["cot"]).loss_inputs())
        loss.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert "lora_" in name
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_attention_without_a_mask_changes_no_gradient(world: World) -> None:
    found = []
    for attention in ("sdpa", "varlen"):
        if attention == "varlen" and world.prepared().base.family.own_masks:
            with pytest.raises(InputError, match="use sdpa"):
                world.prepared(attention=attention)
            return
        prepared = world.prepared(attention=attention)
        torch.manual_seed(0)
        model = add_adapter(prepared.base.model, Adapter(dropout=0)).train()
        torch.nn.init.ones_(next(p for name, p in model.named_parameters() if "lora_B" in name))
        Loss(model)(**packed(world, prepared, prepared.data["cot"]).loss_inputs()).backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


def test_the_exported_model_tells_other_programs_how_it_was_trained(world: World) -> None:
    prepared = world.prepared()
    model = world.undisturbed / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    family, image = prepared.base.family, prepared.base.family.image_placeholder
    parts: Any = [{"type": "text", "text": "Image 0: "}, {"type": "image"}, {"type": "text", "text": "\nWhy?"}]
    written = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
    system = f"<|im_start|>system\n{family.default_system}<|im_end|>\n" if family.default_system else ""
    wanted = f"{system}<|im_start|>user\nImage 0: {image}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    if world.kind == "gemma3":
        wanted = f"<bos><start_of_turn>user\nImage 0: {image}\nWhy?<end_of_turn>\n<start_of_turn>model\n"
    elif world.kind in ENDS:
        wanted = f"<|im_start|>User: Image 0: {image}\nWhy?<end_of_utterance>\nAssistant:"
    assert written == wanted
    settings = json.loads((model / "preprocessor_config.json").read_text())
    if family.tiled:
        assert settings["image_processor_type"] == "GotOcr2ImageProcessor"
        return
    kinds = {"q": "Qwen2VL", "g": "Gemma3", "i": "Idefics3", "s": "SmolVLM"}
    assert settings["image_processor_type"] == f"{kinds[world.kind[0]]}ImageProcessor"
    assert "no argument is needed" in (model / "README.md").read_text()
    names = next(row.images for row in prepared.data["cot"] if row.images)
    for key, value in world.images(names, model).items():
        assert torch.equal(value, world.images(names)[key])


def test_rows_have_the_tokens_of_transformers_own_processor(world: World) -> None:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    if world.kind not in ENDS:
        pytest.skip("the other families put line breaks next to images, as in InternVL's training")
    model, prepared = world.undisturbed / "model", world.prepared()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
    if world.kind == "gemma3":
        own: Any = transformers.Gemma3Processor(transformers.Gemma3ImageProcessorPil.from_pretrained(model), tokenizer, image_seq_length=16)
    else:
        own = transformers.Idefics3Processor(transformers.Idefics3ImageProcessorPil.from_pretrained(model), tokenizer, image_seq_len=4)
    compared = 0
    for row, example in zip(prepared.data["cot"], read_rows(world.folder / "data" / "rows.jsonl"), strict=True):
        messages = []
        for turn in example.turns[:-1]:
            parts: list[Any] = [{"type": "text", "text": turn.texts[0]}] if turn.texts[0] else []
            for text in turn.texts[1:]:
                parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
            messages.append({"role": turn.role, "content": parts})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if world.kind != "gemma3":
            assert text == tokenizer.apply_chat_template(
                messages, chat_template=DEFAULT_CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
            )
        opened = [Image.open(world.folder / "data" / "images" / name) for name in row.images]
        ids = own(text=text, images=opened or None, add_special_tokens=False, return_tensors="np")["input_ids"][0].tolist()
        if len(example.turns) > 3:  # replies within a conversation are tokenized alone
            continue
        begins = int(np.flatnonzero(row.labels != IGNORED)[0])
        assert row.input_ids[:begins].tolist() == ids
        compared += len(row.images)
    assert compared > 3


def test_a_base_keeps_its_identity_and_a_trained_model_names_its_format(world: World) -> None:
    base, trained = (
        Local("m", config_of(folder), PictureStore()).identity for folder in (world.folder / "base", world.undisturbed / "model")
    )
    if world.tiled:
        assert base.endswith(":1:precision=auto,tiles=6,thumbnail=yes")
        assert trained.endswith(":1:precision=auto,tiles=6,thumbnail=yes")
    else:
        assert base.endswith(":1:precision=auto")
        assert trained.endswith(r":1:precision=auto,separator='\n'")


def test_a_dry_run_counts_what_training_sees(world: World) -> None:
    prepared = world.prepared()
    found = estimate(prepared)
    stage = found.stages[1]
    assert stage.tokens == sum(
        line["tokens"] for line in read_metrics(world.undisturbed / "metrics.jsonl") if line.get("stage") == "cot" and "loss" in line
    )
    assert stage.tiles > 0
    assert found.hours > 0


def test_a_model_of_a_family_is_built_from_a_configuration(world: World, tmp_path: Path) -> None:
    config = json.loads((world.folder / "base" / "config.json").read_text())
    scratch = {"tokenizer": str(world.folder / "base"), "config": config}
    stages = [{"name": "cot", "data": "rows.jsonl", "trainable": "all", "steps": 1, "batch": {"rows": 2}, "learning_rate": 1e-3}]
    images = {"tile": 32} if world.tiled else {"max_pixels": 4000} if world.limit == "max_pixels" else {}
    train(world.prepared(base=None, scratch=scratch, adapter=None, stages=stages, images=images), tmp_path)
    assert find_checkpoint(tmp_path / "model").family.model_type == config["model_type"]


# --- what can go wrong --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(world: World, tmp_path: Path) -> Path:
    """A copy of the base, to be spoilt."""
    return shutil.copytree(world.folder / "base", tmp_path / "base")


@pytest.mark.parametrize("kind", ["llava", "internvl_chat", None, 7])
def test_a_base_of_an_unknown_family_says_which_are_known(world: World, base: Path, kind: object) -> None:
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "model_type": kind}))
    with pytest.raises(InputError, match=r"cannot be trained: .*InternVL \(internvl\), .*Qwen2\.5-VL \(qwen2_5_vl\)") as caught:
        world.prepared(base=str(base))
    assert ("chiron convert" in str(caught.value)) is (kind == "internvl_chat")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}", "does not mark assistant turns"),
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}", "does not mark assistant turns"),
        ("{{ raise_exception('no') }}", "cannot be used"),
        ("{% for %}", "cannot be used"),
    ],
)
def test_a_template_without_assistant_marks_is_refused(world: World, base: Path, template: str, words: str) -> None:
    (base / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match=words):
        world.prepared(base=str(base))


def test_a_tokenizer_without_chat_tokens_is_refused(world: World, base: Path) -> None:
    settings = json.loads((base / "tokenizer.json").read_text())
    start = "<start_of_turn>" if world.kind == "gemma3" else "<|im_start|>"
    for token in settings["added_tokens"]:
        token["content"] = token["content"].replace(start, "<|begin|>")
    (base / "tokenizer.json").write_text(json.dumps(settings))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match=re.escape(f"the tokenizer has no token '{start}'")):
        world.prepared(base=str(base))


def test_rows_longer_than_the_limit_say_how_to_shorten_them(world: World) -> None:
    advice = r"\d+ images" if world.kind == "gemma3" else r"\d+ image tokens" if world.limit == "max_pixels" else r"\d+ tiles"
    with pytest.raises(InputError, match=rf"longer than 70 tokens \(allow more tokens or .*\).*including {advice}"):
        world.prepared(max_seq_length=70)


def test_settings_of_other_families_are_refused(world: World) -> None:
    name = transformers.AutoConfig.from_pretrained(world.folder / "base").model_type
    family = FAMILIES[name].name.split("-")[0]
    instead = "set max_tiles" if world.tiled else f"set {world.limit}" if world.limit else "remove"
    tile = {"tile": 32} if world.tiled else {}
    for key in {"max_pixels", "longest_edge"} - {world.limit}:
        with pytest.raises(InputError, match=rf"images\.{key} does not apply to {family}.*{instead}"):
            world.prepared(images={**tile, key: 4000})
    for wrong in [] if world.tiled else [{"tile": 32}, {"max_tiles": 12}, {"thumbnail": False}]:
        with pytest.raises(InputError, match=rf"do not apply to {family}.*{instead}"):
            world.prepared(images=wrong)
    if world.limit == "longest_edge":
        with pytest.raises(InputError, match=r"longest_edge is 80, which is not a multiple of the tile side 32: set it to 96"):
            world.prepared(images={"longest_edge": 80})
    if world.limit == "max_pixels":
        with pytest.raises(InputError, match=r"max_pixels is 10, but .* scales images up to 64: set it to 64 or more"):
            world.prepared(images={"max_pixels": 10})


def test_an_image_that_the_family_does_not_take_is_named(world: World, tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 1, ("one",))
    (name,) = json.loads(rows.read_text())["images"]
    Image.new("RGB", (2010, 10)).save(tmp_path / "images" / name)
    recipe = world.recipe(stages=[{"name": "cot", "data": "rows.jsonl", "steps": 1, "batch": {"rows": 1}, "learning_rate": 1e-3}])
    if world.limit != "max_pixels":  # stretched, or cut into more tiles
        assert prepare(recipe, tmp_path).data["cot"][0].tiles() > (0 if world.kind == "gemma3" else 1)
        return
    with pytest.raises(InputError, match=rf"1 of 1 rows .*{name}.*2010 x 10 pixels is not supported by this model"):
        prepare(recipe, tmp_path)


def test_an_image_that_changed_its_shape_is_named(world: World, tmp_path: Path) -> None:
    data = shutil.copytree(world.folder / "data", tmp_path / "data")
    prepared = prepare(world.recipe(), data)
    words = "it has changed since training began"
    row = next(row for row in prepared.data["cot"] if row.images)
    path = data / "images" / row.images[0]
    if world.kind == "gemma3":  # it sees every shape as a square
        Image.new("RGB", (10, 10)).save(path.with_suffix(".bmp"))
        path.write_bytes(path.with_suffix(".bmp").read_bytes()[:60])
        words = "can no longer be read"
    elif world.tiled:
        Image.new("RGB", (600, 32)).save(path)
    elif world.limit == "longest_edge":
        Image.new("RGB", (600, 20 if row.grids[0][0] > 1 else 600)).save(path)
    else:  # the same number of tokens in another shape has other positions
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(path)
    decoder = Decoder(ImageFolder(data / "images"), prepared.base.layout, 1)
    with decoder, pytest.raises(InputError, match=rf"row '{row.id}': .*{words}"):
        list(decoder.ahead([[[row]]]))


def test_the_families_are_listed() -> None:
    listed = json.loads(CliRunner().invoke(app, ["train", "--list-bases", "--json"]).stdout)
    assert [family["model_type"] for family in listed] == [
        "internvl",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "gemma3",
        "idefics3",
        "smolvlm",
    ]
    assert all(family["packing"] and family["in_process"] and family["qlora"] for family in listed)
    printed = CliRunner().invoke(app, ["train", "--list-bases"]).stdout
    assert all(f"{family['name']} (model_type {family['model_type']})" in printed for family in listed)
    assert "are not tested" in printed


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "RECIPE is missing"), (["r.yaml", "--out", "o"], "--data DIR is missing"), (["--json"], "--list-bases")]
)
def test_a_missing_argument_is_named(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["train", *arguments])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
