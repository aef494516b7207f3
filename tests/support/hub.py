"""Fake Hugging Face hub over real HTTP: the metadata and the files of data sets, ranges, logins and broken connections."""

import hashlib
import secrets
import threading
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from pathlib import Path
from typing import Any, Self

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves ``root/OWNER/NAME/...`` as data sets, and ``/web/...`` as files from elsewhere."""

    root: Path
    gated: frozenset[str] = frozenset()
    """Data sets that need ``token``."""
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(8)}")
    licenses: dict[str, str] = field(default_factory=dict)
    lie: set[str] = field(default_factory=set)
    """Paths whose published hash is wrong."""
    also: tuple[str, ...] = ()
    """Names that every data set lists, and that are not in its folder."""
    cut_after: int | None = None
    """Break the connection after so many bytes of a file of more bytes, once; then refuse files until it is ``None``."""
    ranges: list[str] = field(default_factory=list)
    """The ``Range`` headers of all downloads, empty for whole files."""
    served: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    broken: bool = False
    uploaded: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of repositories that were written to, by ``TYPE/OWNER/NAME`` and path."""
    private: dict[str, bool] = field(default_factory=dict)
    """Whether a repository that exists or was created is private, by ``OWNER/NAME``."""
    created: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests that created repositories."""
    _stored: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_POST(self) -> None:
                hub.written(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub._stored[hashlib.sha256(data).hexdigest()] = data
                hub._send(self, 200, b"")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        parts = request.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api" and parts[1] in {"models", "datasets"} and "/".join(parts[2:4]) in self.private:
            name = "/".join(parts[2:4])
            self._json(request, {"id": name, "sha": REVISION, "private": self.private[name], "siblings": [], "tags": []})
        elif parts[:2] == ["api", "datasets"]:
            self._metadata(request, "/".join(parts[2:4]))
        elif parts[0] == "datasets" and parts[3] == "resolve":
            name = "/".join(parts[1:3])
            self.tokens.append(request.headers.get("Authorization"))
            if name in self.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
                self._send(request, 401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
            else:
                self._file(request, self.root / name / "/".join(parts[5:]), body=body)
        elif parts[0] == "web":
            self.tokens.append(request.headers.get("Authorization"))
            self._file(request, self.root / "/".join(parts), body=body)
        else:
            self._send(request, 404, b"")

    def written(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer the requests of an upload: create, preupload, large files, commit. All need ``token``."""
        path = request.path.partition("?")[0].strip("/")
        parts = path.split("/")
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(request, 401, b"{}", {"X-Error-Message": "Invalid username or password."})
        elif path == "api/validate-yaml":
            self._json(request, {"errors": [], "warnings": []})
        elif path == "api/repos/create":
            wanted = loads(body)
            self.created.append(wanted)
            name = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if name in self.private else 200  # an existing repository keeps its visibility
            self.private.setdefault(name, wanted.get("visibility") == "private" or bool(wanted.get("private")))
            self._json(request, {"url": f"{self.url}/{name}"}, status)
        elif path.endswith("info/lfs/objects/batch"):
            actions = [
                {"oid": one["oid"], "size": one["size"], "actions": {"upload": {"href": f"{self.url}/put/{one['oid']}"}}}
                for one in loads(body)["objects"]
            ]
            self._json(request, {"objects": actions, "transfer": "basic"})
        elif "preupload" in parts:
            large = (".safetensors", ".parquet")
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular", "shouldIgnore": False}
                for one in loads(body)["files"]
            ]
            self._json(request, {"files": modes})
        elif "commit" in parts:
            files = self.uploaded.setdefault("/".join(parts[1:4]), {})
            for line in map(loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self._stored[value["oid"]]
            self._json(
                request, {"commitUrl": f"{self.url}/{parts[2]}/{parts[3]}/commit/{REVISION}", "commitOid": REVISION, "pullRequestUrl": None}
            )
        else:
            self._send(request, 404, b"{}")

    def _json(self, request: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
        self._send(request, status, dumps(content).encode(), {"Content-Type": "application/json"})

    def _metadata(self, request: BaseHTTPRequestHandler, name: str) -> None:
        folder = self.root / name
        if not folder.is_dir():
            self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [self._sibling(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings += [{"rfilename": also, "size": 1} for also in self.also]
        about: dict[str, Any] = {"id": name, "sha": REVISION, "private": False, "siblings": siblings, "tags": []}
        about |= {"gated": "auto" if name in self.gated else False, "cardData": {"license": self.licenses.get(name, "mit")}}
        self._send(request, 200, dumps(about).encode(), {"Content-Type": "application/json"})

    def _sibling(self, folder: Path, path: Path) -> dict[str, Any]:
        data, name = path.read_bytes(), path.relative_to(folder).as_posix()
        wrong = "x" if name in self.lie else ""
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data + wrong.encode(), usedforsecurity=False).hexdigest()
        about: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
        if path.suffix in {".zip", ".parquet"}:
            about["lfs"] = {"sha256": hashlib.sha256(data + wrong.encode()).hexdigest(), "size": len(data), "pointerSize": 130}
        return about

    def _file(self, request: BaseHTTPRequestHandler, path: Path, *, body: bool) -> None:
        if self.broken and self.cut_after is not None:
            self._send(request, 503, b"")
            return
        if not path.is_file():
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        wanted = request.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        request.send_response(206 if wanted else 200)
        for name, value in {"Content-Length": str(len(data) - start), "ETag": '"e"', "X-Repo-Commit": REVISION, **more}.items():
            request.send_header(name, value)
        request.end_headers()
        if not body:
            return
        self.ranges.append(wanted)
        self.served.append(path.relative_to(self.root).as_posix())
        if self.cut_after is not None and len(data) - start > self.cut_after:
            request.wfile.write(data[start : start + self.cut_after])
            self.broken = True
        else:
            request.wfile.write(data[start:])

    def _send(self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
