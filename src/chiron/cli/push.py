"""`chiron push`: upload a trained model, an adapter or a dataset release to a hub of Hugging Face's kind."""

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import typer

from chiron.errors import InputError
from chiron.extras import install_command
from chiron.terminal import printable

_SKIPPED = (".*", "**/.*", "__pycache__/**")
"""Files that are never uploaded: drafts, and what tools leave behind."""


class PushRecord(TypedDict):
    """Output of ``chiron push --json``."""

    repo: str
    type: str
    """``model`` or ``dataset``."""
    files: dict[str, int]
    """Size in bytes by path."""
    url: NotRequired[str]
    """Address of the commit; absent after ``--dry-run``."""
    card: NotRequired[str]
    """Text of the card; only after ``--dry-run``."""


def push_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a model, an adapter or a dataset release.")],
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="Repository; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    revision: Annotated[str, typer.Option("--revision", metavar="BRANCH", help="Branch to upload to.")] = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files, their sizes and the card; upload nothing.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Upload a folder with its card (README.md). HF_TOKEN or `hf auth login` gives the token, and HF_ENDPOINT another hub."""
    try:
        import huggingface_hub  # noqa: F401 - checked before anything is read
    except ModuleNotFoundError as error:
        raise InputError(f"push needs the package huggingface_hub: {install_command('data')}") from error
    from chiron.mmrp.card import has_practice_text

    kind = _kind(folder)
    card = _card(folder, kind)
    if kind == "dataset" and has_practice_text(folder):
        raise InputError(f"{printable(str(folder))} contains practice text, which is not to be published: release parts without such paths")
    files = _files(folder)
    done: PushRecord = {
        "repo": repo,
        "type": kind,
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
    }
    if dry_run:
        done["card"] = card
    else:
        done["url"] = _upload(folder, repo, kind, private=private, revision=revision)
    if json_output:
        print(json.dumps(done, indent=2))
        return
    for name, size in done["files"].items():
        print(f"{size:>15,}  {printable(name)}")
    print(f"{sum(done['files'].values()):>15,}  in {len(files)} file{'s' if len(files) != 1 else ''}")
    print(f"\ncard of the {kind} {repo}:\n\n{printable_lines(card)}" if dry_run else done["url"])


def printable_lines(text: str) -> str:
    """Return a text of several lines without control characters."""
    return "\n".join(printable(line) for line in text.splitlines())


def _kind(folder: Path) -> str:
    """Return the repository's type.

    Raises:
        InputError: the folder contains none of the things that can be uploaded.
    """
    if not folder.is_dir():
        raise InputError(f"folder {printable(str(folder))} does not exist: name the folder to upload")
    if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
        return "model"
    if any((folder / "data").rglob("*.parquet")):
        return "dataset"
    hint = f": did you mean {folder / 'model'}?" if (folder / "model" / "config.json").is_file() else ""
    raise InputError(
        f"{printable(str(folder))} is not a model (config.json), an adapter (adapter_config.json) or a dataset release (Parquet files"
        f" in data/){hint or ': name one of these folders'}"
    )


def _card(folder: Path, kind: str) -> str:
    path = folder / "README.md"
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: write a card for the {kind}, with its license and its data") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _files(folder: Path) -> list[Path]:
    """Return the files to upload.

    Raises:
        InputError: one of them is a link to a file outside of the folder.
    """
    import huggingface_hub.utils as untyped

    filter_objects: Any = untyped.filter_repo_objects  # type: ignore[attr-defined]
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = list(filter_objects(every, ignore_patterns=list(_SKIPPED), key=lambda path: path.relative_to(folder).as_posix()))
    root = folder.resolve()
    for path in chosen:
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{printable(str(path))} is a link to a file outside of {folder}: replace it by a copy, or remove it")
    return chosen


def _upload(folder: Path, repo: str, kind: str, *, private: bool, revision: str) -> str:
    """Create the repository if needed and upload the folder in one commit; return its address.

    Raises:
        InputError: the hub cannot be reached, or refuses, or the repository is public although it should be private.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from chiron.client.failures import one_line

    hub = HfApi()
    try:
        hub.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        if private and not hub.repo_info(repo, repo_type=kind).private:  # the hub keeps the visibility of what exists
            raise InputError(f"{printable(repo)} exists and is public: make it private on the hub, name another, or omit --private")
        if revision != "main":
            hub.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True)
        made = hub.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=folder, revision=revision, ignore_patterns=list(_SKIPPED), commit_message="Upload"
        )
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError, ValueError) as error:
        why = one_line(str(error))
        refused = getattr(getattr(error, "response", None), "status_code", None) in {401, 403}
        fix = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there" if refused else "run the same command again"
        raise InputError(f"{printable(repo)} was not uploaded completely ({why}): {fix}") from error
    return str(made.commit_url)
