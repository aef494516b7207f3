"""Requests, results and images in the form of each provider's batch API, checked against the providers' own packages where installed."""

import asyncio
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from chiron.client.call import Call, ImagePart, Message, Reply, TextPart
from chiron.client.client import ModelClient
from chiron.client.config import OpenAIModel
from chiron.client.failures import CallerFault, RunStopped, Transient
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.client.provider import BuildContext
from chiron.errors import InputError
from chiron.mics.config import load_config
from chiron.providers.batch_api import BatchApi
from chiron.providers.openai_provider import OpenAIProvider
from tests.client.test_batch import PRICE, QUICK, answer, asked, calls, expected, open_client, stopped, texts, with_an_open_batch
from tests.support.batch_endpoint import BatchEndpoint
from tests.support.calls import a_call
from tests.support.cases import write_png
from tests.support.runs import config_of, team, write_config

BASES = {"openai": "http://x/v1", "anthropic": "http://x/v1", "gemini": "http://x/v1beta/openai"}
SYSTEM = Message("system", (TextPart("be brief"),))


def say_ok(_: dict[str, Any]) -> str:
    return "ok"


def image_of(folder: Path, pictures: PictureStore) -> ImagePart:
    path = write_png(folder / "x.png", size=(64, 64))
    digest = sha256(path.read_bytes()).hexdigest()
    pictures.add(digest, path)
    return ImagePart(digest, 512)


def image_calls(picture: ImagePart, count: int) -> list[Call]:
    """Calls that show the same image."""
    message = Message("user", (picture, TextPart("why?")))
    return [replace(a_call(draw=number, max_tokens=8), messages=(SYSTEM, message)) for number in range(count)]


def client_with_image(folder: Path, server: BatchEndpoint, batch: dict[str, Any], **model: Any) -> tuple[ModelClient, ImagePart]:
    pictures = PictureStore()
    picture = image_of(folder, pictures)
    form = {} if "files" in batch else {"form": server.name}
    values = {"provider": "openai", "base_url": server.base_url, "model": "m", "batch": {**QUICK, **form, **batch}, **model}
    endpoint = OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(pictures))
    return ModelClient({"m": endpoint}, Ledger.open(folder / "ledger.sqlite")), picture


def service_of(form: str, tmp_path: Path, **model: Any) -> tuple[BatchApi, Call]:
    """A batch API that is not asked, and a call with a system text and an image."""
    pictures = PictureStore()
    picture = image_of(tmp_path, pictures)
    batch = model.pop("batch", {})
    values = {"provider": "openai", "base_url": BASES[form], "model": "m", "batch": {"form": form, **batch}, **model}
    endpoint = OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(pictures))
    assert endpoint.batch is not None
    assert isinstance(endpoint.batch.service, BatchApi)
    return endpoint.batch.service, image_calls(picture, 1)[0]


def line_of(form: str, tmp_path: Path, **model: Any) -> dict[str, Any]:
    service, call = service_of(form, tmp_path, **model)
    line = json.loads(asyncio.run(service.request(call)))
    assert line["key" if form == "gemini" else "custom_id"] == call.key
    assert isinstance(line, dict)
    return line


def read(form: str, tmp_path: Path, line: dict[str, Any]) -> Reply:
    service, call = service_of(form, tmp_path)
    return service.read(call, json.dumps(line).encode())


def test_anthropic_gets_messages_with_a_separate_system_text_and_image_sources(tmp_path: Path) -> None:
    params = line_of("anthropic", tmp_path, parameters={"thinking": {"type": "adaptive"}})["params"]
    image, text = params["messages"][0].pop("content")
    assert image["source"].pop("data").startswith("iVBOR")
    assert image == {"type": "image", "source": {"type": "base64", "media_type": "image/png"}}
    assert text == {"type": "text", "text": "why?"}
    assert params == {
        "model": "m",
        "max_tokens": 8,
        "messages": [{"role": "user"}],
        "system": "be brief",
        "temperature": 0.2,
        "thinking": {"type": "adaptive"},
    }
    assert "temperature" not in line_of("anthropic", tmp_path, temperature=False)["params"], "newer models refuse it"


