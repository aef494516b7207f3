"""Read and write the small files of a checkpoint in either layout: tokenizer, chat template, generation and image settings."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.convert.config_json import Layout, Settings
from chiron.convert.weights import read_json, write_bytes, write_json
from chiron.errors import InputError
from chiron.providers.local.chat_template import system_block, turns_template
from chiron.providers.local.checkpoint import write_format
from chiron.providers.local.tiling import DEVIATION, MEAN, Tiling

VERBATIM = """tokenizer.json vocab.json merges.txt added_tokens.json special_tokens_map.json
    README.md LICENSE LICENSE.txt LICENSE.md NOTICE""".split()
REWRITTEN = """config.json tokenizer_config.json chat_template.jinja chat_template.json generation_config.json
    preprocessor_config.json processor_config.json chiron.json""".split()
# The authors' code looks these tokens up by their text, transformers by the names.
_NAMED = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
_VIDEO = "video_token"
_TURN_END = "<|im_end|>"
_PROCESSOR_KEYS = (
    "image_processor_type", "processor_class", "do_convert_rgb", "do_resize", "size", "resample", "crop_to_patches", "min_patches",
    "max_patches", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
"""Keys of ``preprocessor_config.json``, in this order: a checkpoint's fingerprint is of the file's bytes."""
# Placeholder of an image in a rendered prompt, before it is replaced by image tokens.
_MARK: dict[Layout, str] = {"internvl_chat": "<image>", "hf": _NAMED["context_image_token"]}


@dataclass
class Written:
    """Record of the small files that were written."""

    copied: list[str] = field(default_factory=list)
    """Files copied unchanged."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user; each is a sentence without a final period."""


@dataclass(frozen=True)
class Tokenizer:
    folder: Path
    config: dict[str, Any]
    """``tokenizer_config.json``."""
    ids: dict[str, int]
    """Token ids by text, added tokens included."""

    @property
    def image_token_id(self) -> int:
        """Id of the token that is replaced by an image feature."""
        return self.ids[_NAMED["context_image_token"]]


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint. Both layouts need it, because only it has the ids of the image tokens.

    Raises:
        InputError: The tokenizer is missing, its files contradict each other, or it lacks an image token.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no tokenizer_config.json: copy the tokenizer's files there")
    config = read_json(path)
    ids = _token_ids(folder, config)
    for token in _NAMED.values():
        if token not in ids:
            raise InputError(f"the tokenizer in {folder} has no {token}: use InternVL's own")
    return Tokenizer(folder, config, ids)


def write_hf_files(tokenizer: Tokenizer, settings: Settings, out: Path, *, system: str | None = None) -> Written:
    """Write the files that transformers' processor and ``generate`` read.

    Raises:
        InputError: A source file is broken.
        OSError: A file cannot be written.
    """
    written = _copy(tokenizer.folder, out)
    video = next((t for t in ("<video>", "<|video_pad|>") if t in tokenizer.ids), None)
    if video is None:
        video = "<video>"
        written.notes.append("the tokenizer has no video token; loading it adds <video>, which has no row in the embedding")
    config = {k: v for k, v in tokenizer.config.items() if k not in {"auto_map", "chat_template"}}
    old = config.pop("extra_special_tokens", None)
    if isinstance(old, list) and "additional_special_tokens" not in config:
        config["additional_special_tokens"] = old
    config["extra_special_tokens"] = {**(old if isinstance(old, dict) else {}), **_NAMED, _VIDEO: video}
    write_json(out / "tokenizer_config.json", config)
    template = system_block(system) + _template(tokenizer, "internvl_chat", "hf", written)
    write_bytes(out / "chat_template.jinja", template.replace("VIDEO_MARK", video).encode())
    _write_generation(tokenizer, settings, out)
    # The authors' chat code tiles every image separately, with these settings.
    most = settings.kept.get("max_dynamic_patch") or 12
    tiling = Tiling(settings.vision["image_size"], most, settings.kept.get("use_thumbnail", True), per_image=True)
    write_format(out, tiling, system)
    processor = {
        **tiling.processor_settings(),
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": settings.kept.get("dynamic_image_size", True),
        "min_patches": settings.kept.get("min_dynamic_patch", 1),
    }
    write_json(out / "preprocessor_config.json", {key: processor[key] for key in _PROCESSOR_KEYS})
    write_json(out / "processor_config.json", {"image_seq_length": settings.tokens_a_tile, "processor_class": "InternVLProcessor"})
    return written


def write_chat_files(tokenizer: Tokenizer, settings: Settings, out: Path) -> Written:
    """Write the files that the authors' code reads.

    Raises:
        InputError: A source file is broken, or its image settings are not supported by the authors' code.
        OSError: A file cannot be written.
    """
    _check_images(tokenizer.folder, settings)
    written = _copy(tokenizer.folder, out)
    config = {k: v for k, v in tokenizer.config.items() if k not in {*_NAMED, _VIDEO, "auto_map", "backend", "is_local", "processor_class"}}
    extra = config.pop("extra_special_tokens", None)
    if isinstance(extra, list) and extra:
        config.setdefault("additional_special_tokens", extra)
    elif isinstance(extra, dict) and (rest := {k: v for k, v in extra.items() if k not in {*_NAMED, _VIDEO}}):
        config["extra_special_tokens"] = rest
    # transformers 5 renamed this class; older releases and the authors' code only know the old name.
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write_slow_tokenizer(tokenizer, config, out)
    if _find_template(tokenizer)[0] is not None:
        config["chat_template"] = _template(tokenizer, "hf", "internvl_chat", written)
    write_json(out / "tokenizer_config.json", config)
    generation = tokenizer.folder / "generation_config.json"
    if generation.is_file():
        write_json(out / generation.name, read_json(generation))
    written.notes.append("the authors' model code (*.py) is not included; programs that have it built in, such as vLLM, do not need it")
    return written


