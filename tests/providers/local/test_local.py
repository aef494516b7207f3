"""The provider ``local``: calls in, replies out, whatever goes wrong in between."""

import asyncio
import contextlib
import json
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiron.cases.reader import AnswerPool
from chiron.client.call import Call, ImagePart, Message, Reply, TextPart
from chiron.client.config import LocalModel
from chiron.client.failures import CallerFault, CallFailed, Transient
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.mics.config import check_config
from chiron.phantom.sample import write_sample
from chiron.providers.local import worker
from chiron.providers.local.backend import VLMBackend
from chiron.providers.local.checkpoint import find_checkpoint
from chiron.providers.local.dialogue import SYSTEM_MESSAGES
from chiron.providers.local.generation import Generation
from chiron.providers.local.loading import load, load_whole
from chiron.providers.local.provider import Local
from chiron.providers.registry import RoleCall, build_endpoints, probe
from tests.providers.local.checkpoints import a_call, ask, config_of, write_internvl, write_pictures, write_qwen
from tests.support.runs import execute
from tests.support.waiting import PATIENCE, wait_until
from tests.training.tiny import tiny_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_internvl(tmp_path_factory.mktemp("tiny-internvl"))


def outcomes(provider: Local, *calls: Call) -> list[Reply | BaseException]:
    async def together() -> list[Reply | BaseException]:
        try:
            return await asyncio.gather(*(provider.complete(call) for call in calls), return_exceptions=True)
        finally:
            await provider.close()

    return asyncio.run(together())


def test_calls_made_together_are_answered_as_each_alone_would_be(checkpoint: Path, tmp_path: Path) -> None:
    store, pictures = write_pictures(tmp_path, 2)
    calls = [a_call(*pictures[:n], "What is it?", temperature=t, draw=d) for n in (0, 1, 2) for t in (0.0, 0.7) for d in (0, 1)]
    provider = Local("m", config_of(checkpoint, batch=5), store)
    together = ask(provider, *calls)
    # The model was freed by closing; another call loads it again.
    alone = [ask(provider, call)[0] for call in calls[2::4]]
    assert [r.text for r in together[2::4]] == [r.text for r in alone]
    assert all(r.served_by == checkpoint.name and r.finish == "length" and r.usage.completion_tokens == 12 for r in together)
    assert [r.usage.prompt_tokens for r in together[2::4]] == [r.usage.prompt_tokens for r in alone]


