"""Odd answers of batch APIs: nothing is created or paid for twice, and no image of a patient stays at the provider unnoticed."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from chiron.client.batch_record import Batch
from chiron.client.call import Call, ImagePart, Message, TextPart
from chiron.client.client import ModelClient
from chiron.client.config import OpenAIModel
from chiron.client.failures import CallFailed, ConfigurationError, EndpointDown, RunStopped, Transient
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.client.provider import BuildContext
from chiron.providers.batch_api import BatchApi
from chiron.providers.openai_provider import OpenAIProvider
from tests.client.test_batch import (
    PRICE,
    QUICK,
    answer,
    asked,
    calls,
    expected,
    open_client,
    over_forms,
    stopped,
    texts,
    with_an_open_batch,
)
from tests.support.batch_endpoint import BatchEndpoint, BatchFaults
from tests.support.calls import a_call
from tests.support.cases import write_png

with_uploads = pytest.mark.parametrize("form", ["anthropic", "gemini"])
with_result_files = pytest.mark.parametrize("form", ["openai", "gemini"])


def say_ok(_: dict[str, Any]) -> str:
    return "ok"


def service_of(client: ModelClient) -> BatchApi:
    queue = client.endpoints["m"].batch
    assert queue is not None
    assert isinstance(queue.service, BatchApi)
    return queue.service


def client_with_images(folder: Path, server: BatchEndpoint, count: int, **batch: Any) -> tuple[ModelClient, list[Call]]:
    """A client, and one call for each of ``count`` images."""
    pictures, wanted = PictureStore(), []
    for number in range(count):
        path = write_png(folder / f"{number}.png", size=(64, 64 + number))
        digest = sha256(path.read_bytes()).hexdigest()
        pictures.add(digest, path)
        message = Message("user", (ImagePart(digest, 512), TextPart("why?")))
        wanted.append(replace(a_call(draw=number, max_tokens=8), messages=(message,)))
    settings = {**QUICK, "form": server.name, "images": "file", **batch}
    values = {"provider": "openai", "base_url": server.base_url, "model": "m", "batch": settings}
    endpoint = OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(pictures))
    return ModelClient({"m": endpoint}, Ledger.open(folder / "ledger.sqlite")), wanted


def images_at(server: BatchEndpoint) -> list[str]:
    return [number for number, data in server.files.items() if data.startswith(b"\x89PNG")]


def record_of_images(folder: Path) -> Path:
    (path,) = (folder / "batches" / "images").glob("*.jsonl")
    return path


def made_older(path: Path, seconds: float) -> None:
    """Let the uploads in a record have begun earlier."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    path.write_text("\n".join(json.dumps(line | ({"at": line["at"] - seconds} if "at" in line else {})) for line in lines))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def losing_the_answer(service: BatchApi, server: BatchEndpoint, *, created: bool, unlisted: int) -> None:
    """Let the first creation fail, before or after the batch is created, and the next lists have no batch."""
    real = service.create

    async def lost(batch: Batch) -> object:
        if created:
            await real(batch)
        server.unlisted = unlisted
        service.create = real  # type: ignore[method-assign]
        raise Transient("the connection broke")

    service.create = lost  # type: ignore[method-assign]


