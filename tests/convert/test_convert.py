import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    Qwen2Tokenizer,
    Qwen3Config,
)
from typer.testing import CliRunner

from chiron.cli import train as cli
from chiron.convert import convert
from chiron.convert import weights as weight_files
from chiron.convert.config_json import read_chat, write_hf
from chiron.convert.convert import ConversionReport, detect, to_hf, to_internvl_chat
from chiron.errors import DiskError, InputError
from chiron.providers.local.dialogue import SYSTEM_MESSAGES
from tests.convert.conversions import (
    CHAT_SHAPES,
    IMAGE_TOKEN,
    LETTERS,
    MEAN,
    SIDE,
    SPECIAL,
    STD,
    VOCABULARY,
    Tensors,
    authors_features,
    change_weights,
    config_of,
    load_model,
    logits_of,
    published_config,
    same,
    settle,
    tensors_of,
    tiny_internvl,
    write_tokenizer,
)


def test_names_and_shapes_are_the_authors(hf: Path, tmp_path: Path) -> None:
    report = to_internvl_chat(hf, tmp_path / "out")
    written = tensors_of(tmp_path / "out")
    assert {k: tuple(v.shape) for k, v in written.items()} == CHAT_SHAPES
    assert report.tensors == len(CHAT_SHAPES)
    assert report.parameters == sum(v.numel() for v in written.values())
    assert report.size == 4 * report.parameters
    assert (report.layout, report.shards) == ("internvl_chat", ("model.safetensors",))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_authors_forward_pass_on_converted_weights_gives_the_same_features(hf: Path, tmp_path: Path) -> None:
    to_internvl_chat(hf, tmp_path / "out")
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = tiny_internvl().get_image_features(pixel_values=pixels, vision_feature_layer=-1).pooler_output
        features = authors_features(tensors_of(tmp_path / "out"), pixels)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_round_trip_from_hf_is_exact_and_loads(hf: Path, tmp_path: Path) -> None:
    to_internvl_chat(hf, tmp_path / "chat")
    to_hf(tmp_path / "chat", tmp_path / "back")
    assert same(tensors_of(hf), tensors_of(tmp_path / "back"))
    loaded = load_model(tmp_path / "back")
    assert torch.equal(logits_of(loaded), logits_of(tiny_internvl()))
    before, after = InternVLConfig.from_pretrained(hf).to_dict(), InternVLConfig.from_pretrained(tmp_path / "back").to_dict()
    # Added: what the authors' code needs. Said explicitly now, and not before: classes' names.
    after.pop("internvl_chat")
    for config in (before, after):
        for section in (config, config["text_config"], config["vision_config"]):
            for key in ("architectures", "_name_or_path", "dtype", "transformers_version"):
                section.pop(key, None)
        config["text_config"]["rope_parameters"].pop("type", None)
    assert after == before


def test_internvl3_5_converts_both_ways(tmp_path: Path) -> None:
    """Its language model Qwen3 has norms of query and key, no biases, and heads of their own width."""
    model = tiny_internvl(Qwen3Config)
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    to_internvl_chat(tmp_path / "hf", tmp_path / "chat")
    written = {name: tuple(value.shape) for name, value in tensors_of(tmp_path / "chat").items()}
    layer = "language_model.model.layers.0.self_attn."
    kept = {name: shape for name, shape in CHAT_SHAPES.items() if not name.startswith(layer)}
    heads = {"q_proj": (48, 32), "k_proj": (24, 32), "v_proj": (24, 32), "o_proj": (32, 48), "q_norm": (12,), "k_norm": (12,)}
    assert written == kept | {f"{layer}{name}.weight": shape for name, shape in heads.items()}
    config = config_of(tmp_path / "chat")["llm_config"]
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert (config["model_type"], config["head_dim"], config["attention_bias"]) == ("qwen3", 12, False)
    to_hf(tmp_path / "chat", tmp_path / "back")
    assert same(tensors_of(tmp_path / "hf"), tensors_of(tmp_path / "back"))
    assert torch.equal(logits_of(load_model(tmp_path / "back")), logits_of(model))


