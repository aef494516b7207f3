"""Batches: calls wait together, are sent as files, and are found again after anything that can happen between."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chiron.client import batch
from chiron.client.attempts import Budget
from chiron.client.batch_record import read_open_batches
from chiron.client.call import Call, Reply
from chiron.client.client import ModelClient
from chiron.client.config import OpenAIModel
from chiron.client.failures import BudgetSpent, CallerFault, CallFailed, ConfigurationError, EndpointDown, RunStopped
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.client.ledger_accounts import QUEUED
from chiron.client.ledger_merge import MergingLedger
from chiron.client.provider import BuildContext, Finding
from chiron.errors import DiskError, InputError
from chiron.mics.config import load_config
from chiron.providers.openai_provider import OpenAIProvider
from chiron.providers.registry import RoleCall, probe
from tests.support.batch_endpoint import BatchEndpoint, BatchFaults
from tests.support.batch_forms import FORMS, NOT_IN
from tests.support.calls import a_call
from tests.support.command import environment
from tests.support.runs import config_of, team, write_config
from tests.support.waiting import PATIENCE

QUICK: dict[str, Any] = {"quiet": 0.01, "poll": 0.01}
POINTS = ["before the upload", "after the upload", "before the batch was created", "after the batch was created", "after the download"]
over_forms = pytest.mark.parametrize("form", FORMS)
PRICE = {"input": 1.0, "output": 1_000_000.0}


def answer(body: dict[str, Any]) -> str:
    return f"re: {body['messages'][0]['content']}"


def open_client(
    folder: Path, server: BatchEndpoint, *, budget: float | None = None, batch: dict[str, Any] | None = None, **model: Any
) -> ModelClient:
    form = {} if "files" in (batch or {}) else {"form": server.name}
    values = {"provider": "openai", "base_url": server.base_url, "model": "m", "batch": {**QUICK, **form, **(batch or {})}, **model}
    endpoint = OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(PictureStore()))
    ledger = Ledger.open(folder / "ledger.sqlite")
    return ModelClient({"m": endpoint}, ledger, Budget(budget, spent=ledger.spent_usd()))


def calls(count: int) -> list[Call]:
    return [a_call(f"case {number}", draw=0, max_tokens=4) for number in range(count)]


def asked(client: ModelClient, wanted: list[Call]) -> list[Reply | BaseException]:
    """Ask all calls at the same time, and close the client."""

    async def main() -> list[Reply | BaseException]:
        try:
            return await asyncio.gather(*map(client.ask, wanted), return_exceptions=True)
        finally:
            await client.close()
            client.ledger.close()

    return asyncio.run(main())


def stopped(client: ModelClient, wanted: list[Call], when: Callable[[], bool]) -> list[Reply | BaseException]:
    """Ask all calls, and stop as the first Ctrl-C does once ``when()`` is true."""

    async def main() -> list[Reply | BaseException]:
        tasks = [asyncio.create_task(client.ask(call)) for call in wanted]
        while not when():
            await asyncio.sleep(0.01)
        client.stop()
        try:
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await client.close()
            client.ledger.close()

    return asyncio.run(main())


def texts(replies: list[Reply | BaseException]) -> list[str]:
    assert not [reply for reply in replies if isinstance(reply, BaseException)], replies
    return [reply.text for reply in replies if isinstance(reply, Reply)]


def expected(count: int) -> list[str]:
    return [f"re: case {number}" for number in range(count)]


def test_calls_that_wait_are_sent_in_one_batch_in_openais_form(tmp_path: Path) -> None:
    with BatchEndpoint(answer) as server:
        wanted = calls(5)
        assert texts(asked(open_client(tmp_path, server), wanted)) == expected(5)
    lines = [json.loads(line) for line in server.uploaded[0].splitlines()]
    assert lines[0] == {
        "custom_id": wanted[0].key,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "case 0"}], "max_tokens": 4, "temperature": 0.2},
    }
    order = server.orders[0]
    assert (order["endpoint"], order["completion_window"], order["input_file_id"]) == ("/v1/chat/completions", "24h", "file-0")
    assert len(server.batches) == 1
    assert not server.seen.requests
    assert not server.files, "the provider's copies are deleted"
    assert not list((tmp_path / "batches").iterdir()), "what the ledger contains is not kept twice"


@pytest.mark.slow
def test_the_requests_are_those_of_openais_own_client(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    with BatchEndpoint(answer) as server:
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        with openai.OpenAI(base_url=server.base_url, api_key="none") as theirs:
            file = theirs.files.create(file=(server.forms[0]["file"], server.uploaded[0]), purpose="batch")
            metadata = server.orders[0]["metadata"]
            made = theirs.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata)
            assert [batch.id for batch in theirs.batches.list(limit=100)] == [made.id, "batch_0"]
    assert server.uploaded[1] == server.uploaded[0]
    assert server.forms[1] == server.forms[0]
    assert server.orders[1] == {**server.orders[0], "input_file_id": file.id}


@over_forms
def test_one_remaining_call_is_a_batch_of_its_own(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        assert texts(asked(open_client(tmp_path, server), calls(1))) == expected(1)
    assert server.asked.total() == 1


@pytest.mark.parametrize(("limits", "batches"), [({"max_requests": 3}, 4), ({"max_megabytes": 0.0006}, 5)])
def test_batches_stay_within_the_limits_of_requests_and_bytes(tmp_path: Path, limits: dict[str, float], batches: int) -> None:
    with BatchEndpoint(answer) as server:
        assert texts(asked(open_client(tmp_path, server, batch=limits), calls(10))) == expected(10)
    assert len(server.uploaded) == batches
    assert all(len(data.splitlines()) <= limits.get("max_requests", 10) for data in server.uploaded)
    assert all(len(data) <= limits.get("max_megabytes", 1) * 1e6 for data in server.uploaded)


def test_calls_that_arrive_while_a_batch_is_written_are_sent_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes longer than ``quiet``, and more calls than fit into a batch wait when it ends."""
    with BatchEndpoint(answer) as server:
        client = open_client(tmp_path, server, batch={"max_requests": 4})
        queue = client.endpoints["m"].batch
        assert queue is not None
        real, wanted = queue.service.request, calls(12)
        added: list[asyncio.Task[Reply]] = []

        async def slow(call: Call) -> bytes:
            if not added:
                added.extend(asyncio.create_task(client.ask(other)) for other in wanted[4:])
                await asyncio.sleep(10 * QUICK["quiet"])
            return await real(call)

        monkeypatch.setattr(queue.service, "request", slow)

        async def main() -> list[Reply | BaseException]:
            try:
                first = await asyncio.gather(*map(client.ask, wanted[:4]))
                return [*first, *await asyncio.wait_for(asyncio.gather(*added), PATIENCE)]
            finally:
                await client.close()
                client.ledger.close()

        assert texts(asyncio.run(main())) == expected(12)
    assert all(len(data.splitlines()) == 4 for data in server.uploaded)


