"""Fake batch API over real HTTP, next to the fake endpoint: files, batches, and faults of each kind by seed."""

import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.batch_forms import form_named, images_in
from tests.support.endpoint import Answer, Endpoint

_GONE = "You do not have permission to access the File or it may not exist."


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
    first: bool = False
    """Whether every kind with a share happens at the first chance, whatever is drawn."""

    @classmethod
    def kinds(cls) -> list[str]:
        return [name for name in cls.__dataclass_fields__ if name not in {"seed", "first"}]

    @classmethod
    def of_each_kind(cls, share: float, seed: int = 0) -> "BatchFaults":
        shares: dict[str, Any] = dict.fromkeys(cls.kinds(), share)
        return cls(**shares, seed=seed)


class BatchEndpoint(Endpoint):
    """An endpoint with files and batches in one of the three forms. Results are computed when a batch ends."""

    def __init__(
        self,
        answer: Answer,
        *,
        form: str = "openai",
        batch_faults: BatchFaults | None = None,
        polls: int = 1,
        running: bool = False,
        **more: Any,
    ) -> None:
        """``polls``: questions for its state before a batch ends. ``running``: batches do not end before :attr:`running` is false."""
        super().__init__(answer, **more)
        self.name, self.form = form, form_named(form)
        self.batch_faults, self.polls, self.running = batch_faults or BatchFaults(), polls, running
        self.files: dict[str, bytes] = {}
        """What the provider keeps: requests, results, and images."""
        self.names: dict[str, str] = {}
        """Names of the files by ID."""
        self.uploaded: list[bytes] = []
        """Requests of batches, one a line."""
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
        """Whether the lists of batches and files are answered."""
        self.unlisted = self.late = self.garbled = 0
        """Questions for the list of batches answered with an empty one; for a batch that ended, without the names of its results; and
        uploads of bytes to Gemini answered with something else than an object.
        """
        self.odd_ids = False
        """Whether new batches get IDs that cannot be part of an address."""
        self.in_response = False
        """Whether Gemini names the results in the operation's response."""
        self.undeletable: set[str] = set()
        """IDs that are not deleted now."""
        self.deleted: list[str] = []
        self._chance = random.Random(self.batch_faults.seed)
        self._uploads: dict[str, dict[str, Any]] = {}

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.form.base}"

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.middlewares.append(self._note_headers)
        getattr(self, f"_add_{self.name}")(app.router)
        app.router.add_post("/batch-stats", self._batch_stats)

    @web.middleware
    async def _note_headers(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.seen.headers.append(dict(request.headers))
        return await handler(request)

    def _add_openai(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/files", self._upload)
        router.add_get("/v1/files", self._list_files)
        router.add_get("/v1/files/{id}/content", self._content)
        router.add_delete("/v1/files/{id}", self._delete)
        router.add_post("/v1/batches", self._create_openai)
        router.add_get("/v1/batches", self._list)
        router.add_get("/v1/batches/{id}", self._state)

    def _add_anthropic(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/files", self._upload)
        router.add_get("/v1/files", self._list_files)
        router.add_delete("/v1/files/{id}", self._delete)
        router.add_post("/v1/messages/batches", self._create_anthropic)
        router.add_get("/v1/messages/batches", self._list)
        router.add_get("/v1/messages/batches/{id}", self._state)
        router.add_get("/v1/messages/batches/{id}/results", self._content)
        router.add_delete("/v1/messages/batches/{id}", self._delete)

    def _add_gemini(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1beta/openai/chat/completions", self._complete)
        router.add_post("/upload/v1beta/files", self._upload_gemini)
        router.add_get("/v1beta/files", self._list_files)
        router.add_get("/v1beta/{id:files/[a-z0-9-]+}", self._file)
        router.add_get("/v1beta/{id:files/[a-z0-9-]+}:download", self._content)
        router.add_delete("/v1beta/{id:files/[a-z0-9-]+}", self._delete)
        router.add_post("/v1beta/models/{model}:batchGenerateContent", self._create_gemini)
        router.add_get("/v1beta/batches", self._list)
        router.add_get("/v1beta/{id:batches/[a-z0-9_-]+}", self._state)
        router.add_delete("/v1beta/{id:batches/[a-z0-9_-]+}", self._delete)

    def _fault(self, kind: str) -> bool:
        share = getattr(self.batch_faults, kind)
        certain = self.batch_faults.first and share > 0 and not self.happened[kind]
        if self._chance.random() >= share and not certain:
            return False
        self.happened[kind] += 1
        return True

    def _used(self, kind: str) -> bool:
        """Count down a number of odd answers. Returns whether this answer is one of them."""
        left: int = getattr(self, kind)
        setattr(self, kind, max(0, left - 1))
        return left > 0

    def _error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response(self.form.error(status), status=status, headers=headers)

    def cancel(self) -> None:
        """Cancel all batches in progress, as a user does on the provider's page: no line after the first is answered."""
        for number, batch in self.batches.items():
            if batch["status"] == "in_progress":
                self._answer_lines(number, batch, limit=1, word="cancelled")

    def _store(self, number: str, name: str, data: bytes) -> None:
        self.files[number], self.names[number] = data, name

    def _upload_fault(self) -> web.Response | None:
        if self._fault("upload_429"):
            return self._error(429, {"Retry-After": "0.01"})
        return self._error(500) if self._fault("upload_500") else None

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if fault := self._upload_fault():
            return fault
        field = form["file"]
        assert isinstance(field, web.FileField)
        self.forms.append({name: part.filename if isinstance(part, web.FileField) else str(part) for name, part in form.items()})
        data = field.file.read()
        number = f"file-{len(self.names)}"
        self._store(number, field.filename, data)
        if form.get("purpose") == "batch":
            self.uploaded.append(data)
        return web.json_response(self._about(number))

    def _about(self, number: str) -> dict[str, Any]:
        """A file as its provider describes it."""
        name, size = self.names[number], len(self.files[number])
        if self.name == "gemini":
            uri = f"https://generativelanguage.googleapis.com/v1beta/{number}"
            return {"name": number, "displayName": name, "sizeBytes": str(size), "uri": uri, "state": "ACTIVE"}
        if self.name == "anthropic":
            moment = "2026-11-26T12:00:00Z"
            return {"id": number, "type": "file", "filename": name, "size_bytes": size, "mime_type": "image/png", "created_at": moment}
        return {"id": number, "object": "file", "filename": name, "bytes": size, "purpose": "batch"}

    async def _upload_gemini(self, request: web.Request) -> web.StreamResponse:
        """Google's resumable upload: the first request is answered with an address, to which the second one sends the bytes."""
        if (number := request.query.get("upload_id")) is None:
            assert request.headers["X-Goog-Upload-Protocol"] == "resumable"
            assert request.headers["X-Goog-Upload-Command"] == "start"
            if fault := self._upload_fault():
                return fault
            number = str(len(self._uploads))
            file = (await request.json())["file"]
            if "display_name" in file:  # Google reads both spellings
                file |= {"displayName": file["display_name"], "mimeType": file["mime_type"]}
            self._uploads[number] = {**file, "size": int(request.headers["X-Goog-Upload-Header-Content-Length"])}
            address = f"http://127.0.0.1:{self.port}/upload/v1beta/files?upload_id={number}"
            return web.json_response({}, headers={"X-Goog-Upload-URL": address, "X-Goog-Upload-Status": "active"})
        file, data = self._uploads[number], await request.read()
        assert request.headers["X-Goog-Upload-Command"] == "upload, finalize"
        assert len(data) == file["size"]
        name = file.get("name", f"files/file-{len(self.names)}")
        if name in self.files:
            return self._error(409)
        self._store(name, file["displayName"], data)
        self.forms.append({"file": file["displayName"], "mimeType": file["mimeType"]})
        if data.startswith(b"{"):
            self.uploaded.append(data)
        return web.json_response([] if self._used("garbled") else {"file": self._about(name)}, headers={"X-Goog-Upload-Status": "final"})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["id"]
        return web.json_response(self._about(number)) if number in self.files else self._error(403)

    async def _create_openai(self, request: web.Request) -> web.StreamResponse:
        order = await request.json()
        self.orders.append(order)
        values = {name: order.get(name) for name in ("endpoint", "completion_window", "metadata")} | {"object": "batch", "created_at": 1}
        return self._create(self._new_id(), order["input_file_id"], values)

    def _new_id(self) -> str:
        return f"batch_{len(self.batches)}{'/?' if self.odd_ids else ''}"

    async def _create_anthropic(self, request: web.Request) -> web.StreamResponse:
        order = await request.json()
        self.orders.append({name: value for name, value in order.items() if name != "requests"})
        number = self._new_id()
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in order["requests"])
        self._store(number, "", data)
        response = self._create(number, number, {})
        if number in self.batches:
            self.uploaded.append(data)
        else:
            del self.files[number]
        return response

    async def _create_gemini(self, request: web.Request) -> web.StreamResponse:
        order = (await request.json())["batch"]
        self.orders.append(order)
        values = {"model": request.match_info["model"], "name": order["displayName"], "in_response": self.in_response}
        known = order["inputConfig"]["fileName"] in self.files
        return self._create(f"batches/{self._new_id()}", order["inputConfig"]["fileName"], values) if known else self._error(403)

    def _create(self, number: str, input_id: str, values: dict[str, Any]) -> web.StreamResponse:
        if self._fault("create_429"):
            return self._error(429, {"Retry-After": "0.01"})
        keys = [key for key, _ in self.form.requests(self.files[input_id])]
        assert len(set(keys)) == len(keys) <= self.max_requests
        batch: dict[str, Any] = {
            "id": number,
            "input_file_id": input_id,
            "status": "in_progress",
            "polls": self.polls,
            "keys": keys,
            **values,
        }
        batch["request_counts"] = {"total": len(keys), "completed": 0, "failed": 0}
        full = self.name != "anthropic" and self._fault("queue_full")
        if full and self.name == "gemini":
            return self._error(429)
        self.batches[number] = batch
        if full:
            batch["status"], batch["errors"] = "failed", {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "later"}]}
        else:
            self.asked.update(keys)
        return self._error(500) if self._fault("create_lost") else web.json_response(self.form.state(batch))

    def _answer_lines(self, number: str, batch: dict[str, Any], *, limit: int | None = None, word: str = "completed") -> None:
        requests = self.form.requests(self.files[batch["input_file_id"]])
        if limit is None and self._fault("expired"):
            limit, word = len(requests) // 2, "expired"
        if limit is None and self._fault("cancelled"):
            limit, word = len(requests) // 2, "cancelled"
        if limit is not None and not self.form.cut_short:
            limit = 0
        good, bad = self._results(requests, word, len(requests) if limit is None else limit, batch.get("model"))
        self._chance.shuffle(good)
        batch["status"] = word
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        if self.name == "openai":
            for name, results in (("output_file_id", good), ("error_file_id", bad)):
                if results or (results is good and not bad):
                    batch[name] = f"{number}-{name}"
                    self.files[batch[name]] = b"\n".join(results)
        elif self.name == "anthropic":
            self.files[number] = b"\n".join([*bad, *good])
        elif good or bad or word == "completed":
            batch["output_file_id"] = f"files/batch-{len(self.names)}"
            self._store(batch["output_file_id"], "", b"\n".join([*bad, *good]))

    def _results(
        self, requests: list[tuple[str, dict[str, Any]]], word: str, limit: int, model: str | None
    ) -> tuple[list[bytes], list[bytes]]:
        """Lines with and without an answer. ``model``: of the batch, if its requests do not name one."""
        good, bad = [], []
        for place, (key, body) in enumerate(requests):
            if place >= limit:
                if (line := self.form.not_run(key, word)) is not None:
                    bad.append(json.dumps(line).encode())
            elif self.name == "gemini" and not {f"files/{name}" for name in images_in(body)} <= set(self.files):
                bad.append(json.dumps(self.form.failed(key) | {"error": {"code": 7, "message": _GONE}}).encode())
            elif self._fault("line_error"):
                bad.append(json.dumps(self.form.failed(key)).encode())
            elif not self._fault("line_missing"):
                self.billed[key] += 1
                text = self.answer(body if model is None else {**body, "model": model})
                whole = json.dumps(self.form.answer(key, text, body)).encode()
                if self._fault("line_damaged"):
                    good.append(whole[: len(whole) // 2])
                    continue
                self.replied[key] += 1
                good += [whole] * (1 + self._fault("line_twice"))
                if self._fault("line_foreign"):
                    good.append(json.dumps(self.form.answer("somebody-else", text, body)).encode())
        return good, bad

    async def _state(self, request: web.Request) -> web.StreamResponse:
        if self._fault("poll_500"):
            return self._error(500)
        number = request.match_info["id"]
        self.not_found -= (missing := self.not_found > 0)
        if missing or number not in self.batches or "deleted" in self.batches[number]:
            return self._error(404)
        batch = self.batches[number]
        if batch["status"] == "in_progress" and not self.running:
            batch["polls"] -= 1
            if batch["polls"] < 0:
                self._answer_lines(number, batch)
        if batch["status"] != "in_progress" and self._used("late"):
            batch = {name: value for name, value in batch.items() if name not in {"output_file_id", "error_file_id"}}
        return web.json_response(self.form.state(batch))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        shown = [] if self._used("unlisted") else [batch for batch in reversed(self.batches.values()) if "deleted" not in batch]
        return self._page(request, [self.form.state(batch) for batch in shown], "operations")

    async def _list_files(self, request: web.Request) -> web.StreamResponse:
        return self._page(request, [self._about(number) for number in reversed(self.names) if number in self.files], "files")

    def _page(self, request: web.Request, entries: list[dict[str, Any]], gemini_name: str) -> web.StreamResponse:
        if not self.lists:
            return self._error(404)
        query, limit = request.query, int(request.query.get("limit", request.query.get("pageSize", "20")))
        after = query.get("after", query.get("after_id"))
        by_id = next((i + 1 for i, entry in enumerate(entries) if after is not None and entry["id"] == after), 0)
        start = int(query.get("pageToken", query.get("page", by_id)))
        page, more = entries[start : start + limit], start + limit < len(entries)
        if self.name == "gemini":
            return web.json_response({gemini_name: page} | ({"nextPageToken": str(start + limit)} if more else {}))
        return web.json_response({"object": "list", "data": page, "has_more": more, "next_page": str(start + limit) if more else None})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        if (data := self.files.get(request.match_info["id"])) is None:
            return self._error(404)
        if self._fault("download_500"):
            return self._error(500)
        if self._fault("download_cut"):
            response = web.StreamResponse(headers={"Content-Length": str(len(data) + 1)})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=data)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["id"]
        self.deleted.append(number)
        if self.delete_status != 200 or number in self.undeletable:
            return self._error(500 if self.delete_status == 200 else self.delete_status)
        known = self.files.pop(number, None) is not None or number in self.batches
        if number in self.batches:
            self.batches[number]["deleted"] = True
        if not known:
            return self._error(403 if self.name == "gemini" and number.startswith("files/") else 404)
        return web.json_response({"id": number, "deleted": True} if self.name == "openai" else {"id": number})

    async def _batch_stats(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"replied": self.replied, "billed": self.billed, "happened": self.happened, "batches": len(self.batches)})