def test_a_qwen3_without_its_norms_is_refused(tmp_path: Path) -> None:
    tiny_internvl(Qwen3Config).save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    change_weights(tmp_path / "hf", lambda tensors: [tensors.pop(name) for name in list(tensors) if "q_norm" in name])
    with pytest.raises(InputError, match=r"lacks .*q_norm\.weight, which config\.json requires"):
        to_internvl_chat(tmp_path / "hf", tmp_path / "chat")


def test_round_trip_from_the_authors_is_exact(chat: Path, tmp_path: Path) -> None:
    to_hf(chat, tmp_path / "hf")
    to_internvl_chat(tmp_path / "hf", tmp_path / "back")
    assert same(tensors_of(chat), tensors_of(tmp_path / "back"))
    before, after = config_of(chat), config_of(tmp_path / "back")
    for section, keys in (
        (
            None,
            "downsample_ratio dynamic_image_size force_image_size hidden_size max_dynamic_patch min_dynamic_patch model_type pad2square",
        ),
        (None, "ps_version select_layer system_message template tie_word_embeddings torch_dtype use_backbone_lora use_llm_lora"),
        ("vision_config", "hidden_size image_size patch_size intermediate_size num_hidden_layers num_attention_heads qkv_bias norm_type"),
        ("vision_config", "drop_path_rate dropout qk_normalization layer_norm_eps initializer_factor initializer_range use_flash_attn"),
        ("llm_config", "architectures hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"),
        ("llm_config", "rope_scaling rope_theta max_position_embeddings rms_norm_eps bos_token_id eos_token_id tie_word_embeddings"),
    ):
        old, new = (before[section], after[section]) if section else (before, after)
        assert {k: new.get(k) for k in keys.split()} == {k: old[k] for k in keys.split()}
    assert "auto_map" not in json.dumps(after)


def test_the_authors_checkpoint_loads_with_its_type_and_scaling(chat: Path, tmp_path: Path) -> None:
    to_hf(chat, tmp_path / "hf")
    model = load_model(tmp_path / "hf")
    assert model.dtype == torch.bfloat16
    assert model.config.image_token_id == IMAGE_TOKEN
    assert model.config.image_seq_length == 4
    assert model.config.tie_word_embeddings is False
    assert model.lm_head.weight.data_ptr() != model.model.language_model.embed_tokens.weight.data_ptr()
    assert torch.equal(model.lm_head.weight, tensors_of(chat)["language_model.lm_head.weight"])
    rope = model.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("dynamic", 2.0, 5000.0)
    assert model.config.text_config.use_cache is True
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        features = model.float().get_image_features(pixel_values=pixels, vision_feature_layer=-1).pooler_output
        expected = authors_features({k: v.float() for k, v in tensors_of(chat).items()}, pixels)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_what_only_the_authors_know_survives_training(chat: Path, tmp_path: Path) -> None:
    settle(chat, template="internvl3", max_dynamic_patch=6, vision_config__drop_path_rate=0.3)
    to_hf(chat, tmp_path / "hf")
    tuned = tmp_path / "tuned"
    load_model(tmp_path / "hf").save_pretrained(tuned)
    AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tuned)
    to_internvl_chat(tuned, tmp_path / "back")
    config = config_of(tmp_path / "back")
    assert (config["template"], config["max_dynamic_patch"], config["vision_config"]["drop_path_rate"]) == ("internvl3", 6, 0.3)
    assert same(tensors_of(chat), tensors_of(tmp_path / "back"))


def test_image_settings_keep_their_order(chat: Path, tmp_path: Path) -> None:
    """A checkpoint's fingerprint is of the file's bytes: another order would be another model to ledgers."""
    settle(chat, max_dynamic_patch=None)
    to_hf(chat, tmp_path / "hf")
    settings = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert " ".join(settings) == (
        "image_processor_type processor_class do_convert_rgb do_resize size resample crop_to_patches min_patches max_patches"
        " do_rescale rescale_factor do_normalize image_mean image_std"
    )
    assert settings["max_patches"] == 12