def test_a_request_larger_than_a_batch_fails_alone(tmp_path: Path) -> None:
    with BatchEndpoint(answer) as server:
        replies = asked(open_client(tmp_path, server, batch={"max_megabytes": 0.001}), [a_call("x" * 2000), *calls(1)])
    assert isinstance(replies[0], CallerFault)
    assert "lower image_side" in str(replies[0])
    assert texts(replies[1:]) == expected(1)


KINDS = [(form, name) for form in FORMS for name in BatchFaults.kinds() if name not in NOT_IN[form]]


@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_every_call_is_answered_once_whatever_fails(tmp_path: Path, form: str, kind: str) -> None:
    faults = BatchFaults(**{kind: 0.4}, seed=3, first=True)
    with BatchEndpoint(answer, form=form, batch_faults=faults) as server:
        client = open_client(tmp_path, server, batch={"attempts": 60, "max_requests": 4})
        assert texts(asked(client, calls(30))) == expected(30)
    assert server.happened[kind]
    assert set(server.replied.values()) == {1}
    assert len(server.replied) == 30


@over_forms
def test_a_call_that_fails_in_every_batch_fails_and_the_others_do_not(tmp_path: Path, form: str) -> None:
    def fussy(body: dict[str, Any]) -> str:
        return "" if body["messages"][0]["content"] == "case 1" else answer(body)

    with BatchEndpoint(fussy, form=form) as server:
        replies = asked(open_client(tmp_path, server), calls(3))
    assert isinstance(replies[1], CallFailed)
    assert texts([replies[0], replies[2]]) == ["re: case 0", "re: case 2"]
    assert server.billed[calls(3)[1].key] == 3, "batch.attempts"


