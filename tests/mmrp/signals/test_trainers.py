"""TRL's own trainers take two steps on the exported rows, with their images, on a tiny random model built here.

The rows are those of the commands, and those that the demonstration exports.
"""

from pathlib import Path
from typing import Any

import pytest

from chiron.demo import loop
from chiron.demo.data import TINY, make_data
from chiron.evaluation.reward import answer_reward
from chiron.mics.config import check_config
from chiron.mmrp.exports.internvl import internvl_faults
from chiron.mmrp.signals.preferences import build_preferences
from chiron.mmrp.signals.rewards import build_rewards
from chiron.mmrp.signals.rl import build_rl
from chiron.training.rows import read_rows
from tests.mmrp.building import lines
from tests.mmrp.signals.searching import searched
from tests.providers.local.checkpoints import qwen_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module", params=["build", "demo"])
def signals(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the signals of a search: made by their builds, or exported by the demonstration."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "demo":
        return exported_by_the_demonstration(folder)
    run = searched(folder, 4)
    for build in (build_preferences, build_rewards, build_rl):
        build([run], folder / build.__name__.removeprefix("build_"))
    return folder


def exported_by_the_demonstration(folder: Path) -> Path:
    """The demonstration's own cases and mentors; its interns would have to be trained first, so textbook readers take their place."""
    data = make_data(folder / "data", TINY, seed=0)
    settings = loop.team({"reader": Path("reader")}, data, seed=0, prompts={}).model_dump(mode="json")
    settings["models"]["reader"] = {"provider": "offline", "model": "retrieval/words"}
    config = check_config(settings, origin=folder / "demo.yaml")
    loop.search(config, data, folder / "search")
    exported = loop.export_signals(folder / "search", config, data, folder / "signals")
    assert all(each.rows and not each.why_none for each in exported), exported
    asked = lines(folder / "signals" / "release" / "exports" / "internvl" / "rewards-train.jsonl")
    assert asked
    assert not [fault for row in asked for fault in internvl_faults(row)]
    return folder / "signals"


def trl_file(signals: Path, name: str) -> Path:
    return signals / name / "exports" / "trl" / f"{name}.jsonl"


def rows_of(path: Path, *, images: bool = True) -> Any:
    from datasets import Image, List, load_dataset

    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    return rows.cast_column("images", List(Image())) if images else rows


def vision_model(folder: Path) -> tuple[Any, Any]:
    """A random LLaVA of two layers and its processor, which needs no torchvision."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT
    layers: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=32, **layers),
        text_config=Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **layers),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    torch.manual_seed(0)
    # Saved, because a trainer loads its reference model from there.
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return LlavaForConditionalGeneration.from_pretrained(folder), processor


def moved(before: dict[str, Any], model: Any) -> bool:
    """Whether training changed the weights."""
    return any(not before[name].equal(value) for name, value in model.state_dict().items())


def state(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_dpo_takes_two_steps_on_pairs_with_images(signals: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

    rows = rows_of(trl_file(signals, "preferences"))
    model, processor = vision_model(tmp_path / "model")
    before = state(model)
    settings = DPOConfig(output_dir=str(tmp_path / "dpo"), max_length=None, **COMMON)
    trainer = DPOTrainer(model=model, args=settings, train_dataset=rows, processing_class=processor)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    assert logged[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the model is still its own reference
    assert moved(before, trainer.model)


def test_the_process_reward_trainer_takes_two_steps(signals: Path, tmp_path: Path) -> None:
    prm = pytest.importorskip("trl.experimental.prm", reason="this version of TRL has no PRMTrainer (removed after 1.13)")
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    rows = rows_of(trl_file(signals, "rewards"), images=False).remove_columns("images")
    tokenizer = qwen_tokenizer()
    config = Qwen2Config(  # type: ignore[call-arg]
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        num_labels=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForTokenClassification(config)  # type: ignore[no-untyped-call]
    before = state(model)
    settings = prm.PRMConfig(output_dir=str(tmp_path / "prm"), max_length=2048, max_completion_length=1024, **COMMON)
    trainer = prm.PRMTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    labels = [[label for label in row["labels"] if label != -100] for row in trainer.train_dataset]
    assert labels == [[int(label) for label in row["labels"]] for row in rows]
    trainer.train()
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == 2
    assert moved(before, trainer.model)


def test_grpo_takes_two_steps_with_our_reward_on_prompts_with_images(signals: Path, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    rows = rows_of(trl_file(signals, "rl"))
    seen: list[dict[str, Any]] = []

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.append(columns)
        rewards = answer_reward(completions, **columns)
        # A random model is never right: replace its replies by right and wrong ones, so that the group has an advantage.
        said = [f"### The final answer is: {answer if n % 2 else 'x'}" for n, answer in enumerate(columns["answer"])]
        given = answer_reward(said, **columns)
        assert rewards == [0.0] * len(completions)
        assert given == [float(n % 2) for n in range(len(completions))]
        return given

    model, processor = vision_model(tmp_path / "model")
    before = state(model)
    settings = GRPOConfig(output_dir=str(tmp_path / "grpo"), num_generations=2, max_completion_length=8, **COMMON)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,  # type: ignore[arg-type]
        args=settings,
        train_dataset=rows,
        processing_class=processor,
    )
    trainer.train()
    assert len(seen) == 2
    assert {"answer", "options", "question", "pass_rate"} <= set(seen[0])
    assert moved(before, trainer.model)


def test_our_own_trainer_reads_the_reflections_of_the_demonstration(tmp_path: Path) -> None:
    rows = read_rows(exported_by_the_demonstration(tmp_path) / "reflections" / "rows.jsonl")
    assert rows
    assert all((tmp_path / "data" / "images" / image).is_file() for row in rows for image in row.images)
