"""Fake batch API over real HTTP, next to the fake endpoint: files, batches, and faults of each kind by seed."""

import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.endpoint import Answer, Endpoint, completion


@dataclass(frozen=True)
class BatchFaults:
    """Shares of lines, batches and requests that fail, drawn from a seeded random stream."""

    line_error: float = 0.0
    line_missing: float = 0.0
    line_damaged: float = 0.0
    """The request was answered and billed, and its line of the results is not JSON."""
    line_twice: float = 0.0
    line_foreign: float = 0.0
    expired: float = 0.0
    """Share of batches of which only the first half of the lines is answered."""
    cancelled: float = 0.0
    upload_429: float = 0.0
    upload_500: float = 0.0
    create_429: float = 0.0
    create_lost: float = 0.0
    """The batch is created and the answer is a 500."""
    queue_full: float = 0.0
    """The batch is created and then fails, because too many tokens are queued."""
    poll_500: float = 0.0
    download_500: float = 0.0
    download_cut: float = 0.0
    """The connection breaks in the middle of the file."""
    seed: int = 0

    @classmethod
    def of_each_kind(cls, share: float, seed: int = 0) -> "BatchFaults":
        kinds = [name for name in cls.__dataclass_fields__ if name != "seed"]
        return cls(**dict.fromkeys(kinds, share), seed=seed)