@over_forms
def test_a_batch_that_is_cancelled_by_hand_keeps_its_answers_and_the_rest_is_sent_again(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        client = open_client(tmp_path, server)

        async def main() -> list[Reply | BaseException]:
            tasks = [asyncio.create_task(client.ask(call)) for call in calls(6)]
            while not server.batches:
                await asyncio.sleep(0.01)
            server.cancel()
            server.running = False
            try:
                return await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await client.close()
                client.ledger.close()

        assert texts(asyncio.run(main())) == expected(6)
    assert [len(data.splitlines()) for data in server.uploaded] == [6, 6 if form == "gemini" else 5]
    assert set(server.replied.values()) == {1}


@pytest.mark.parametrize(("form", "code"), [("openai", "model_not_found"), ("gemini", "INVALID_ARGUMENT")])
def test_a_batch_that_the_provider_refuses_stops_the_run_and_costs_nothing(tmp_path: Path, form: str, code: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        client = open_client(tmp_path, server, budget=100.0, price=PRICE)

        async def main() -> list[Reply | BaseException]:
            tasks = [asyncio.create_task(client.ask(call)) for call in calls(2)]
            while not server.batches:
                await asyncio.sleep(0.01)
            for batch in server.batches.values():
                batch["status"], batch["errors"] = "failed", {"data": [{"code": "model_not_found", "message": "case 0 is not for you"}]}
            try:
                return await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await client.close()

        replies = asyncio.run(main())
        assert all(isinstance(reply, ConfigurationError) for reply in replies)
        assert not server.files, "the requests contain patients' texts"
        assert code in str(replies[0])
        assert "case 0" not in str(replies[0]), "messages may quote patients' texts"
        assert client.ledger.spent_usd() == 0
        client.ledger.close()


@over_forms
def test_a_provider_that_does_not_answer_stops_the_run_after_the_outage(tmp_path: Path, form: str) -> None:
    faults = BatchFaults(poll_500=1.0) if form == "anthropic" else BatchFaults(upload_500=1.0)
    with BatchEndpoint(answer, form=form, batch_faults=faults) as server:
        replies = asked(open_client(tmp_path, server, batch={"outage": 0.05}), calls(2))
    assert all(isinstance(reply, EndpointDown) for reply in replies)
    with BatchEndpoint(answer, form=form) as again:  # the same command, once it answers
        record = next((tmp_path / "batches").glob("*.json"))
        record.write_text(record.read_text().replace(server.base_url, again.base_url))
        assert texts(asked(open_client(tmp_path, again), calls(2))) == expected(2)


@pytest.mark.parametrize(("fault", "halt"), [("poll_500", EndpointDown), ("disk", DiskError)])
def test_a_batch_whose_collection_fails_stays_reserved_and_is_collected_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, halt: type[Exception]
) -> None:
    faults = BatchFaults(poll_500=1.0) if fault == "poll_500" else None
    with BatchEndpoint(answer, batch_faults=faults, running=True) as server:
        client = open_client(tmp_path, server, budget=9.5, price=PRICE, batch={"outage": 0.05})
        if fault == "disk":
            queue = client.endpoints["m"].batch
            assert queue is not None

            async def full(*_: Any) -> None:
                raise DiskError("no space left")

            monkeypatch.setattr(queue.service, "download", full)
            server.running = False
        replies = asked(client, calls(2))
        assert isinstance(client.halted, halt)
        assert not any(isinstance(reply, Reply) for reply in replies)
        server.batch_faults, server.running = BatchFaults(), False
        later = open_client(tmp_path, server, budget=9.5, price=PRICE)
        # Two calls of at most 4 dollars, which the provider runs: no third one fits.
        assert later.budget.spent == pytest.approx(8.0, abs=0.1)
        assert isinstance(asked(later, [a_call("another", max_tokens=4)])[0], BudgetSpent)
        assert texts(asked(open_client(tmp_path, server, budget=9.5, price=PRICE), calls(2))) == expected(2)
    assert set(server.asked.values()) == {1}


@over_forms
def test_a_stopped_run_leaves_its_batch_and_the_next_one_collects_it(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        client = open_client(tmp_path, server, budget=1000.0, price=PRICE, batch={"price_factor": 0.5})
        replies = stopped(client, calls(4), lambda: any("(0 of 4 done)" in line for line in client.batches()) and bool(server.batches))
        assert all(isinstance(reply, RunStopped) for reply in replies)
        note = client.notes["batch m"]
        assert "4 calls" in note
        assert "run the same command again" in note
        server.running = False
        later = open_client(tmp_path, server, budget=1000.0, price=PRICE, batch={"price_factor": 0.5})
        # 4 calls of at most 4 tokens at half of a dollar
        assert later.budget.spent == pytest.approx(8.0, abs=0.1)
        assert "lost" not in later.notes
        assert texts(asked(later, calls(4))) == expected(4)
        assert len(server.batches) == 1
        with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.possibly_spent_usd() == 0
            assert ledger.spent_usd() == pytest.approx(4 * 3 * 0.5, abs=0.1), "three tokens a reply, at half price"


@over_forms
def test_a_resume_fits_into_a_budget_that_the_batch_has_used_up(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        client = open_client(tmp_path, server, budget=17.0, price=PRICE)
        stopped(client, calls(4), lambda: bool(server.batches))
        server.running = False
        assert texts(asked(open_client(tmp_path, server, budget=17.0, price=PRICE), calls(4))) == expected(4)
    assert set(server.replied.values()) == {1}


@over_forms
def test_calls_without_money_wait_for_the_batch_that_has_it(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        # Room for two calls of at most 4 dollars; replies cost 3.
        assert texts(asked(open_client(tmp_path, server, budget=9.5, price=PRICE), calls(2))) == expected(2)
        replies = asked(open_client(tmp_path, server, budget=12.5, price=PRICE), calls(4))
    assert texts(replies[:3]) == expected(3)
    assert isinstance(replies[3], RunStopped)
    assert [len(data.splitlines()) for data in server.uploaded] == [2, 1]


@over_forms
def test_results_on_disk_are_used_by_the_call_that_asks_for_them_later(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        client = open_client(tmp_path, server)
        stopped(client, calls(4), lambda: bool(server.batches))
        server.running = False
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2), "a smaller selection of cases"
        assert list((tmp_path / "batches").glob("*.results.jsonl"))
        assert texts(asked(open_client(tmp_path, server), calls(4))) == expected(4)
    assert len(server.batches) == 1
    assert not list((tmp_path / "batches").iterdir())


@over_forms
def test_a_model_with_an_open_batch_is_not_asked_live(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        stopped(open_client(tmp_path, server), calls(2), lambda: bool(server.batches))
        values = {"provider": "openai", "base_url": server.base_url, "model": "m"}
        live = OpenAIProvider().build("m", OpenAIModel.model_validate(values), BuildContext(PictureStore()))
        with Ledger.open(tmp_path / "ledger.sqlite") as ledger, pytest.raises(InputError, match="without 'batch'"):
            ModelClient({"m": live}, ledger)


def test_a_batch_at_another_address_is_not_sent_again(tmp_path: Path) -> None:
    with BatchEndpoint(answer, running=True) as server:
        stopped(open_client(tmp_path, server), calls(2), lambda: bool(server.batches))
    with BatchEndpoint(answer) as other, pytest.raises(InputError, match="was sent to"):
        open_client(tmp_path, other)


@pytest.mark.parametrize("text", ["{}", '{"name": "x", "model": "m", "address": "", "keys": [], "created": "today"}'])
def test_a_damaged_record_is_reported_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "x.json").write_text(text)
    with BatchEndpoint(answer) as server, pytest.raises(InputError, match=r"x\.json is damaged"):
        open_client(tmp_path, server)


_SCRIPT = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.client.test_batch import asked, calls, open_client
from chiron.client import batch_record

folder, point = Path(sys.argv[1]), sys.argv[4]


class Server:
    base_url, name = sys.argv[2:4]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


client = open_client(folder, Server(), budget=1000.0, price={"input": 1.0, "output": 1_000_000.0})
service = client.endpoints["m"].batch.service


def dying(real):
    async def step(batch):
        await real(batch)
        die()

    return step


if point == "before the upload":
    service.upload = die
if point == "after the upload":
    service.upload = dying(service.upload)
if point == "before the batch was created":
    service.create = die
if point == "after the batch was created":
    service.create = dying(service.create)
if point == "after the download":
    batch_record.Batch.keep_results = die
asked(client, calls(6))
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@over_forms
def test_a_process_that_is_killed_pays_for_no_call_twice(tmp_path: Path, form: str, point: str) -> None:
    with BatchEndpoint(answer, form=form) as server:
        root = Path(__file__).parents[2]
        env = environment()
        env["PYTHONPATH"] = f"{env['PYTHONPATH']}{os.pathsep}{root}"
        command = [sys.executable, "-c", _SCRIPT, str(tmp_path), server.base_url, form, point]
        killed = subprocess.run(command, env=env, check=False, cwd=root)
        assert killed.returncode == -signal.SIGKILL
        client = open_client(tmp_path, server, budget=1000.0, price=PRICE)
        assert texts(asked(client, calls(6))) == expected(6)
        assert not server.files, "an upload whose ID was lost is found again"
    assert len(server.batches) == len(server.uploaded) == 1
    assert len(server.replied) == 6
    assert set(server.replied.values()) == {1}
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.possibly_spent_usd() == 0


def test_files_for_vllm_are_written_and_their_results_are_read(tmp_path: Path) -> None:
    out = tmp_path / "files"
    with BatchEndpoint(answer) as server:
        client = open_client(tmp_path, server, base_url="", batch={"files": str(out)})

        def written() -> bool:
            return bool(list(out.glob("*.input.jsonl")))

        stopped(client, calls(3), written)
        assert "vllm run-batch -i" in client.notes["batch m"]
        (begin,) = out.glob("*.input.jsonl")
        lines = [json.loads(line) for line in begin.read_text().splitlines()]
        results = [
            json.dumps(
                {
                    "id": "vllm-1",
                    "custom_id": line["custom_id"],
                    "response": {"status_code": 200, "request_id": "r", "body": reply},
                    "error": None,
                }
            )
            for line in reversed(lines)
            for reply in [{"choices": [{"message": {"content": answer(line["body"])}, "finish_reason": "stop"}], "model": "m"}]
        ]
        begin.with_name(begin.name.replace("input", "output")).write_text("\n".join(results) + "\n")
        assert texts(asked(open_client(tmp_path, server, base_url="", batch={"files": str(out)}), calls(3))) == expected(3)
        assert not server.seen.requests


@pytest.mark.parametrize(
    ("model", "trusted"),
    [
        ({}, False),
        ({"serves": {}}, True),
        ({"parameters": {"mm_processor_kwargs": {"max_patches": 3}}}, True),
        ({"parameters": {"top_k": 3}}, False),
    ],
)
def test_vllm_is_told_to_accept_image_arguments_of_requests_that_have_them(tmp_path: Path, model: dict[str, Any], trusted: bool) -> None:
    out = tmp_path / "files"
    with BatchEndpoint(answer) as server:
        client = open_client(tmp_path, server, base_url="", batch={"files": str(out)}, **model)
        stopped(client, calls(1), lambda: bool(list(out.glob("*.input.jsonl"))))
    assert ("--model m --trust-request-mm-kwargs && mv" in client.notes["batch m"]) == trusted
    assert ("--trust-request-mm-kwargs" in client.notes["batch m"]) == trusted


def test_a_folder_that_cannot_be_written_stops_the_run_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "batches").write_text("a file where the folder has to be")
    with BatchEndpoint(answer) as server:
        replies = asked(open_client(tmp_path, server), calls(2))
    assert all(isinstance(reply, DiskError) for reply in replies)
    assert "batches" in str(replies[0])
    assert not server.uploaded


@over_forms
def test_a_process_that_is_stopped_before_it_deletes_the_providers_copies_leaves_that_to_the_next_one(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        with_an_open_batch(tmp_path, server)
        client = open_client(tmp_path, server)
        queue = client.endpoints["m"].batch
        assert queue is not None

        async def stop(*_: Any) -> None:
            asyncio.get_running_loop().call_soon(client.stop)
            await asyncio.Event().wait()

        monkeypatch.setattr(queue.service, "discard", stop)
        monkeypatch.setattr(batch, "_DISCARD_AT_END", 0.05)
        asked(client, calls(2))
        monkeypatch.setattr(batch, "_DISCARD_AT_END", PATIENCE)
        assert len(server.files) == (1 if form == "anthropic" else 2), "requests and answers, with the texts of patients"
        (record,) = read_open_batches(tmp_path)
        assert record.ended == "completed"
        server.files.popitem()  # the stopped process was half through
        asked(open_client(tmp_path, server), [])
        assert not server.files
        assert read_open_batches(tmp_path), "its results are still needed"
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        assert not list((tmp_path / "batches").iterdir())
    assert len(server.batches) == 1


@over_forms
def test_copies_that_the_provider_does_not_delete_now_are_deleted_by_the_next_run(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with BatchEndpoint(answer, form=form) as server:
        server.delete_status = 500
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
        assert f"the files of batch {next(iter(server.batches))} of model 'm' could not be deleted at the provider" in caplog.text
        server.delete_status = 200
        asked(open_client(tmp_path, server), [])
        assert not server.files
        assert not list((tmp_path / "batches").iterdir())


@over_forms
def test_a_provider_that_deletes_no_files_is_reported_once(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    with BatchEndpoint(answer, form=form) as server:
        server.delete_status = 405
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
    assert caplog.text.count("delete them on its page") == 1
    assert not list((tmp_path / "batches").iterdir())


def with_an_open_batch(folder: Path, server: BatchEndpoint, **options: Any) -> None:
    """Stop a run once the provider has its batch of two calls."""
    client = open_client(folder, server, **options)
    stopped(client, calls(2), lambda: any('batch_0"' in p.read_text() for p in folder.glob("batches/*.json")))
    server.running = False


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_during_the_download_is_reported_as_such(tmp_path: Path) -> None:
    with BatchEndpoint(lambda body: answer(body) * 10_000, running=True) as server:
        with_an_open_batch(tmp_path, server)
        client = open_client(tmp_path, server, batch={"outage": 0.05})
        (record,) = (tmp_path / "batches").glob("*.json")
        record.with_suffix(".results.jsonl.part").symlink_to("/dev/full")
        replies = asked(client, calls(2))
    assert isinstance(client.halted, DiskError)
    assert "No space left on device" in str(client.halted)
    assert not any(isinstance(reply, Reply) for reply in replies)


@over_forms
def test_a_batch_that_was_deleted_at_the_provider_is_sent_again_and_may_have_cost(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        with_an_open_batch(tmp_path, server, budget=100.0, price=PRICE)
        name = next(iter(server.batches))
        server.batches["gone"] = server.batches.pop(name) | {"id": "gone"}
        client = open_client(tmp_path, server, budget=100.0, price=PRICE)
        assert texts(asked(client, calls(2))) == expected(2)
    assert len(server.uploaded) == 2
    assert f"batch {name} of model 'm' was deleted" in caplog.text
    assert "count as possibly spent" in caplog.text
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.possibly_spent_usd() == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("times", [1, 4, 40])
def test_a_batch_that_the_provider_lists_is_waited_for_although_it_is_not_found(tmp_path: Path, times: int) -> None:
    with BatchEndpoint(answer, running=True) as server:
        with_an_open_batch(tmp_path, server)
        server.not_found = times
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
    assert server.not_found == 0
    assert len(server.uploaded) == 1


@over_forms
def test_a_batch_is_not_deleted_because_the_address_answers_nothing_but_404(tmp_path: Path, form: str) -> None:
    with BatchEndpoint(answer, form=form, running=True) as server:
        with_an_open_batch(tmp_path, server, budget=100.0, price=PRICE)
        server.not_found = 1000
        server.lists = False
        replies = asked(open_client(tmp_path, server, budget=100.0, price=PRICE), calls(2))
        assert isinstance(replies[0], ConfigurationError)
        assert "correct base_url" in str(replies[0])
        server.not_found = 0
        assert texts(asked(open_client(tmp_path, server), calls(2))) == expected(2)
    assert len(server.uploaded) == 1


def test_a_batch_costs_half_at_openai_and_what_is_configured_elsewhere() -> None:
    def price(base_url: str, batch: object) -> float | None:
        values = {"provider": "openai", "base_url": base_url, "model": "m", "batch": batch, "price": {"input": 8.0, "output": 10.0}}
        price = OpenAIModel.model_validate(values).call_price
        return None if price is None else price.input

    assert price("https://api.openai.com/v1", batch=False) == 8.0
    assert price("https://api.openai.com/v1", batch=True) == 4.0
    assert price("https://api.openai.com.example.org/v1", batch=True) == 8.0
    assert price("https://example.org/v1", batch={"price_factor": 0.25}) == 2.0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch": {"file": "x"}}, "file"),
        ({"batch": {"price_factor": 2}}, "price_factor"),
        ({"batch": {"poll": 0}}, "poll"),
        ({"batch": True, "base_url": ""}, "base_url"),
    ],
)
def test_wrong_settings_are_refused_with_their_name(changes: dict[str, Any], problem: str) -> None:
    data = team("http://localhost/v1", model=changes)
    with pytest.raises(InputError, match=problem):
        config_of(data)


def test_doctor_does_not_ask_a_model_that_only_answers_files(tmp_path: Path) -> None:
    config = OpenAIModel.model_validate({"provider": "openai", "model": "m", "batch": {"files": str(tmp_path)}})

    async def found() -> list[Finding]:
        return [finding async for finding in probe("m", config, [RoleCall("intern", 1, 64, system=True, temperature=0.2)])]

    (finding,) = asyncio.run(found())
    assert finding.ok is None
    assert "vllm run-batch" in finding.detail


def test_a_folder_of_files_is_relative_to_the_configuration(tmp_path: Path) -> None:
    path = write_config(tmp_path / "team.yaml", team("", model={"batch": {"files": "out"}}))
    model = load_config(path).models["judge"]
    assert isinstance(model, OpenAIModel)
    assert model.batches is not None
    assert model.batches.files == str(tmp_path / "out")


@over_forms
def test_money_for_calls_that_a_killed_process_had_not_sent_is_free_again(tmp_path: Path, form: str) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin_attempt(a_call("case 0", max_tokens=4), 4.0, QUEUED)
        assert ledger.spent_usd() == 4.0
    with BatchEndpoint(answer, form=form) as server:
        client = open_client(tmp_path, server, budget=5.0, price=PRICE)
        assert client.budget.spent == 0
        assert texts(asked(client, calls(1))) == expected(1)
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.possibly_spent_usd() == 0


def test_a_merge_counts_calls_in_open_batches_as_possibly_spent(tmp_path: Path) -> None:
    for name in ("shard", "whole"):
        (tmp_path / name).mkdir()
    with Ledger.open(tmp_path / "shard" / "ledger.sqlite") as ledger:
        ledger.begin_attempt(a_call("case 0", max_tokens=4), 4.0, QUEUED)
    with MergingLedger.open(tmp_path / "whole" / "ledger.sqlite") as whole:
        whole.merge(tmp_path / "shard" / "ledger.sqlite")
        assert whole.possibly_spent_usd() == 4.0
        assert not whole.queued_attempts()
