"""Download benchmarks: what is needed, how large it is, under which license; each data set once, resumed and verified."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from chiron.client.config_file import unknown_name
from chiron.errors import ChironError, InputError
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.registry import benchmark_of, benchmarks, suites
from chiron.extras import install_command
from chiron.io import alone, unwritten, write_atomically

RECORD = ".chiron/fetched.json"
"""In a downloaded folder: where its files are from, and which of them are verified."""
VERSION = 1


class FetchInterrupted(ChironError):
    """A download broke off. Running the same command again resumes it."""


@dataclass(frozen=True)
class RemoteFile:
    """One file to download."""

    path: str
    """Where it is stored, relative to the data set's folder."""
    size: int | None = None
    """In bytes; ``None`` if the server does not say."""
    digest: str = ""
    """``sha256:HEX``, or ``git:HEX`` (the SHA-1 of git's blob); empty if the source gives none."""
    url: str = ""
    local: Path | None = None
    """The file itself, in a mirror folder."""


@dataclass(frozen=True)
class _Source:
    """A data set as its source lists it."""

    files: tuple[RemoteFile, ...]
    revision: str | None = None
    license: str = ""
    login: str = ""
    """How to get access, if that needs a login that is missing."""


@dataclass(frozen=True)
class Download:
    """One data set, and what is needed of it."""

    folder: Path
    name: str
    """The hub's id, or the benchmark's name for data from elsewhere."""
    benchmarks: tuple[str, ...]
    license: str
    files: tuple[RemoteFile, ...] = ()
    revision: str | None = None
    problem: str = ""
    """Why it cannot be downloaded, and what to do."""

    @property
    def missing(self) -> tuple[RemoteFile, ...]:
        """The files that are not there yet, or not verified."""
        known = _record(self.folder)
        return tuple(file for file in self.files if not _is_verified(self.folder / file.path, file, known.get(file.path)))


def plan(names: Sequence[str], data: Path, *, mirror: str | None = None, files: Sequence[Path] = ()) -> list[Download]:
    """Look up what the benchmarks need, one entry per data set. Nothing is downloaded.

    Args:
        names: benchmarks and suites.
        data: folder for the downloads; each data set gets a folder in it.
        mirror: folder with ``OWNER/NAME/...`` or ``OWNER--NAME/...``, or the base address of a server like the hub.
        files: Python files with further benchmarks and suites.

    Raises:
        InputError: a name is unknown, the mirror does not exist, or a package is missing.
    """
    if mirror is not None and not _is_address(mirror) and not Path(mirror).is_dir():
        raise InputError(f"mirror folder {mirror} does not exist: give a folder, or an address that starts with https://")
    groups: dict[str, list[Benchmark]] = {}
    for benchmark in _benchmarks_of(names, files):
        groups.setdefault(benchmark.folder, []).append(benchmark)
    return [_planned(group, data / folder, mirror) for folder, group in groups.items()]


def download(wanted: Download) -> None:
    """Download and verify the missing files. A partial file is continued where it ended.

    Raises:
        InputError: access is denied, a file has another size or hash than its source gives, or there is not enough space.
        FetchInterrupted: the connection broke.
        DiskError: a file cannot be written.
    """
    with alone(wanted.folder / ".chiron" / "fetch.lock", place=f"folder {wanted.folder}", busy=f"{wanted.folder} is being fetched: wait"):
        missing = wanted.missing
        need, free = sum(file.size or 0 for file in missing), shutil.disk_usage(wanted.folder).free
        if need > free:
            raise InputError(f"{wanted.name} needs {in_bytes(need)}, but {wanted.folder} has {in_bytes(free)} free: use another --data")
        for file in missing:
            _fetch(wanted, file)
            known = _record(wanted.folder)
            known[file.path] = _fingerprint(wanted.folder / file.path) | {"digest": file.digest}
            about = {"version": VERSION, "source": wanted.name, "revision": wanted.revision, "license": wanted.license, "files": known}
            write_atomically(wanted.folder / RECORD, [json.dumps(about, indent=1, ensure_ascii=False) + "\n"])