def test_gemini_gets_contents_with_a_system_instruction_and_inline_data(tmp_path: Path) -> None:
    own = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}, "safetySettings": []}
    request = line_of("gemini", tmp_path, batch={"parameters": own})["request"]
    image, text = request["contents"][0].pop("parts")
    assert image["inlineData"].pop("data").startswith("iVBOR")
    assert image == {"inlineData": {"mimeType": "image/png"}}
    assert text == {"text": "why?"}
    assert request == {
        "contents": [{"role": "user"}],
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "generationConfig": {"maxOutputTokens": 8, "temperature": 0.2, "thinkingConfig": {"thinkingBudget": 0}},
        "safetySettings": [],
    }


def test_the_requests_are_those_of_anthropics_own_client(tmp_path: Path) -> None:
    anthropic = pytest.importorskip("anthropic")
    with BatchEndpoint(say_ok, form="anthropic") as server:
        client, picture = client_with_image(tmp_path, server, {})
        replies = asked(client, image_calls(picture, 2))
        assert texts(replies) == ["ok", "ok"]
        with anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="none") as theirs:
            requests = [json.loads(line) for line in server.uploaded[0].splitlines()]
            made = theirs.messages.batches.create(requests=requests)
            assert [batch.id for batch in theirs.messages.batches.list()] == [made.id], "ours was deleted once it was collected"
            while theirs.messages.batches.retrieve(made.id).processing_status != "ended":
                pass
            lines = server.files[made.id].splitlines()
    assert server.uploaded[1] == server.uploaded[0]
    _accepts(anthropic.types.messages.batch_create_params.Request, requests[0])
    for line, reply in zip(lines, replies, strict=True):
        response = anthropic.types.messages.MessageBatchIndividualResponse.model_validate_json(line)
        assert isinstance(reply, Reply)
        assert response.result.message.content[0].text == reply.text
        assert response.result.message.usage.input_tokens == reply.usage.prompt_tokens


def _accepts(kind: Any, value: Any) -> None:
    """Check a request against the annotations of a package, with every list read to its end and no key that it does not know."""
    pydantic = pytest.importorskip("pydantic")
    kinds = pytest.importorskip("anthropic").types
    assert pydantic.TypeAdapter(kind).validate_python(value)
    params = value["params"]
    # The package is of an API version without temperature; the version that we name has it.
    assert set(params) - {"temperature"} <= set(kinds.message_create_params.MessageCreateParamsNonStreaming.__annotations__)
    for message in params["messages"]:
        assert set(message) == {"role", "content"}
        for block in message["content"]:
            known = {"text": kinds.TextBlockParam, "image": kinds.ImageBlockParam}[block["type"]]
            assert pydantic.TypeAdapter(known).validate_python(block) == block


@pytest.mark.parametrize(
    "source",
    [{"type": "file", "file_id": "file_1"}, {"type": "url", "url": "https://x/y.png"}],
)
def test_anthropics_own_types_have_our_sources_of_images(source: dict[str, str]) -> None:
    kinds = pytest.importorskip("anthropic").types
    pydantic = pytest.importorskip("pydantic")
    block = {"type": "image", "source": source}
    assert pydantic.TypeAdapter(kinds.ImageBlockParam).validate_python(block) == block


def test_googles_own_types_have_our_references_to_images() -> None:
    types = pytest.importorskip("google.genai.types")
    part = types.Part.model_validate({"fileData": {"mimeType": "image/png", "fileUri": "https://x/v1beta/files/y"}})
    assert part == types.Part.from_uri(file_uri="https://x/v1beta/files/y", mime_type="image/png")