def tile_limits(folder: Path) -> dict[str, int]:
    """Read the minimum and maximum tiles per image from transformers' image settings, if set; return them under the authors' keys.

    Raises:
        InputError: A source file is broken.
    """
    found: dict[str, int] = {}
    for values in _image_settings(folder).values():
        for ours, theirs in (("min_dynamic_patch", "min_patches"), ("max_dynamic_patch", "max_patches")):
            if isinstance(value := values.get(theirs), int):
                found[ours] = value
    return found


def _copy(folder: Path, out: Path) -> Written:
    written = Written()
    for name in VERBATIM:
        if (folder / name).is_file():
            write_bytes(out / name, (folder / name).read_bytes())
            written.copied.append(name)
    return written


def _token_ids(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    sources: list[tuple[str, Any]] = []
    if (folder / "tokenizer.json").is_file():
        whole = read_json(folder / "tokenizer.json")
        model = whole.get("model")
        sources.append(("tokenizer.json", model.get("vocab") if isinstance(model, dict) else None))
        added = whole.get("added_tokens")
        sources.append(("tokenizer.json", {t.get("content"): t.get("id") for t in added or [] if isinstance(t, dict)}))
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        pairs = {t.get("content"): int(i) for i, t in decoder.items() if isinstance(t, dict) and i.isdecimal()}
        sources.append(("tokenizer_config.json", pairs))
    sources += [(name, read_json(folder / name)) for name in ("added_tokens.json", "vocab.json") if (folder / name).is_file()]
    ids: dict[str, int] = {}
    for name, values in sources:
        for text, number in values.items() if isinstance(values, dict) else ():
            if not isinstance(text, str) or not isinstance(number, int):
                raise InputError(f"{folder / name} gives {text!r} the id {number!r}, which is not an integer: download the tokenizer again")
            if ids.setdefault(text, number) != number:
                raise InputError(
                    f"{folder / name} gives {text!r} the id {number}, and another file says {ids[text]}: download the tokenizer again"
                )
    return ids


def _find_template(tokenizer: Tokenizer) -> tuple[str | None, bool]:
    # Readers prefer the file to the key. The key may contain several named templates; only one can be converted.
    jinja, old = tokenizer.folder / "chat_template.jinja", tokenizer.folder / "chat_template.json"
    if jinja.is_file():
        try:
            return jinja.read_text(encoding="utf-8"), False
        except UnicodeDecodeError as error:
            raise InputError(f"{jinja} is not UTF-8 text: download it again") from error
    value = read_json(old).get("chat_template") if old.is_file() else tokenizer.config.get("chat_template")
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value, several = named.get("default"), len(named) > 1
        return (value if isinstance(value, str) else None), several
    return (value if isinstance(value, str) else None), False


def _template(tokenizer: Tokenizer, origin: Layout, goal: Layout, written: Written) -> str:
    template, several = _find_template(tokenizer)
    if several:
        written.notes.append("of several chat templates, only the default one was converted")
    if template is not None and (_MARK[origin] in template or origin == "hf"):
        return template.replace(_MARK[origin], _MARK[goal])
    if template is not None:
        written.notes.append(
            "the chat template does not support images; it was replaced by one that does, without tools or a system message"
        )
    return turns_template(f"{_MARK[goal]}\\n", "VIDEO_MARK\\n")


def _write_generation(tokenizer: Tokenizer, settings: Settings, out: Path) -> None:
    path = tokenizer.folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {k: settings.text[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # With this flag, transformers would read the values from the model's configuration again.
    values = {k: v for k, v in values.items() if k != "_from_model_config" and v is not None}
    ends = values.get("eos_token_id", [])
    ends = list(ends) if isinstance(ends, list) else [ends]
    # The authors' chat code passes the end-of-turn token in every call. transformers does not, so answers would not stop.
    if (end := tokenizer.ids.get(_TURN_END)) is not None and end not in ends:
        ends.append(end)
    if ends:
        values["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    write_json(out / path.name, values)


def _write_slow_tokenizer(tokenizer: Tokenizer, config: dict[str, Any], out: Path) -> None:
    # The authors' scripts use the slow tokenizer, which reads these files; transformers 5 writes only tokenizer.json.
    path = tokenizer.folder / "tokenizer.json"
    if not path.is_file() or (out / "vocab.json").is_file() or not str(config.get("tokenizer_class")).startswith("Qwen2Tokenizer"):
        return
    whole = read_json(path)
    model = whole.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise InputError(f"{path} has no byte-pair vocabulary, which a {config['tokenizer_class']} needs: use the model's own tokenizer")
    merges = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
    write_bytes(out / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False).encode())
    write_bytes(out / "merges.txt", ("#version: 0.2\n" + "".join(f"{m}\n" for m in merges)).encode())
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in whole.get("added_tokens") or []}
    config.setdefault("added_tokens_decoder", added)


def _image_settings(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            inner = values.get("image_processor")
            found[name] = inner if isinstance(inner, dict) else values
    return found


def _check_images(folder: Path, settings: Settings) -> None:
    side = settings.vision["image_size"]
    wanted = {"image_mean": list(MEAN), "image_std": list(DEVIATION), "size": {"height": side, "width": side}}
    for name, values in _image_settings(folder).items():
        for key, value in wanted.items():
            if key in values and values[key] != value:
                raise InputError(f"{folder / name}: {key} is {values[key]!r}; the authors' code always prepares images with {value!r}")