def test_generating_uses_no_argument_that_this_transformers_deprecates(checkpoint: Path, tmp_path: Path) -> None:
    store, pictures = write_pictures(tmp_path, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        [reply] = ask(Local("m", config_of(checkpoint), store), a_call(*pictures, "What is it?"))
    assert reply.usage.completion_tokens == 12


def test_calls_that_show_the_same_images_go_together(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, pictures = write_pictures(tmp_path, 2)
    admitted: list[list[int]] = []
    admit = Generation.admit

    def watched(self: Generation, requests: Any) -> Any:
        admitted.append([[p.sha256 for p in pictures].index(r.prompt.images[0].key[0]) for r in requests])
        return admit(self, requests)

    monkeypatch.setattr(Generation, "admit", watched)
    calls = [a_call(pictures[n % 2], "What is it?", temperature=0.7, draw=n) for n in range(8)]
    ask(Local("m", config_of(checkpoint, batch=4), store), *calls)
    assert [batch for batch in admitted if batch] == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_the_identity_names_the_weights_and_what_shapes_replies(checkpoint: Path, tmp_path: Path) -> None:
    def identity(folder: Path, **changes: Any) -> str:
        return Local("m", config_of(folder, **changes), PictureStore()).identity

    first = identity(checkpoint)
    assert first.startswith("local:")
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert identity(copy) == first == identity(checkpoint, batch=2, max_tokens=7)
    assert first == identity(copy, max_tiles=6, thumbnail=True, max_tiles_per="row", system="none")
    assert first.endswith(":1:precision=auto,tiles=6,thumbnail=yes"), "ledgers of earlier versions hold replies under it"
    others: list[dict[str, Any]] = [
        {"max_tiles": 2},
        {"thumbnail": False},
        {"precision": "bf16"},
        {"max_tiles_per": "image"},
        {"system": "internvl2_5"},
    ]
    assert len({first, identity(copy, system="Be kind."), *(identity(copy, **other) for other in others)}) == 7
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert identity(copy) != first
    shutil.copy(checkpoint / "model.safetensors", weights)
    assert identity(copy) == first
    (copy / "tokenizer_config.json").write_text("{}")
    assert identity(copy) != first


def test_a_checkpoint_says_itself_how_it_is_asked(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    before = Local("m", config_of(copy), PictureStore()).identity
    said = {"max_tiles": 12, "max_tiles_per": "image", "thumbnail": False, "system": "internvl2_5"}
    (copy / "chiron.json").write_text(json.dumps(said))
    after = Local("m", config_of(copy), PictureStore())
    assert after.identity == Local("m", config_of(checkpoint, **said), PictureStore()).identity != before
    assert "12 tiles for each image" in after.asked_as.describe()
    family, _ = load(find_checkpoint(copy), config_of(copy))
    store, pictures = write_pictures(tmp_path / "images", 2)
    shown = family.prompt((Message("user", (*pictures, TextPart("Why?"))),), store)
    told = family.text(shown.ids.tolist())
    assert SYSTEM_MESSAGES["internvl2_5"] in told
    assert SYSTEM_MESSAGES["internvl2_5"] not in family.text(family.prompt(a_call("Why?", system="Be kind.").messages, store).ids.tolist())
    (copy / "chiron.json").write_text('{"max_tiles": 0}')
    with pytest.raises(InputError, match=r"chiron\.json cannot be read"):
        Local("m", config_of(copy), PictureStore())


def edited(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**settings, **config}))
    return target


def test_what_cannot_be_run_is_said_before_anything_is_asked(checkpoint: Path, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(InputError) as caught:
            Local("intern", config_of(folder), PictureStore())
        return str(caught.value)

    assert "models.intern: folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in refusal(tmp_path / "empty")
    foreign = refusal(edited(checkpoint, tmp_path / "foreign", model_type="llava"))
    assert "'llava'" in foreign
    assert all(word in foreign for word in ("internvl", "qwen2_vl", "qwen2_5_vl"))
    assert "chiron convert" in refusal(edited(checkpoint, tmp_path / "chat", model_type="internvl_chat"))
    pickled = edited(checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "convert them to safetensors" in refusal(pickled)
    (pickled / "pytorch_model.bin").unlink()
    assert "no model.safetensors" in refusal(pickled)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (pickled / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors, which is missing" in refusal(pickled)
    (pickled / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../foreign/model.safetensors"}}))
    assert "which is missing" in refusal(pickled)
    (pickled / "config.json").write_text("[")
    assert "config.json cannot be read" in refusal(pickled)
    mute = edited(checkpoint, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(mute)
    blind = edited(checkpoint, tmp_path / "blind", model_type="qwen2_vl")
    assert "no preprocessor_config.json" in refusal(blind)


def test_a_checkpoint_that_does_not_load_stops_the_run(checkpoint: Path, tmp_path: Path) -> None:
    torn = edited(checkpoint, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    failures = outcomes(Local("m", config_of(torn), PictureStore()), a_call("A"), a_call("B"))
    for failure in failures:
        assert isinstance(failure, CallerFault)
        assert failure.misconfigured
        assert "cannot be loaded" in failure.public


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Transformers would make some up, and the model would talk nonsense."""
    folder = shutil.copytree(checkpoint, tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1.mlp" not in k}, folder / "model.safetensors", metadata={"format": "pt"})
    (failure,) = outcomes(Local("m", config_of(folder), PictureStore()), a_call("Hello."))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "lacks weights" in str(failure)
    assert "layers.1.mlp" in str(failure)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"image_token_id": 5}, "image token is"), ({"text_config": {"vocab_size": 100}}, "100 rows of the model's embedding")],
)
def test_another_models_tokenizer_is_refused(checkpoint: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    settings = json.loads((folder / "config.json").read_text())
    for key, value in change.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(settings))
    if "text_config" in change:
        cut = {
            k: v[:100].contiguous() if "embed_tokens" in k or "lm_head" in k else v
            for k, v in load_file(folder / "model.safetensors").items()
        }
        save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})
    (failure,) = outcomes(Local("m", config_of(folder), PictureStore()), a_call("Hello."))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert words in str(failure)


def test_a_text_whose_tokens_the_model_does_not_know_fails_alone(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "longer")
    settings = json.loads((folder / "tokenizer.json").read_text())
    last = max(settings["added_tokens"], key=lambda token: int(token["id"]))
    settings["added_tokens"].append({**last, "id": last["id"] + 1, "content": "zebra", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    known, unknown = outcomes(Local("m", config_of(folder), PictureStore()), a_call("A horse."), a_call("A zebra."))
    assert isinstance(known, Reply)
    assert isinstance(unknown, CallerFault)
    assert not unknown.misconfigured
    assert "rows of the model's embedding" in str(unknown)


@pytest.mark.parametrize("change", [{"patch_size": 8}, {"merge_size": 4}, {"temporal_patch_size": 1}])
def test_an_image_processor_that_cuts_other_patches_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    folder = write_qwen(tmp_path / "qwen", "qwen2_vl")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **change}))
    (failure,) = outcomes(Local("m", config_of(folder), PictureStore()), a_call("Hello."))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert f"{next(iter(change))} in preprocessor_config.json is" in str(failure)


def test_image_settings_of_another_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.5, 0.5, 0.5]}))
    with pytest.raises(InputError, match=r"image_std in preprocessor_config\.json is \[0\.5, 0\.5, 0\.5\]"):
        Local("m", config_of(folder), PictureStore())


def test_a_call_that_cannot_be_read_fails_alone(checkpoint: Path, tmp_path: Path) -> None:
    store, (gone, fine) = write_pictures(tmp_path, 2)
    store.path(gone.sha256).unlink()
    good = a_call(fine, "What is it?")
    calls = [good, a_call(gone, "What is it?"), a_call("x" * 2100), a_call("half \ud83d"), a_call(ImagePart("0" * 64, 32))]
    reply, missing, long, half, unknown = outcomes(Local("m", config_of(checkpoint), store), *calls)
    assert isinstance(reply, Reply)
    assert isinstance(missing, CallerFault)
    assert "can no longer be read" in str(missing)
    assert isinstance(long, CallerFault)
    assert "2048" in str(long)
    assert "up to 12" in str(long)
    assert isinstance(half, CallerFault)
    assert "half a character" in str(half)
    assert isinstance(unknown, CallerFault)
    assert "no image" in str(unknown)


def test_without_memory_for_all_there_are_fewer_at_once(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, pictures = write_pictures(tmp_path, 1)
    calls = [a_call(pictures[0], "What is it?", temperature=0.7, draw=n) for n in range(7)]
    provider = Local("m", config_of(checkpoint), store)
    expected = [reply.text for reply in ask(provider, *calls)]
    run, rows = VLMBackend.run, []

    def tight(self: VLMBackend, embeddings: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(len(embeddings))
        if len(embeddings) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, embeddings, *others)

    monkeypatch.setattr(VLMBackend, "run", tight)
    room = 2
    assert [reply.text for reply in ask(provider, *calls)] == expected
    assert max(rows) == 7
    assert rows[-1] <= 2
    room = 0
    (failure,) = outcomes(provider, calls[0])
    assert isinstance(failure, Transient)
    assert "out of memory for a single call: lower" in failure.public


def test_a_fault_of_the_model_fails_the_calls_pending_and_no_others(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = VLMBackend.run
    broken = [True]

    def faulty(self: VLMBackend, *given: Any) -> torch.Tensor:
        if broken:
            broken.clear()
            raise RuntimeError("a secret of the case")
        return run(self, *given)

    monkeypatch.setattr(VLMBackend, "run", faulty)

    async def main() -> tuple[BaseException | None, Reply]:
        provider = Local("m", config_of(checkpoint), PictureStore())
        try:
            with pytest.raises(CallFailed) as caught:
                await provider.complete(a_call("A"))
            return caught.value, await provider.complete(a_call("A"))
        finally:
            await provider.close()

    failure, reply = asyncio.run(main())
    assert isinstance(failure, Transient)
    assert failure.public == "m: RuntimeError during generation"
    assert len(reply.text) > 0


def test_a_call_whose_numbers_go_astray_fails_alone(checkpoint: Path, tmp_path: Path) -> None:
    astray = shutil.copytree(checkpoint, tmp_path / "astray")
    weights = load_file(astray / "model.safetensors")
    (z,) = tiny_tokenizer().encode("Z")
    (embeddings,) = (name for name in weights if name.endswith("embed_tokens.weight"))
    weights[embeddings][z] = torch.nan
    save_file(weights, astray / "model.safetensors", {"format": "pt"})
    good = [a_call(letter, temperature=t) for letter in "ABC" for t in (0.0, 0.7)]
    (expected, broken) = (outcomes(Local("m", config_of(folder), PictureStore()), *good, a_call("Z")) for folder in (checkpoint, astray))
    assert [isinstance(outcome, Reply) for outcome in broken] == [True] * 6 + [False]
    assert [reply.text for reply in broken[:6]] == [reply.text for reply in expected[:6]]  # type: ignore[union-attr]
    assert isinstance(broken[6], CallerFault)
    assert "are not finite" in broken[6].public


def test_a_reply_that_cannot_be_told_takes_none_back_that_was(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, told = VLMBackend.text, []

    def once(self: VLMBackend, ids: Any) -> str:
        told.append(1)
        if len(told) == 2:
            raise UnicodeError("a secret of the case")
        return text(self, ids)

    monkeypatch.setattr(VLMBackend, "text", once)

    async def main() -> tuple[list[Reply | BaseException], Reply]:
        provider = Local("m", config_of(checkpoint), PictureStore())
        try:
            first = await asyncio.gather(*(provider.complete(a_call(letter)) for letter in "ABC"), return_exceptions=True)
            return first, await provider.complete(a_call("B"))
        finally:
            await provider.close()

    (a, b, c), again = asyncio.run(main())
    assert isinstance(a, Reply)
    for failure in (b, c):
        assert isinstance(failure, Transient)
        assert failure.public == "m: UnicodeError during generation"
    assert len(again.text) > 0


def test_where_even_the_recovery_fails_nobody_is_left_waiting(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(*_: Any) -> None:
        raise RuntimeError("an error of the device")

    with monkeypatch.context() as patched:
        patched.setattr(VLMBackend, "run", full)
        patched.setattr(VLMBackend, "forget", broken)
        provider = Local("m", config_of(checkpoint), PictureStore())
        failures = outcomes(provider, a_call("A"), a_call("B"))
    assert [type(failure) for failure in failures] == [Transient] * 2
    assert all("RuntimeError" in str(failure) for failure in failures)
    assert isinstance(outcomes(provider, a_call("A"))[0], Reply)


def test_what_was_too_much_together_is_tried_in_halves_and_then_together_again(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, rows, room = VLMBackend.run, list[int](), [3]

    def tight(self: VLMBackend, embeddings: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(len(embeddings))
        if len(embeddings) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, embeddings, *others)

    monkeypatch.setattr(VLMBackend, "run", tight)
    monkeypatch.setattr(worker, "_GATHER", 0.5)  # on a busy machine six calls take longer to be made

    async def main() -> tuple[list[Reply], list[Reply]]:
        provider = Local("m", config_of(checkpoint), PictureStore())
        try:
            first = await asyncio.gather(*(provider.complete(a_call(letter, max_tokens=3)) for letter in "ABCDEF"))
            assert max(rows) == 6
            assert rows[-1] <= 3
            # Only a worker without work forgets what was too much.
            await asyncio.to_thread(wait_until, lambda: provider._worker._most == provider._worker._batch)
            rows.clear()
            room[0] = 6
            return first, await asyncio.gather(*(provider.complete(a_call(letter, max_tokens=3)) for letter in "ABCDEF"))
        finally:
            await provider.close()

    first, second = asyncio.run(main())
    assert [reply.text for reply in first] == [reply.text for reply in second]
    assert max(rows) == 6


def test_a_closing_that_is_cancelled_closes_all_the_same(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, entered, go_on = VLMBackend.run, threading.Event(), threading.Event()

    def slow(self: VLMBackend, *given: Any) -> torch.Tensor:
        entered.set()
        assert go_on.wait(PATIENCE)
        return run(self, *given)

    monkeypatch.setattr(VLMBackend, "run", slow)

    async def main() -> Reply:
        provider = Local("m", config_of(checkpoint), PictureStore())
        asked = asyncio.create_task(provider.complete(a_call("A")))
        await asyncio.to_thread(entered.wait, PATIENCE)
        closing = asyncio.create_task(provider.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert closing.cancelled()
        with pytest.raises(Transient, match="closing"):
            await provider.complete(a_call("B"))
        go_on.set()
        with pytest.raises(Transient, match="closed before"):
            await asked
        try:
            return await provider.complete(a_call("B"))
        finally:
            await provider.close()

    assert len(asyncio.run(main()).text) > 0


def test_closing_ends_what_is_pending(checkpoint: Path) -> None:
    async def main() -> None:
        provider = Local("m", config_of(checkpoint), PictureStore())
        asked = asyncio.create_task(provider.complete(a_call("A", max_tokens=2000)))
        await asyncio.sleep(0.5)
        await provider.close()
        with pytest.raises(Transient, match="closed"):
            await asked

    asyncio.run(main())


def test_entries_of_one_checkpoint_share_one_model(checkpoint: Path) -> None:
    models = {
        "short": config_of(checkpoint, max_tokens=8),
        "long": config_of(checkpoint / ".." / checkpoint.name),
        "coarse": config_of(checkpoint, max_tiles=1),
    }
    endpoints = build_endpoints(models, pictures=PictureStore(), answers=lambda: AnswerPool(()))
    assert endpoints["short"].provider is endpoints["long"].provider
    assert endpoints["short"].limiter is endpoints["long"].limiter
    assert endpoints["coarse"].provider is not endpoints["short"].provider
    assert [models[name].token_limit(100) for name in models] == [8, 100, 100]


def test_the_doctor_says_what_is_there(checkpoint: Path, tmp_path: Path) -> None:
    async def look(config: LocalModel) -> list[tuple[str, bool | None, str]]:
        return [(f.what, f.ok, f.detail) async for f in probe("m", config, [RoleCall("model", 1, 16, system=False, temperature=0.0)])]

    there, asked = asyncio.run(look(config_of(checkpoint)))
    assert there[:2] == ("checkpoint", True)
    assert "InternVL" in there[2]
    assert "asked with up to 6 tiles for all images of a call together" in there[2]
    assert "GB" in there[2]
    assert asked[:2] == ("image", True)
    ((what, ok, detail),) = asyncio.run(look(config_of(tmp_path / "nowhere")))
    assert (what, ok) == ("checkpoint", False)
    assert "nowhere" in detail


def team(path: str, **search: Any) -> dict[str, Any]:
    return {
        "models": {
            "findings": {"provider": "offline", "model": "extractive/findings-first"},
            "history": {"provider": "offline", "model": "extractive/history-first"},
            "tiny": {"provider": "local", "path": path, "device": "cpu", "max_tokens": 12, "max_tiles": 1},
            "match": {"provider": "offline", "model": "match/normalised"},
        },
        "search": {"mentors": ["findings", "history"], "interns": ["tiny"], "judge": "match", "restarts": 0, "depth": 2, **search},
    }


def test_a_path_is_found_from_the_configuration_file_and_costs_nothing(checkpoint: Path) -> None:
    config = check_config(team(checkpoint.name, budget_usd=1.0), origin=checkpoint.parent / "search.yaml")
    model = config.models["tiny"]
    assert isinstance(model, LocalModel)
    assert Path(model.path) == checkpoint
    with pytest.raises(InputError, match=r"unknown key 'models.tiny.max_tile'; did you mean 'max_tiles'"):
        data = team("x")
        data["models"]["tiny"]["max_tile"] = 3
        check_config(data, origin=Path("search.yaml"))


def test_a_search_with_interns_in_this_process(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = write_sample(tmp_path / "world", count=3, size=48)
    config = check_config(team(str(checkpoint), image_side=48), origin=tmp_path / "search.yaml")
    summary = execute(sample.cases, config, tmp_path / "run")
    assert summary.total == 3
    assert summary.pending == summary.bad == 0
    assert summary.halted is None
    asked = {s.model: s for s in summary.spending}
    assert asked["tiny"].calls > 6

    def never(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(VLMBackend, "run", never)
    again = execute(sample.cases, config, tmp_path / "run")
    assert (again.total, again.unsolved, again.rejected, again.retained) == (3, summary.unsolved, summary.rejected, summary.retained)


def test_models_that_are_loaded_at_once_leave_transformers_as_it_was() -> None:
    """It replaces a method while it loads. Two overlapping loads would leave the replacement, and tied weights would be missing later."""
    from transformers import PreTrainedModel
    from transformers.initialization import no_tie_weights

    before = PreTrainedModel.tie_weights
    both, first_left, entered = threading.Barrier(2), threading.Event(), []

    class Loading:
        @staticmethod
        def from_pretrained(_source: str, **_settings: Any) -> tuple[str, dict[str, list[str]]]:
            with no_tie_weights():
                entered.append("model")
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.5)
                if len(entered) > 1:
                    first_left.wait(0.5)
                    return "later", {"missing_keys": [], "mismatched_keys": []}
            first_left.set()
            return "first", {"missing_keys": [], "mismatched_keys": []}

    threads = [threading.Thread(target=load_whole, args=(Loading, "folder")) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(entered) == 2
        assert PreTrainedModel.tie_weights is before
    finally:
        PreTrainedModel.tie_weights = before  # type: ignore[method-assign]