def test_the_requests_are_those_of_googles_own_client(tmp_path: Path) -> None:
    genai = pytest.importorskip("google.genai")
    batches = pytest.importorskip("google.genai.batches")
    with BatchEndpoint(say_ok, form="gemini") as server:
        client, picture = client_with_image(tmp_path, server, {})
        replies = asked(client, image_calls(picture, 2))
        assert texts(replies) == ["ok", "ok"]
        options = {"base_url": server.base_url.removesuffix("/v1beta/openai"), "api_version": "v1beta"}
        theirs = genai.Client(api_key="none", http_options=options)
        requests = tmp_path / "requests.jsonl"
        requests.write_bytes(server.uploaded[0])
        name = server.forms[0]["file"]
        file = theirs.files.upload(file=requests, config={"display_name": name, "mime_type": "application/jsonl"})
        made = theirs.batches.create(model="m", src=file.name, config={"display_name": server.orders[0]["displayName"]})
        while (job := theirs.batches.get(name=made.name)).state.name != "JOB_STATE_SUCCEEDED":
            pass
        lines = theirs.files.download(file=job.dest.file_name).splitlines()
        assert next(entry.name for entry in theirs.batches.list()) == made.name
    assert server.uploaded[1] == server.uploaded[0]
    assert server.orders[1] == {**server.orders[0], "inputConfig": {"fileName": file.name}}
    for line, reply in zip(lines, replies, strict=True):
        response = genai.types.GenerateContentResponse._from_response(response=json.loads(line)["response"], kwargs={})
        assert isinstance(reply, Reply)
        assert response.text == reply.text
        assert response.usage_metadata.prompt_token_count == reply.usage.prompt_tokens
    ours = json.loads(server.uploaded[0].splitlines()[0])["request"]
    theirs.close()
    image = genai.types.Part.from_bytes(data=(tmp_path / "x.png").read_bytes(), mime_type="image/png")
    content = genai.types.Content(role="user", parts=[image, genai.types.Part(text="why?")])
    config = genai.types.GenerateContentConfig(temperature=0.2, max_output_tokens=8, system_instruction="be brief")
    # The package's types refuse keys that they do not know.
    assert [genai.types.Content.model_validate_json(json.dumps(entry)) for entry in ours["contents"]] == [content]
    assert genai.types.Content.model_validate(ours["systemInstruction"]).parts == [genai.types.Part(text="be brief")]
    inlined = genai.types.InlinedRequest(contents=[content], config=config)
    written = batches._InlinedRequest_to_mldev(theirs._api_client, inlined)["request"]
    assert written["generationConfig"] == ours["generationConfig"]
    assert set(written) == set(ours)


@pytest.mark.parametrize(
    ("form", "line", "text", "finish", "tokens"),
    [
        (
            "anthropic",
            {"result": {"type": "succeeded", "message": {
                "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a"}],
                "stop_reason": "max_tokens", "model": "claude",
                "usage": {"input_tokens": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3, "output_tokens": 7},
            }}},
            "a", "length", (28, 7, 20),
        ),
        (
            "gemini",
            {"response": {
                "candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {"text": "a"}]}, "finishReason": "MAX_TOKENS"}],
                "usageMetadata": {"promptTokenCount": 28, "cachedContentTokenCount": 20, "candidatesTokenCount": 3,
                                  "thoughtsTokenCount": 4, "totalTokenCount": 35},
                "modelVersion": "gemini",
            }},
            "a", "length", (28, 7, 20),
        ),
    ],
)  # fmt: skip
def test_results_are_read_with_thinking_and_cached_tokens(
    tmp_path: Path, form: str, line: dict[str, Any], text: str, finish: str, tokens: tuple[int, int, int]
) -> None:
    reply = read(form, tmp_path, line)
    assert (reply.text, reply.finish) == (text, finish)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == tokens
    assert reply.raw is not None
    assert json.loads(reply.raw) in (line.get("response"), line.get("result", {}).get("message"))