def in_bytes(size: int) -> str:
    """Format a size with a decimal unit: ``18.9 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _benchmarks_of(names: Sequence[str], files: Sequence[Path]) -> list[Benchmark]:
    tables, known = suites(files), benchmarks(files)
    wanted: list[str] = []
    for name in names:
        if name not in tables and name not in known:
            raise InputError(unknown_name("benchmark or suite", name, [*tables, *known], "'chiron eval --list' shows all"))
        wanted += tables[name].benchmarks if name in tables else [name]
    return [benchmark_of(name, files) for name in dict.fromkeys(wanted)]


def _planned(group: Sequence[Benchmark], folder: Path, mirror: str | None) -> Download:
    first = group[0]
    licenses = "; ".join(dict.fromkeys(benchmark.license for benchmark in group))
    found = Download(folder, first.hub or first.name, tuple(b.name for b in group), licenses)
    if first.hub is None and not any(b.web_files for b in group):
        return replace(found, problem=f"it cannot be fetched: {first.instructions}")
    try:
        source = _source(group, folder.name, mirror)
        files = tuple({file.path: file for benchmark in group for file in _needed(benchmark, source.files)}.values())
    except InputError as problem:
        return replace(found, problem=str(problem))
    card = f" (its card: {source.license})" if source.license and source.license.casefold() not in licenses.casefold() else ""
    return replace(found, files=files, revision=source.revision, license=licenses + card, problem=source.login)


def _needed(benchmark: Benchmark, listed: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Choose the files that the loader reads: by the first pattern of records that fits, all archives, and the extra files."""

    def fitting(pattern: str) -> list[RemoteFile]:
        return [file for file in listed if any(_fits(file.path, part) for part in pattern.split("|"))]

    records = next((found for pattern in benchmark.files if (found := fitting(pattern))), [])
    extra = next((found for pattern in benchmark.extra_files if (found := fitting(pattern))), [])
    for found, patterns in ((records, benchmark.files[:1]), (extra, benchmark.extra_files)):
        if patterns and not found:
            fix = benchmark.instructions or "update chiron, or choose another --mirror"
            raise InputError(f"its source has no file {' or '.join(patterns)} for {benchmark.name}: {fix}")
    return [*records, *(file for pattern in benchmark.archives for file in fitting(pattern)), *extra]


def _fits(path: str, pattern: str) -> bool:
    """Match as :meth:`Path.glob` does: ``*`` does not cross folders. A path that leaves its folder never matches."""
    parts, patterns = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return ".." not in parts and len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _source(group: Sequence[Benchmark], folder: str, mirror: str | None) -> _Source:
    if mirror is not None and not _is_address(mirror):
        places = [Path(mirror) / place for place in (group[0].hub or folder, folder)]
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            raise InputError(f"mirror {mirror} has no folder {' or '.join(str(place) for place in dict.fromkeys(places))}: add it there")
        return _in_folder(found)
    hub = _on_hub(group[0].hub, mirror) if group[0].hub is not None else _Source(())
    web = {file.path: file for benchmark in group for file in benchmark.web_files}
    return replace(hub, files=(*hub.files, *(RemoteFile(w.path, _size_of(w.url), w.digest, w.url) for w in web.values())))