def test_tile_limits_come_from_the_image_settings_where_the_config_has_none(hf: Path, tmp_path: Path) -> None:
    settings = {"image_processor": {"min_patches": 2, "max_patches": 5, "image_mean": MEAN}}
    (hf / "processor_config.json").write_text(json.dumps(settings))
    to_internvl_chat(hf, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["min_dynamic_patch"], config["max_dynamic_patch"]) == (2, 5)


@pytest.mark.slow
def test_shards_in_and_out(hf: Path, tmp_path: Path) -> None:
    report = to_internvl_chat(hf, tmp_path / "chat", shard_bytes=20_000)
    assert len(report.shards) > 2
    sizes = [(tmp_path / "chat" / name).stat().st_size for name in report.shards]
    assert all(size < 20_000 + 8_000 for size in sizes)
    index = json.loads((tmp_path / "chat" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == CHAT_SHAPES.keys()
    assert index["metadata"]["total_size"] == report.size
    # The parts of a fused matrix meet again from different shards.
    back = to_hf(tmp_path / "chat", tmp_path / "back", shard_bytes=1_000)
    assert len(back.shards) > 20
    to_internvl_chat(tmp_path / "back", tmp_path / "again")
    assert same(tensors_of(tmp_path / "chat"), tensors_of(tmp_path / "again"))
    assert torch.equal(logits_of(load_model(tmp_path / "back")), logits_of(tiny_internvl()))


def test_each_tensor_keeps_its_type(chat: Path, tmp_path: Path) -> None:
    def mix(tensors: Tensors) -> None:
        tensors["mlp1.0.weight"] = tensors["mlp1.0.weight"].float()
        tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"].half()

    change_weights(chat, mix)
    to_hf(chat, tmp_path / "hf")
    assert tensors_of(tmp_path / "hf")["multi_modal_projector.layer_norm.weight"].dtype == torch.float32
    to_internvl_chat(tmp_path / "hf", tmp_path / "back")
    assert same(tensors_of(chat), tensors_of(tmp_path / "back"))


def test_names_as_they_are_in_memory_are_understood(hf: Path, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in tiny_internvl().state_dict().items()}
    assert "model.language_model.embed_tokens.weight" in state
    save_file(state, hf / "model.safetensors", metadata={"format": "pt"})
    to_internvl_chat(hf, tmp_path / "out")
    assert {k: tuple(v.shape) for k, v in tensors_of(tmp_path / "out").items()} == CHAT_SHAPES


def test_only_one_shard_is_loaded_at_a_time(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def watched(tensors: Tensors, *arguments: Any, **options: Any) -> None:
        held.append(sum(tensor.nbytes for tensor in tensors.values()))
        save_file(tensors, *arguments, **options)

    monkeypatch.setattr(weight_files, "save_file", watched)
    report = to_internvl_chat(hf, tmp_path / "out", shard_bytes=14_000)
    assert len(held) == len(report.shards) > 3
    assert sum(held) == report.size
    assert max(held) <= 14_000


def test_converting_again_gives_the_same_bytes(hf: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        to_internvl_chat(hf, tmp_path / name, shard_bytes=14_000)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one == other


class TestTiedEmbeddings:
    def test_a_tied_model_without_its_output_matrix(self, chat: Path, tmp_path: Path) -> None:
        change_weights(chat, lambda t: t.pop("language_model.lm_head.weight"))
        settle(chat, llm_config__tie_word_embeddings=True)
        to_hf(chat, tmp_path / "hf")
        model = load_model(tmp_path / "hf")
        assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()
        to_internvl_chat(tmp_path / "hf", tmp_path / "back")
        assert config_of(tmp_path / "back")["llm_config"]["tie_word_embeddings"] is True
        assert same(tensors_of(chat), tensors_of(tmp_path / "back"))

    def test_untied_by_what_is_there_where_the_config_is_silent(self, hf: Path, tmp_path: Path) -> None:
        # So the first published conversions are: the class's default says True, and two different matrices are there.
        settle(hf, tie_word_embeddings=..., text_config__tie_word_embeddings=...)
        to_internvl_chat(hf, tmp_path / "out")
        assert config_of(tmp_path / "out")["llm_config"]["tie_word_embeddings"] is False
        assert "language_model.lm_head.weight" in tensors_of(tmp_path / "out")

    def test_a_tied_model_that_stores_both(self, chat: Path, tmp_path: Path) -> None:
        settle(chat, llm_config__tie_word_embeddings=True)
        embedding = "language_model.model.embed_tokens.weight"
        change_weights(chat, lambda t: t.update({"language_model.lm_head.weight": t[embedding].clone()}))
        to_hf(chat, tmp_path / "hf")
        assert config_of(tmp_path / "hf")["tie_word_embeddings"] is True
        assert "language_model.lm_head.weight" in tensors_of(tmp_path / "hf")

    def test_a_contradiction_is_refused(self, chat: Path, tmp_path: Path) -> None:
        settle(chat, llm_config__tie_word_embeddings=True)
        with pytest.raises(InputError, match=r"tie_word_embeddings is true, but .*lm_head.* differs"):
            to_hf(chat, tmp_path / "out")

    def test_an_untied_model_without_its_output_matrix_is_refused(self, chat: Path, tmp_path: Path) -> None:
        change_weights(chat, lambda t: t.pop("language_model.lm_head.weight"))
        with pytest.raises(InputError, match=r"lacks language_model\.lm_head\.weight"):
            to_hf(chat, tmp_path / "out")


class TestSmallFiles:
    def test_the_tokenizer_gains_names_and_keeps_ids(self, chat: Path, tmp_path: Path) -> None:
        report = to_hf(chat, tmp_path / "hf")
        before = Qwen2Tokenizer.from_pretrained(chat)
        after = AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert after.get_vocab() == before.get_vocab()
        assert (after.start_image_token, after.end_image_token) == ("<img>", "</img>")
        assert after.context_image_token_id == IMAGE_TOKEN
        assert after.convert_tokens_to_ids(after.video_token) == len(LETTERS) + SPECIAL.index("<|video_pad|>")
        # Transformers 5.17 lists it no more among all_special_tokens, and treats it as one all the same.
        quad = after.convert_tokens_to_ids("<quad>")
        assert isinstance(quad, int)
        assert after.added_tokens_decoder[quad].special
        assert len(after) <= VOCABULARY
        assert "auto_map" not in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
        assert set(report.copied) == {"vocab.json", "merges.txt", "README.md"}

    def test_code_is_left_behind(self, chat: Path, tmp_path: Path) -> None:
        (chat / "training_args.bin").write_bytes(b"")
        report = to_hf(chat, tmp_path / "hf")
        assert report.left_out == ("modeling_internvl_chat.py", "training_args.bin")
        assert not list((tmp_path / "hf").glob("*.py"))

    def test_the_prompt_template_learns_images(self, chat: Path, tmp_path: Path) -> None:
        report = to_hf(chat, tmp_path / "hf")
        assert any("chat template does not support images" in note for note in report.notes)
        messages: Any = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "ab"}]},
            {"role": "assistant", "content": "cd"},
        ]
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        turns = "<|im_start|>user\n<IMG_CONTEXT>\nab<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n<|im_start|>assistant\n"
        assert prompt == turns
        to_internvl_chat(tmp_path / "hf", tmp_path / "back")
        prompt = Qwen2Tokenizer.from_pretrained(tmp_path / "back").apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == turns.replace("<IMG_CONTEXT>", "<image>")

    def test_a_template_with_images_keeps_its_words(self, chat: Path, tmp_path: Path) -> None:
        path = chat / "tokenizer_config.json"
        values = json.loads(path.read_text())
        template = "S{% for m in messages %}{{ '<image>' if m.content is not string else m.content }}{% endfor %}"
        values["chat_template"] = [{"name": "default", "template": template}, {"name": "tools", "template": "x"}]
        path.write_text(json.dumps(values))
        report = to_hf(chat, tmp_path / "hf")
        assert (tmp_path / "hf" / "chat_template.jinja").read_text() == template.replace("<image>", "<IMG_CONTEXT>")
        assert report.notes == ("of several chat templates, only the default one was converted",)

    def test_answers_end_with_the_turn(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        end = len(LETTERS) + SPECIAL.index("<|im_end|>")
        assert GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id == [16, end]
        (chat / "generation_config.json").unlink()
        to_hf(chat, tmp_path / "bare")
        assert GenerationConfig.from_pretrained(tmp_path / "bare").eos_token_id == [16, end]

    def test_images_are_prepared_as_the_authors_do(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        processor = GotOcr2ImageProcessorPil.from_pretrained(tmp_path / "hf")
        assert (list(processor.image_mean), list(processor.image_std)) == (MEAN, STD)
        assert (processor.size["height"], processor.size["width"]) == (SIDE, SIDE)
        assert (processor.crop_to_patches, processor.min_patches, processor.max_patches) == (True, 1, 12)
        values = json.loads((tmp_path / "hf" / "processor_config.json").read_text())
        assert values == {"image_seq_length": 4, "processor_class": "InternVLProcessor"}

    def test_out_again_the_tokenizer_is_what_old_releases_read(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        tuned = shutil.copytree(tmp_path / "hf", tmp_path / "tuned")
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (tuned / name).unlink()
        AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tuned)
        assert (tuned / "tokenizer.json").is_file()
        to_internvl_chat(tuned, tmp_path / "back")
        values = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
        assert values["tokenizer_class"] == "Qwen2Tokenizer"
        assert not {"start_image_token", "context_image_token", "video_token", "extra_special_tokens"} & values.keys()
        added = {token["content"]: token["special"] for token in values["added_tokens_decoder"].values()}
        assert added["<quad>"]
        assert values["added_tokens_decoder"][str(IMAGE_TOKEN)]["content"] == "<IMG_CONTEXT>"
        assert json.loads((tmp_path / "back" / "vocab.json").read_text()).items() >= {"a": 0, "p": 15}.items()
        assert (tmp_path / "back" / "merges.txt").read_text() == "#version: 0.2\n"
        assert not (tmp_path / "back" / "preprocessor_config.json").exists()

    def test_the_new_name_of_the_generic_tokenizer_is_undone(self, hf: Path, tmp_path: Path) -> None:
        path = hf / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "TokenizersBackend"}))
        to_internvl_chat(hf, tmp_path / "out")
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"

    def test_a_tokenizer_without_videos_says_so(self, chat: Path, tmp_path: Path) -> None:
        path = chat / "tokenizer_config.json"
        path.write_text(path.read_text().replace("<|video_pad|>", "<other>"))
        assert any("<video>" in note for note in to_hf(chat, tmp_path / "hf").notes)

    def test_other_image_statistics_are_refused(self, hf: Path, tmp_path: Path) -> None:
        (hf / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
        with pytest.raises(InputError, match=r"image_mean is \[0\.5, 0\.5, 0\.5\]"):
            to_internvl_chat(hf, tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: (f / "tokenizer_config.json").unlink(), "no tokenizer_config.json"),
            (lambda f: (f / "tokenizer_config.json").write_text("{}"), "has no <img>"),
            (lambda f: (f / "tokenizer_config.json").write_text("{"), "is not JSON"),
            (lambda f: (f / "added_tokens.json").write_text('{"<img>": 3}'), "gives '<img>' the id"),
            (lambda f: (f / "added_tokens.json").write_text('{"x": "y"}'), "gives 'x' the id 'y'"),
            (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), "chat_template.jinja is not UTF-8 text"),
        ],
    )
    def test_a_broken_tokenizer_is_refused(self, chat: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
        change(chat)
        with pytest.raises(InputError, match=re.escape(message)):
            to_hf(chat, tmp_path / "out")


class TestWriting:
    def test_an_empty_folder_is_taken_and_a_full_one_refused(self, chat: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        to_hf(chat, tmp_path / "empty")
        assert detect(tmp_path / "empty") == "hf"
        before = {p.name: p.read_bytes() for p in chat.iterdir()}
        for out in (tmp_path / "empty", chat, chat / "config.json"):
            with pytest.raises(InputError, match="exists and is not an empty folder"):
                to_hf(chat, out)
        assert {p.name: p.read_bytes() for p in chat.iterdir()} == before

    def test_folders_on_the_way_are_made(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "a" / "b")
        assert detect(tmp_path / "a" / "b") == "hf"

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ],
    )
    def test_a_full_disk_leaves_nothing(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def full(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(weight_files, "save_file", full)
        with pytest.raises(DiskError, match="no space left on its disk"):
            to_hf(chat, tmp_path / "place" / "out")
        assert list((tmp_path / "place").iterdir()) == []

    def test_too_small_a_disk_is_said_before(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(DiskError, match=r"0\.00 GB free"):
            to_hf(chat, tmp_path / "out")

    def test_an_interrupt_leaves_nothing(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(weight_files, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            to_hf(chat, tmp_path / "place" / "out")
        assert list((tmp_path / "place").iterdir()) == []

    def test_an_unwritable_place_is_an_input_error(self, chat: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="was not written"):
            to_hf(chat, tmp_path / "file" / "out")

    def test_a_source_that_shrinks_is_noticed(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = weight_files.find_weights

        def shrinking(folder: Path) -> Any:
            found = whole(folder)
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])
            return found

        monkeypatch.setattr(convert, "find_weights", shrinking)
        with pytest.raises(InputError, match=r"model\.safetensors changed during the conversion"):
            to_hf(chat, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_the_published_sizes_give_the_published_numbers_of_parameters() -> None:
    from chiron.convert.weights import weights

    counts = []
    for hidden, mlp, heads, groups in ((1536, 8960, 12, 2), (3584, 18944, 28, 4)):
        config = published_config()
        config.update(force_image_size=448, hidden_size=hidden)
        config["vision_config"].update(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, image_size=448, patch_size=14
        )
        config["llm_config"].update(
            hidden_size=hidden,
            intermediate_size=mlp,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            num_hidden_layers=28,
            vocab_size=151674,
        )
        settings = read_chat(config)
        assert write_hf(settings, image_token_id=151667, tied=False)["image_seq_length"] == 256
        shapes = (weight.shape for weight in weights(settings.sizes, qkv_bias=True, head=True))
        counts.append(round(sum(torch.Size(shape).numel() for shape in shapes) / 1e6, 1))
    assert counts == [2089.0, 7944.4]


class TestCommand:
    def _run(self, *arguments: object) -> Any:
        import typer

        app = typer.Typer()
        app.command()(cli.convert_command)
        return CliRunner().invoke(app, [str(a) for a in arguments])

    def test_the_direction_is_found(self, chat: Path, tmp_path: Path) -> None:
        result = self._run(chat, tmp_path / "hf")
        assert result.exit_code == 0
        assert result.stdout.count("\n") == 1
        assert "in the layout hf: 61 tensors" in result.stdout
        assert "left out: modeling_internvl_chat.py" in result.stdout
        result = self._run(tmp_path / "hf", tmp_path / "back", "--to", "internvl_chat")
        assert "in the layout internvl_chat: 53 tensors" in result.stdout
        assert same(tensors_of(chat), tensors_of(tmp_path / "back"))

    def test_the_layout_it_has_is_refused(self, chat: Path, tmp_path: Path) -> None:
        result = self._run(chat, tmp_path / "out", "--to", "internvl_chat")
        assert isinstance(result.exception, InputError)
        assert "already" in str(result.exception)


def test_a_report_is_frozen(chat: Path, tmp_path: Path) -> None:
    report = to_hf(chat, tmp_path / "out")
    assert isinstance(report, ConversionReport)
    with pytest.raises(AttributeError):
        report.tensors = 0  # type: ignore[misc]


def test_a_converted_checkpoint_says_how_its_authors_ask_it(chat: Path, tmp_path: Path) -> None:
    to_hf(chat, tmp_path / "plain")
    to_hf(chat, tmp_path / "told", system="internvl2_5")
    plain, told = (json.loads((tmp_path / name / "chiron.json").read_text()) for name in ("plain", "told"))
    assert (plain["max_tiles"], plain["max_tiles_per"], plain["thumbnail"], plain["system"]) == (12, "image", True, None)
    assert told == {**plain, "system": SYSTEM_MESSAGES["internvl2_5"]}
    templates = [(tmp_path / name / "chat_template.jinja").read_text() for name in ("plain", "told")]
    assert templates[1].endswith(templates[0])
    assert SYSTEM_MESSAGES["internvl2_5"] in templates[1]