class BatchEndpoint(Endpoint):
    """An endpoint with ``/v1/files`` and ``/v1/batches``. Results are computed when a batch is created."""

    def __init__(
        self, answer: Answer, *, batch_faults: BatchFaults | None = None, polls: int = 1, running: bool = False, **more: Any
    ) -> None:
        """``polls``: questions for its state before a batch ends. ``running``: batches do not end before :attr:`running` is false."""
        super().__init__(answer, **more)
        self.batch_faults, self.polls, self.running = batch_faults or BatchFaults(), polls, running
        self.files: dict[str, bytes] = {}
        self.uploaded: list[bytes] = []
        self.forms: list[dict[str, str]] = []
        """Fields of the uploads; of the file, its name."""
        self.orders: list[dict[str, Any]] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        """Requests in batches by key."""
        self.replied: Counter[str] = Counter()
        """Complete answers by key, which the client should have exactly one of."""
        self.billed: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        """Faults by kind."""
        self.max_requests = 50_000
        self.delete_status = 200
        self.not_found = 0
        """Questions for a batch that are answered with 404, although it exists."""
        self.lists = True
        """Whether the list of batches is answered."""
        self._chance = random.Random(self.batch_faults.seed)

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._state)
        app.router.add_post("/batch-stats", self._batch_stats)

    def _fault(self, kind: str) -> bool:
        if self._chance.random() >= getattr(self.batch_faults, kind):
            return False
        self.happened[kind] += 1
        return True

    def cancel(self) -> None:
        """Cancel all batches in progress, as a user does on the provider's page: no line after the first is answered."""
        for number, batch in self.batches.items():
            if batch["status"] == "in_progress":
                self._answer_lines(number, batch, limit=1, word="cancelled")

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if self._fault("upload_429"):
            return _error(429, {"Retry-After": "0.01"})
        if self._fault("upload_500"):
            return _error(500)
        field = form["file"]
        assert form["purpose"] == "batch"
        assert isinstance(field, web.FileField)
        self.forms.append({name: part.filename if isinstance(part, web.FileField) else str(part) for name, part in form.items()})
        data = field.file.read()
        number = f"file-{len(self.uploaded)}"
        self.files[number] = data
        self.uploaded.append(data)
        return web.json_response({"id": number, "object": "file", "bytes": len(data), "purpose": "batch"})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        order = await request.json()
        self.orders.append(order)
        if self._fault("create_429"):
            return _error(429, {"Retry-After": "0.01"})
        number = f"batch_{len(self.batches)}"
        batch: dict[str, Any] = {
            "id": number, "object": "batch", "endpoint": order["endpoint"], "input_file_id": order["input_file_id"],
            "completion_window": order["completion_window"], "metadata": order.get("metadata"), "status": "in_progress", "created_at": 1,
            "polls": self.polls,
        }  # fmt: skip
        self.batches[number] = batch
        lines = [json.loads(line) for line in self.files[order["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines) <= self.max_requests
        batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
        if self._fault("queue_full"):
            batch["status"], batch["errors"] = "failed", {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "later"}]}
        else:
            self.asked.update(line["custom_id"] for line in lines)
        if self._fault("create_lost"):
            return _error(500)
        return web.json_response(batch)

    def _answer_lines(self, number: str, batch: dict[str, Any], *, limit: int | None = None, word: str = "completed") -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        if limit is None and self._fault("expired"):
            limit, word = len(lines) // 2, "expired"
        if limit is None and self._fault("cancelled"):
            limit, word = len(lines) // 2, "cancelled"
        good, bad = self._results(lines, word, len(lines) if limit is None else limit)
        self._chance.shuffle(good)
        batch["status"] = word
        for name, results in (("output_file_id", good), ("error_file_id", bad)):
            if results:
                batch[name] = f"{number}-{name}"
                self.files[batch[name]] = b"\n".join(results)
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}

    def _results(self, lines: list[dict[str, Any]], word: str, limit: int) -> tuple[list[bytes], list[bytes]]:
        good, bad = [], []
        for place, line in enumerate(lines):
            key, body = line["custom_id"], line["body"]
            if place >= limit:
                bad.append(_line(key, None, {"code": f"batch_{word}", "message": "not run"}))
            elif self._fault("line_error"):
                bad.append(_line(key, {"status_code": 500, "body": {"error": {"message": "out of luck"}}}, None))
            elif not self._fault("line_missing"):
                self.billed[key] += 1
                text = completion(self.answer(body), model=body["model"], prompt_tokens=len(json.dumps(body)) // 4)
                whole = _line(key, {"status_code": 200, "request_id": "r", "body": text}, None)
                if self._fault("line_damaged"):
                    good.append(whole[: len(whole) // 2])
                    continue
                self.replied[key] += 1
                good += [whole] * (1 + self._fault("line_twice"))
                if self._fault("line_foreign"):
                    good.append(_line("somebody-else", {"status_code": 200, "request_id": "r", "body": text}, None))
        return good, bad

    async def _state(self, request: web.Request) -> web.StreamResponse:
        if self._fault("poll_500"):
            return _error(500)
        number = request.match_info["id"]
        self.not_found -= (missing := self.not_found > 0)
        if missing or number not in self.batches:
            return _error(404)
        batch = self.batches[number]
        if batch["status"] == "in_progress" and not self.running:
            batch["polls"] -= 1
            if batch["polls"] < 0:
                self._answer_lines(number, batch)
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if not self.lists:
            return _error(404)
        after, limit = request.query.get("after"), int(request.query.get("limit", "20"))
        newest = [batch for _, batch in reversed(self.batches.items())]
        start = next((i + 1 for i, batch in enumerate(newest) if batch["id"] == after), 0)
        page = newest[start : start + limit]
        return web.json_response({"object": "list", "data": page, "has_more": start + limit < len(newest)})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        data = self.files[request.match_info["id"]]
        if self._fault("download_500"):
            return _error(500)
        if self._fault("download_cut"):
            response = web.StreamResponse(headers={"Content-Length": str(len(data) + 1)})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=data)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        if self.delete_status != 200:
            return _error(self.delete_status)
        if self.files.pop(request.match_info["id"], None) is None:
            return _error(404)
        return web.json_response({"deleted": True})

    async def _batch_stats(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"replied": self.replied, "billed": self.billed, "happened": self.happened, "batches": len(self.batches)})


def _line(key: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    return json.dumps({"id": "batch_req_1", "custom_id": key, "response": response, "error": error}).encode()


def _error(status: int, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": "no luck", "code": "no_luck"}}, status=status, headers=headers)