def _in_folder(folder: Path) -> _Source:
    known = _record(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return _Source(
        tuple(RemoteFile(name, path.stat().st_size, known.get(name, {}).get("digest", ""), local=path) for name, path in paths.items())
    )


def _on_hub(hub: str, endpoint: str | None) -> _Source:
    library = _library()
    api = library.HfApi(endpoint=endpoint.rstrip("/") if endpoint is not None else None)
    address = api.endpoint
    try:
        about = api.dataset_info(hub, files_metadata=True)
    except Exception as error:
        raise _refused(hub, address, error) from error
    files = tuple(
        RemoteFile(
            file.rfilename,
            file.size,
            f"sha256:{file.lfs.sha256}" if file.lfs is not None else f"git:{file.blob_id}" if file.blob_id else "",
            library.hf_hub_url(hub, file.rfilename, repo_type="dataset", revision=about.sha, endpoint=address),
        )
        for file in about.siblings or ()
    )
    card = about.card_data.get("license") if about.card_data is not None else None
    licenses = card if isinstance(card, str) else ", ".join(card or ())
    return _Source(files, about.sha, licenses, _how_to_log_in(hub, address) if about.gated and library.get_token() is None else "")


def _how_to_log_in(hub: str, address: str) -> str:
    return (
        f"{hub} needs a login: accept its conditions at {address}/datasets/{hub}, then run 'hf auth login' or set HF_TOKEN,"
        " and run the same command again"
    )


def _refused(what: str, address: str, error: Exception) -> ChironError:
    """Describe in one line why a server did not give something."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return InputError(_how_to_log_in(what, address))
    if status == 404:
        return InputError(f"{what} is not at {address}: check the address, or choose another --mirror")
    reason = f"HTTP {status}" if status else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    return InputError(f"{what} cannot be reached at {address} ({reason:.120}): check the network, or use --mirror FOLDER or ADDRESS")


def _size_of(url: str) -> int | None:
    try:
        answer = _library().get_session().head(url, follow_redirects=True)
        answer.raise_for_status()
    except Exception as error:
        raise _refused(url.rpartition("/")[2], url, error) from error
    size = answer.headers.get("content-length", "")
    return int(size) if size.isdigit() and answer.headers.get("content-encoding") is None else None


def _fetch(wanted: Download, file: RemoteFile) -> None:
    target = wanted.folder / file.path
    # A part of another version of the file must not be continued.
    version = hashlib.sha256(f"{wanted.revision}{file.digest}{file.size}".encode()).hexdigest()[:8]
    part = target.with_name(f".{target.name}.{version}.part")
    try:
        if not target.is_file() or _wrong(target, file):
            part.parent.mkdir(parents=True, exist_ok=True)
            if file.local is not None:
                shutil.copyfile(file.local, part)
            else:
                _receive(wanted, file, part)
            if problem := _wrong(part, file):
                part.unlink()
                raise InputError(f"{target} {problem}: it was removed; run the same command again, or choose another --mirror")
            part.replace(target)
    except OSError as error:
        raise unwritten(target, error) from error


def _receive(wanted: Download, file: RemoteFile, part: Path) -> None:
    """Append what is missing of a file to its part, over HTTP."""
    from huggingface_hub.file_download import http_get

    # The token is for the hub's own addresses only.
    is_hub = f"/datasets/{wanted.name}/resolve/" in file.url
    headers = {"Accept-Encoding": "identity"} | (_library().utils.build_hf_headers(library_name="chiron") if is_hub else {})
    with part.open("ab") as out:
        try:
            http_get(file.url, out, resume_size=out.tell(), headers=headers, expected_size=file.size, displayed_filename=file.path)
        except Exception as error:
            response = getattr(error, "response", None)
            if isinstance(error, OSError) and error.errno is not None and response is None:
                raise
            out.flush()
            refusal = _refused(wanted.name, file.url.partition("/datasets/")[0], error)
            if getattr(response, "status_code", None) in {401, 403, 404}:
                raise refusal from error
            done = f"{in_bytes(out.tell())} of {in_bytes(file.size) if file.size is not None else 'it'}"
            raise FetchInterrupted(f"{file.path} of {refusal}; {done} are kept: run the same command again to resume") from error


def _wrong(path: Path, file: RemoteFile) -> str:
    """Describe what is wrong with a downloaded file; empty if nothing is."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, but its source has {file.size:,}"
    kind, _, expected = file.digest.partition(":")
    if expected and _hash(path, kind, size) != expected:
        return f"does not have the hash of its source ({file.digest})"
    return ""


def _hash(path: Path, kind: str, size: int) -> str:
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def _record(folder: Path) -> dict[str, Any]:
    """Read the verified files of a folder; empty if nothing was downloaded there, or if the record is damaged (files are then checked)."""
    try:
        known = json.loads((folder / RECORD).read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return known if isinstance(known, dict) else {}


def _fingerprint(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns}


def _is_verified(path: Path, file: RemoteFile, known: Mapping[str, Any] | None) -> bool:
    """Whether a file is the one that was verified. Its hash is not computed again, because archives are large."""
    return known is not None and path.is_file() and known == _fingerprint(path) | {"digest": file.digest}


def _is_address(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(f"downloading needs the package huggingface_hub ({error}): {install_command('eval')}") from error
    return huggingface_hub