def anthropic_error(kind: str) -> dict[str, Any]:
    return {"result": {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": "out of luck"}}}}


@pytest.mark.parametrize(
    ("form", "line", "failure", "billed"),
    [
        ("anthropic", {"result": {"type": "expired"}}, Transient, False),
        ("anthropic", {"result": {"type": "canceled"}}, Transient, False),
        ("anthropic", anthropic_error("overloaded_error"), Transient, False),
        ("anthropic", anthropic_error("invalid_request_error"), CallerFault, False),
        ("anthropic", {"result": {"type": "succeeded", "message": {"content": [], "stop_reason": "refusal"}}}, CallerFault, True),
        ("anthropic", {}, Transient, False),
        ("gemini", {"error": {"code": 13, "message": "out of luck"}}, Transient, False),
        ("gemini", {"error": {"code": 3, "message": "out of luck"}}, CallerFault, False),
        ("gemini", {"response": {"promptFeedback": {"blockReason": "SAFETY"}}}, CallerFault, True),
        ("gemini", {"response": {"candidates": [{"finishReason": "RECITATION"}]}}, CallerFault, True),
        ("gemini", {"response": {}}, Transient, True),
        ("gemini", {}, Transient, True),
    ],
)
def test_results_without_an_answer_fail_and_say_whether_they_may_cost(
    tmp_path: Path, form: str, line: dict[str, Any], failure: type[Exception], billed: bool
) -> None:
    with pytest.raises(failure) as caught:
        read(form, tmp_path, line)
    assert getattr(caught.value, "maybe_billed", None) is billed


def test_a_lost_batch_of_anthropics_is_told_from_others_by_its_calls(tmp_path: Path) -> None:
    """Somebody else creates a batch of the same size while ours is created, and both answers look alike in the list."""
    with BatchEndpoint(answer, form="anthropic", running=True) as server:
        client = open_client(tmp_path, server, budget=1000.0, price=PRICE)
        queue = client.endpoints["m"].batch
        assert queue is not None
        service = queue.service
        assert isinstance(service, BatchApi)
        real = service.create

        async def interrupted(batch: Any) -> None:
            await real(batch)
            raise RunStopped("killed")

        service.create = interrupted  # type: ignore[method-assign]
        asked(client, calls(3))
        (tmp_path / "other").mkdir()
        others = [a_call(f"other {number}", max_tokens=4) for number in range(3)]
        stopped(open_client(tmp_path / "other", server), others, lambda: len(server.batches) == 2)
        server.running = False
        assert texts(asked(open_client(tmp_path, server, budget=1000.0, price=PRICE), calls(3))) == expected(3)
        assert len(server.batches) == 2
        assert texts(asked(open_client(tmp_path / "other", server), others)) == [f"re: other {number}" for number in range(3)]
    assert set(server.replied.values()) == {1}


def test_results_that_anthropic_has_deleted_are_asked_for_again_and_may_have_cost(tmp_path: Path) -> None:
    with BatchEndpoint(answer, form="anthropic", running=True) as server:
        with_an_open_batch(tmp_path, server, budget=100.0, price=PRICE)
        server.batches["batch_0"]["status"] = "archived"  # 29 days later
        assert texts(asked(open_client(tmp_path, server, budget=100.0, price=PRICE), calls(2))) == expected(2)
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.possibly_spent_usd() == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("form", ["anthropic", "gemini"])
def test_images_are_uploaded_once_and_deleted_at_the_end(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(say_ok, form=form) as server:
        client, picture = client_with_image(tmp_path, server, {"images": "file", "max_requests": 3})
        assert texts(asked(client, image_calls(picture, 9))) == ["ok"] * 9
        inline, _ = client_with_image(tmp_path, server, {})
        images = [upload for upload in server.forms if "image" in str(upload) or "png" in str(upload)]
    assert len(images) == 1
    assert len(server.batches) == 3
    assert not any(b"iVBOR" in data for data in server.uploaded)
    sources = {json.dumps(source) for data in server.uploaded for source in _sources(form, data)}
    assert len(sources) == 1
    assert not server.files, "images are data of patients"
    assert not list((tmp_path / "batches").iterdir())
    assert "refer to their images" in client.notes["images m"]
    queue = client.endpoints["m"].batch
    assert queue is not None
    full = len(asyncio.run(inline.endpoints["m"].batch.service.request(image_calls(picture, 1)[0])))  # type: ignore[union-attr]
    short = len(server.uploaded[0].splitlines()[0])
    assert abs(9 * (full - short) - queue.service.saved_bytes) < 9 * 100, "what the requests would be longer, but for their JSON"
    inline.ledger.close()


def _sources(form: str, data: bytes) -> list[Any]:
    lines = [json.loads(line) for line in data.splitlines()]
    if form == "gemini":
        return [line["request"]["contents"][0]["parts"][0] for line in lines]
    return [line["params"]["messages"][0]["content"][0]["source"] for line in lines]


@pytest.mark.parametrize("form", ["anthropic", "gemini"])
def test_an_image_whose_id_was_lost_is_found_and_not_uploaded_again(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(say_ok, form=form) as server:
        client, picture = client_with_image(tmp_path, server, {"images": "file"})
        service = client.endpoints["m"].batch.service  # type: ignore[union-attr]
        assert isinstance(service, BatchApi)
        assert service.uploads is not None
        real = service.uploads._upload

        async def interrupted(*file: Any) -> str:
            await real(*file)
            raise RunStopped("killed")

        service.uploads._upload = interrupted
        service.discard_images = RunStopped  # type: ignore[assignment]
        assert isinstance(asked_but_killed(client, image_calls(picture, 1))[0], RunStopped)
        assert len(server.files) == 1
        later, _ = client_with_image(tmp_path, server, {"images": "file"})
        assert texts(asked(later, image_calls(picture, 1))) == ["ok"]
        assert len(server.names) == (3 if form == "gemini" else 2), "an image, and the requests (and their results)"
        assert not server.files


def asked_but_killed(client: ModelClient, wanted: list[Call]) -> list[Reply | BaseException]:
    """Ask all calls, and end as a killed process does: without deleting anything at the provider."""

    async def main() -> list[Reply | BaseException]:
        try:
            return await asyncio.gather(*map(client.ask, wanted), return_exceptions=True)
        finally:
            await client.endpoints["m"].provider.close()
            client.ledger.close()

    return asyncio.run(main())


def test_an_image_that_gemini_may_delete_during_a_batch_is_uploaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiron.providers.gemini_batch.GeminiBatches.image_hours", 0.0)
    with BatchEndpoint(say_ok, form="gemini") as server:
        client, picture = client_with_image(tmp_path, server, {"images": "file"})
        assert texts(asked(client, image_calls(picture, 2))) == ["ok", "ok"]
        assert len({json.dumps(source) for source in _sources("gemini", server.uploaded[0])}) == 2
        assert not server.files, "also the older copy is deleted"


@pytest.mark.parametrize("form", ["anthropic", "gemini"])
def test_images_that_the_provider_does_not_delete_now_are_deleted_by_the_next_run(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with BatchEndpoint(say_ok, form=form) as server:
        server.delete_status = 500
        client, picture = client_with_image(tmp_path, server, {"images": "file"})
        assert texts(asked(client, image_calls(picture, 1))) == ["ok"]
        assert "images of model 'm' could not be deleted at the provider" in caplog.text
        server.delete_status = 200
        asked(client_with_image(tmp_path, server, {"images": "file"})[0], [])
        assert not server.files


@pytest.mark.parametrize("form", ["anthropic", "gemini"])
def test_images_stay_at_the_provider_as_long_as_a_batch_needs_them(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(say_ok, form=form, running=True) as server:
        client, picture = client_with_image(tmp_path, server, {"images": "file"})
        stopped(client, image_calls(picture, 1), lambda: bool(server.batches))
        assert any(b"PNG" in data for data in server.files.values())
        server.running = False
        later, _ = client_with_image(tmp_path, server, {"images": "file"})
        assert texts(asked(later, image_calls(picture, 1))) == ["ok"]
        assert not server.files


@pytest.mark.parametrize("form", ["openai", "anthropic", "gemini"])
def test_images_can_be_links_to_a_folder_that_the_user_publishes(tmp_path: Path, form: str) -> None:
    links = {"folder": str(tmp_path / "published"), "url": "https://example.org/images/"}
    with BatchEndpoint(say_ok, form=form) as server:
        client, picture = client_with_image(tmp_path, server, {"images": links})
        assert texts(asked(client, image_calls(picture, 3))) == ["ok"] * 3
    (image,) = (tmp_path / "published").iterdir()
    assert image.name == f"{picture.sha256}-512.png"
    assert image.read_bytes() == (tmp_path / "x.png").read_bytes()
    for line in server.uploaded[0].splitlines():
        assert f'"https://example.org/images/{image.name}"'.encode() in line
    assert len(server.uploaded[0]) < 3 * 1000


def test_files_for_vllm_can_link_to_images_on_its_disk(tmp_path: Path) -> None:
    links = {"folder": str(tmp_path / "pictures"), "url": f"file://{tmp_path}/pictures"}
    with BatchEndpoint(say_ok) as server:
        client, picture = client_with_image(tmp_path, server, {"files": str(tmp_path / "files"), "images": links}, base_url="")
        stopped(client, image_calls(picture, 1), lambda: bool(list(tmp_path.glob("files/*.input.jsonl"))))
    (written,) = tmp_path.glob("files/*.input.jsonl")
    assert f"file://{tmp_path}/pictures/{picture.sha256}-512.png" in written.read_text()


def test_the_form_and_its_limits_follow_from_the_address() -> None:
    def settings(base_url: str, **batch: Any) -> tuple[str, int, float, float]:
        values = {"provider": "openai", "base_url": base_url, "model": "m", "batch": batch or True, "price": {"input": 8.0, "output": 10.0}}
        model = OpenAIModel.model_validate(values)
        assert model.batches is not None
        assert model.call_price is not None
        return model.batches.form, model.batches.max_requests, model.batches.max_megabytes, model.call_price.input

    assert settings("https://api.anthropic.com/v1/") == ("anthropic", 100_000, 256.0, 4.0)
    assert settings("https://generativelanguage.googleapis.com/v1beta/openai/") == ("gemini", 50_000, 2000.0, 4.0)
    assert settings("https://gateway.example.org/v1") == ("openai", 50_000, 200.0, 8.0)
    assert settings("https://gateway.example.org/v1", form="anthropic", max_requests=7) == ("anthropic", 7, 256.0, 8.0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch": {"parameters": {"a": 1}}}, "write them to the model's parameters"),
        ({"batch": {"images": "file"}}, "chat completions take no IDs"),
        ({"batch": {"form": "anthropic", "files": "x"}}, "goes neither with batch.files"),
        ({"batch": {"form": "gemini"}, "parameters": {"reasoning_effort": "low"}}, "write batch.parameters as well"),
        ({"batch": {"form": "gemini", "parameters": {"contents": []}}}, "which chiron sets itself"),
        ({"batch": {"form": "gemini", "parameters": {"system_instruction": {}}}}, "which chiron sets itself"),
        ({"batch": {"form": "gemini", "parameters": {"generationConfig": {"maxOutputTokens": 9}}}}, "contains 'maxOutputTokens'"),
        ({"batch": {"form": "gemini", "parameters": {"generationConfig": {"candidate_count": 2}}}}, "contains 'candidate_count'"),
        ({"batch": {"form": "gemini", "parameters": {"generationConfig": {"seed": 1}}}}, "contains 'seed'"),
        ({"batch": {"form": "gemini", "parameters": {"generationConfig": [1]}}}, "write generationConfig as such"),
        ({"batch": {"form": "gemini", "parameters": {"generation_config": {}}}}, "write generationConfig as such"),
        ({"batch": {"images": {"folder": "x", "url": "example.org"}}}, "must be the address of the folder"),
        ({"batch": {"images": {"folder": "x", "url": "https://me:pass@example.org/x"}}}, "contains a user or password"),
    ],
)
def test_settings_that_a_form_does_not_have_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        config_of(team("http://localhost/v1", model=changes))


def test_a_folder_of_images_is_relative_to_the_configuration(tmp_path: Path) -> None:
    links = {"folder": "out", "url": "https://example.org"}
    path = write_config(tmp_path / "team.yaml", team("http://localhost/v1", model={"batch": {"images": links}}))
    model = load_config(path).models["judge"]
    assert isinstance(model, OpenAIModel)
    assert model.batches is not None
    assert model.batches.images.folder == str(tmp_path / "out")  # type: ignore[union-attr]


def test_the_keys_of_calls_do_not_depend_on_the_form() -> None:
    def identity(**model: Any) -> str:
        values = {"provider": "openai", "base_url": "http://localhost/v1beta/openai", "model": "m", **model}
        return OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(PictureStore())).provider.identity

    assert identity() == identity(batch=True) == identity(batch={"form": "gemini", "images": "file"}) == "openai:m"
    assert identity(batch={"form": "gemini", "parameters": {"safetySettings": []}}) != "openai:m", "other answers, so other calls"


def test_the_key_is_sent_in_the_providers_own_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    for form, header in (("anthropic", "x-api-key"), ("gemini", "x-goog-api-key")):
        (tmp_path / form).mkdir()
        with BatchEndpoint(answer, form=form) as server:
            assert texts(asked(open_client(tmp_path / form, server, api_key_env="SOME_KEY"), calls(1))) == expected(1)
        assert {headers.get(header) for headers in server.seen.headers} == {"sk-very-secret"}
        assert not any("Authorization" in headers for headers in server.seen.headers)
