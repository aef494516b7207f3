"""A directory used by one process at a time: ``run.json``, ``ledger.sqlite``, and files derived from the ledger."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.io import alone, is_held, remove_leftovers, write_atomically

LEDGER, RUN, LOCK = "ledger.sqlite", "run.json", "run.lock"
_BEFORE_A_RUN = frozenset({LOCK, "images", "copies", "leases.sqlite", "workers.json", "errors.log"})
"""Files that may be in a run directory before its run: the images of benchmarks, and those of an engine."""


def not_a_run(path: Path) -> InputError:
    """Return the error for a directory without a run. It names runs in its subfolders, of which one may be meant."""
    inside = [str(run.parent) for run in sorted(path.glob(f"*/{RUN}"))[:3]] if path.is_dir() else []
    advice = f"choose a run in it, such as {', '.join(inside)}" if inside else "choose another directory"
    return InputError(f"{path} is not a run directory (it has no {RUN}): {advice}")


@dataclass(frozen=True)
class WorkDirectory:
    """Directory of one search, build or evaluation."""

    path: Path
    alternative: ClassVar[str] = ""
    """Advice for the error message when a directory has another identity."""

    @property
    def ledger(self) -> Path:
        return self.path / LEDGER

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this process; create it if missing.

        Raises:
            InputError: another process uses it, or it is not writable.
        """
        busy = f"{self.path} is in use by another process: wait for it, or choose another directory"
        # "chiron status" locks it for a moment.
        with alone(self.path / LOCK, place=f"run directory {self.path}", busy=busy, wait=1.0):
            remove_leftovers(self.path)
            yield

    @contextmanager
    def opened(self, identity: dict[str, Any]) -> Iterator[Ledger]:
        """Lock the directory, check its ``identity`` (everything that results depend on), and open its ledger.

        Raises:
            InputError: another process uses it, its identity differs (the message says where), or it is not writable.
            DiskError: the disk is full.
        """
        self._need_ours()
        with self.locked():
            self._check_identity(identity)
            with Ledger.open(self.ledger, begun=self.read_run() is not None) as ledger:
                self._check_ledger(identity, ledger)
                yield ledger

    @property
    def in_use(self) -> bool:
        """Return whether a process uses it right now."""
        return is_held(self.path / LOCK)

    def read_run(self) -> dict[str, Any] | None:
        """Return the content of ``run.json``, or ``None`` if it is missing.

        Raises:
            InputError: it is damaged.
        """
        try:
            value = json.loads((self.path / RUN).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self.path / RUN} cannot be read ({error}): move it away and run again; the ledger has all replies"
            ) from error
        if not isinstance(value, dict):
            raise InputError(f"{self.path / RUN} is damaged (not a JSON object): move it away and run again; the ledger has all replies")
        return value

    def need_run(self) -> dict[str, Any]:
        """Return the content of ``run.json``.

        Raises:
            InputError: this is not a run directory.
        """
        run = self.read_run()
        if run is None:
            raise not_a_run(self.path)
        return run

    def _need_ours(self) -> None:
        """Check that a directory without a run contains nothing else."""
        if not os.path.isdir(self.path) or os.path.isfile(self.path / RUN) or os.path.isfile(self.ledger):
            return
        try:
            names = [file.name for file in self.path.iterdir()]
        except OSError as error:
            raise InputError(f"run directory {self.path} cannot be read: {error.strerror}") from error
        others = sorted(name for name in names if not name.startswith(".") and name not in _BEFORE_A_RUN)
        if others:
            listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise InputError(f"{self.path} is not a run directory, and contains other files ({listed}): choose a new or an empty directory")

    def _check_identity(self, identity: dict[str, Any]) -> None:
        """Check that ``run.json``, if present, has this ``identity`` (everything that results depend on)."""
        known = self.read_run()
        if known is not None:
            self._need_same(known.get("identity", {}), identity)
            if not self.ledger.is_file():
                raise InputError(
                    f"{self.path} has a {RUN} but no {LEDGER}, which contains all replies: restore it, or choose another directory"
                )

    def _check_ledger(self, identity: dict[str, Any], ledger: Ledger) -> None:
        """Check the identity in the ledger, which survives the loss of ``run.json`` and keeps the identity of the first run."""
        try:
            known = json.loads(ledger.remember("identity", json.dumps(identity)))
        except ValueError as error:
            raise InputError(
                f"{self.ledger} is damaged (the identity of its run cannot be read: {error}): choose another directory"
            ) from error
        self._need_same(known, identity)

    def _need_same(self, known: Any, identity: dict[str, Any]) -> None:
        if known != identity:
            difference = "; ".join(differences(known, identity))
            raise InputError(
                f"{self.path} contains a run with another configuration ({difference}): choose another directory{self.alternative}"
            )

    def write_run(self, identity: dict[str, Any], rest: dict[str, Any]) -> None:
        """Write ``run.json``: the ``identity``, and the ``rest``, which results do not depend on."""
        known = self.read_run()
        began = known.get("began") if known else time.strftime("%Y-%m-%dT%H:%M:%S%z")
        value = {**rest, "began": began, "python": platform.python_version(), "identity": identity}
        write_atomically(self.path / RUN, [json.dumps(value, indent=2, ensure_ascii=False) + "\n"])


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """List the entries in which two identities differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{place}.{k}" if place else k)]
    return [] if old == new else [f"{place}: {_short(old)} there, {_short(new)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