@over_forms
def test_a_batch_whose_id_cannot_be_used_is_created_once_and_stops_every_run(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        server.odd_ids = True
        for _ in range(2):
            client = open_client(tmp_path, server, budget=100.0, price=PRICE, batch={"outage": 0.2})
            replies = asked(client, calls(2))
            assert all(isinstance(reply, RunStopped) for reply in replies)
            assert isinstance(client.halted, ConfigurationError)
            assert "an ID that chiron cannot use" in str(client.halted)
            assert len(server.batches) == 1
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent_usd() == pytest.approx(8.0, abs=0.1), "the provider runs it"


@with_result_files
def test_results_that_a_completed_batch_names_later_are_waited_for(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        server.late = 4
        assert texts(asked(open_client(tmp_path, server), calls(3))) == expected(3)
        assert len(server.batches) == 1
    assert server.late == 0


@with_result_files
def test_a_completed_batch_without_results_stops_the_run_and_is_not_deleted(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        server.late = 10**9
        client = open_client(tmp_path, server, budget=100.0, price=PRICE, batch={"outage": 0.1})
        asked(client, calls(2))
        assert isinstance(client.halted, EndpointDown)
        assert "its answer names no results" in str(client.halted)
        assert not server.deleted
        server.late = 0
        assert texts(asked(open_client(tmp_path, server, budget=100.0, price=PRICE), calls(2))) == expected(2)
        assert len(server.batches) == 1


@with_result_files
def test_results_whose_id_cannot_be_used_stop_the_run_and_are_not_deleted(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        with_an_open_batch(tmp_path, server)
        ((number, batch),) = server.batches.items()
        server._answer_lines(number, batch)
        name, batch["output_file_id"] = batch["output_file_id"], "files/../x?"
        client = open_client(tmp_path, server, batch={"outage": 0.2})
        asked(client, calls(2))
        assert isinstance(client.halted, ConfigurationError)
        assert "an ID that chiron cannot use" in str(client.halted)
        assert not server.deleted
        batch["output_file_id"] = name
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        assert len(server.batches) == 1


def test_results_that_gemini_names_in_the_response_are_read(tmp_path: Path) -> None:
    with BatchEndpoint(answer, form="gemini") as server:
        server.in_response = True
        assert texts(asked(open_client(tmp_path, server, batch={"outage": 0.2}), calls(3))) == expected(3)
        assert len(server.batches) == 1
        assert not server.files


@over_forms
def test_results_that_were_cut_off_are_downloaded_again(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        client = open_client(tmp_path, server)
        service = service_of(client)
        real = service.download

        async def cut(batch: Batch, to: Path) -> None:
            await real(batch, to)
            cut_off(to)
            service.download = real  # type: ignore[method-assign]

        service.download = cut  # type: ignore[method-assign]
        assert texts(asked(client, calls(3))) == expected(3)
        assert len(server.batches) == 1


def test_calls_of_a_completed_batch_without_a_result_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with BatchEndpoint(answer, batch_faults=BatchFaults(line_missing=1.0)) as server:
        replies = asked(open_client(tmp_path, server, batch={"attempts": 2}), calls(2))
    assert all(isinstance(reply, CallFailed) for reply in replies)
    assert len(server.batches) == 2
    assert "is completed, but 2 of its 2 calls have no readable result" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the names of open files")
@over_forms
def test_results_are_on_the_disk_before_the_provider_deletes_them(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def noting(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, len(server.deleted)))
        real(handle)

    monkeypatch.setattr(os, "fsync", noting)
    with BatchEndpoint(answer, form=form) as server:
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        assert server.deleted
    assert [deleted for name, deleted in synced if name.endswith(".results.jsonl.part")] == [0]
    assert [deleted for name, deleted in synced if name == "batches"] == [0]


@pytest.mark.parametrize(("code", "kept"), [(13, 1), (13, 0), (8, 0), (3, 1)])
def test_a_batch_of_gemini_that_failed_on_its_way_keeps_its_answers_and_may_have_cost(tmp_path: Path, code: int, kept: int) -> None:
    with BatchEndpoint(answer, form="gemini", running=True) as server:
        with_an_open_batch(tmp_path, server, budget=100.0, price=PRICE)
        ((number, batch),) = server.batches.items()
        server._answer_lines(number, batch)
        results = batch["output_file_id"]
        server.files[results] = b"\n".join(server.files[results].splitlines()[:kept])
        batch |= {"status": "failed", "code": code, "errors": {"data": [{"message": "no luck"}]}}
        batch["request_counts"] = {"total": 2, "completed": kept, "failed": 0}
        if not kept:
            del batch["output_file_id"], server.files[results]
        assert texts(asked(open_client(tmp_path, server, budget=100.0, price=PRICE), calls(2))) == expected(2)
        assert not server.files
    assert [len(data.splitlines()) for data in server.uploaded] == [2, 2 - kept]
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.possibly_spent_usd() == pytest.approx(4.0 * (2 - kept), abs=0.1)


@pytest.mark.parametrize("created", [True, False])
@over_forms
def test_a_batch_whose_answer_was_lost_is_looked_for_before_it_is_created_again(tmp_path: Path, form: str, created: bool) -> None:
    with BatchEndpoint(answer, form=form) as server:
        client = open_client(tmp_path, server)
        losing_the_answer(service_of(client), server, created=created, unlisted=5)
        assert texts(asked(client, calls(3))) == expected(3)
        assert server.unlisted == 0 or (form == "anthropic" and not created), "Anthropic's list is not needed before the request is sent"
        assert len(server.batches) == 1


def test_requests_that_expired_before_the_batch_was_created_are_uploaded_again(tmp_path: Path) -> None:
    def killed(*_: object) -> None:
        raise RunStopped("killed")

    with BatchEndpoint(answer, form="gemini") as server:
        client = open_client(tmp_path, server)
        service_of(client).create = killed  # type: ignore[method-assign, assignment]
        asked(client, calls(2))
        assert len(server.files) == 1
        server.files.clear()  # 48 hours later
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        assert (len(server.uploaded), len(server.batches)) == (2, 1)
        assert not server.files


@with_uploads
def test_images_that_were_deleted_are_not_asked_for_again_and_one_failure_does_not_stop_the_others(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with BatchEndpoint(say_ok, form=form, running=True) as server:
        client, wanted = client_with_images(tmp_path, server, 4)
        stopped(client, wanted, lambda: len(server.batches) == 1)
        first, *others = images_at(server)
        server.running, server.undeletable = False, {first}
        assert texts(asked(client_with_images(tmp_path, server, 4)[0], wanted)) == ["ok"] * 4
        assert list(server.files) == [first]
        assert server.deleted.count(first) == 3
        assert [server.deleted.count(other) for other in others] == [1, 1, 1]
        assert "images of model 'm' could not be deleted" in caplog.text
        server.undeletable = set()
        server.deleted.clear()
        asked(client_with_images(tmp_path, server, 4)[0], [])
        assert server.deleted == [first]
    assert not list((tmp_path / "batches").iterdir())


@with_uploads
def test_images_that_no_configured_model_owns_are_named(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    with BatchEndpoint(say_ok, form=form) as server:
        server.delete_status = 500
        client, wanted = client_with_images(tmp_path, server, 1)
        assert texts(asked(client, wanted)) == ["ok"]
        server.delete_status = 200
        path = record_of_images(tmp_path)
        asked(client_with_images(tmp_path, server, 1, images="inline")[0], [])
        assert f"{path} names images of patients" in caplog.text
        assert f"m {server.base_url}" in caplog.text
        caplog.clear()
        asked(client_with_images(tmp_path, server, 1)[0], [])
        assert "names images of patients" not in caplog.text
        assert not server.files


def test_an_image_that_gemini_deleted_during_a_batch_is_uploaded_again(tmp_path: Path) -> None:
    with BatchEndpoint(say_ok, form="gemini", running=True) as server:
        client, wanted = client_with_images(tmp_path, server, 2)
        stopped(client, wanted, lambda: len(server.batches) == 1)
        made_older(record_of_images(tmp_path), 7200.0)
        for number in images_at(server):
            del server.files[number]
        server.running = False
        assert texts(asked(client_with_images(tmp_path, server, 2)[0], wanted)) == ["ok", "ok"]
        assert len(server.batches) == 2
        assert not server.files


def test_an_upload_whose_answer_was_lost_keeps_its_own_age(tmp_path: Path) -> None:
    with BatchEndpoint(say_ok, form="gemini") as server:
        client, wanted = client_with_images(tmp_path, server, 1)
        uploads = service_of(client).uploads
        assert uploads is not None
        real: Callable[..., Any] = uploads._upload

        async def interrupted(*file: Any) -> str:
            await real(*file)
            server.delete_status = 500
            raise RunStopped("killed")

        uploads._upload = interrupted
        asked(client, wanted)
        server.delete_status = 200
        assert len(images_at(server)) == 1
        made_older(record_of_images(tmp_path), 30 * 3600.0)
        assert texts(asked(client_with_images(tmp_path, server, 1)[0], wanted)) == ["ok"]
        assert len([form for form in server.forms if form["mimeType"] == "image/png"]) == 2
        assert not server.files


def test_no_message_has_the_address_of_an_upload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chiron")
    with BatchEndpoint(answer, form="gemini") as server:
        server.garbled = 1
        assert texts(asked(open_client(tmp_path, server), calls(1))) == expected(1)
    messages = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("chiron"))
    assert "POST /upload/v1beta/files was answered with something that is not a JSON object" in messages
    assert "upload_id" not in messages
