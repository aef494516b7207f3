"""All runs under the given folders, found again every few seconds and read in the background."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from chiron.jobs.directory import RUN
from chiron.view.dataset_states import BuildState, ReleaseState
from chiron.view.discovery import Kind, Place, find_places, kind_of, need_folders
from chiron.view.model_states import EvaluationState, TrainingState
from chiron.view.search_state import SearchState
from chiron.view.states import RunLine, RunState, Signature, UnknownState, stat_of

_FIND_EVERY = 5.0
"""Seconds between two searches for new runs."""
_AT_ONCE = 0.15
"""Seconds that a request reads for; the rest is read in the background."""
_SLICE = 0.1
"""Seconds that the background thread holds one run for."""
_STATES: dict[Kind, type[RunState]] = {
    "search": SearchState,
    "build": BuildState,
    "evaluation": EvaluationState,
    "training": TrainingState,
    "release": ReleaseState,
    "unknown": UnknownState,
}


class Library:
    """The runs under some folders."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Look for runs.

        Raises:
            InputError: a folder does not exist.
        """
        need_folders(folders)
        self.folders = tuple(Path(os.path.realpath(folder)) for folder in folders)
        self._lock = threading.RLock()
        self._states: dict[str, tuple[object, RunState]] = {}
        self._found_at = 0.0
        self.version = 0
        """Increases when background work changes what a page shows."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="chiron-view", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the background thread and free memory."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        for state in self.states():
            state.close()

    def states(self) -> list[RunState]:
        """Return every run, by path."""
        with self._lock:
            if time.monotonic() - self._found_at >= _FIND_EVERY or not self._found_at:
                self._states = {place.id: self._state(place) for place in find_places(self.folders)}
                self._found_at = time.monotonic()
            return [state for _, state in self._states.values()]

    def _state(self, place: Place) -> tuple[object, RunState]:
        mark = stat_of(place.path / RUN)
        known = self._states.get(place.id)
        if known is not None and known[0] == mark and known[1].kind != "unknown":
            return known
        kind = kind_of(place.path)[0]
        if known is not None and known[1].kind == kind:
            return mark, known[1]
        return mark, _STATES[kind](place)

    def get(self, run_id: str) -> RunState | None:
        with self._lock:
            known = self._states.get(run_id)
        return known[1] if known is not None else next((state for state in self.states() if state.place.id == run_id), None)

    def chosen(self, run_ids: Iterable[str]) -> list[RunState]:
        """Return the runs with these ids, each once; unknown ids are left out."""
        return [state for run_id in dict.fromkeys(run_ids) if (state := self.get(run_id)) is not None]

    def lines(self) -> list[RunLine]:
        """Return the lines of the home page: running ones first, then by last change."""
        until = time.monotonic() + _AT_ONCE
        lines = [state.line(until) for state in self.states()]
        return sorted(lines, key=lambda line: (line.state != "running", -line.changed, line.name))

    def signature(self, run_id: str | None = None) -> Signature:
        """Return a value that changes when a run changes, or any of them."""
        states = self.states() if run_id is None else [state for state in (self.get(run_id),) if state is not None]
        return (self.version, *((state.place.id, state.signature()) for state in states))

    def _work(self) -> None:
        while not self._ended.wait(0.05 if self._work_once() else 0.5):
            pass

    def _work_once(self) -> bool:
        changed = False
        for state in self.states():
            if self._ended.is_set():
                return False
            try:
                changed |= state.work(time.monotonic() + _SLICE)
            except Exception as problem:  # noqa: BLE001 - the thread must read the other runs
                state.damaged(problem)
                changed = True
        self.version += changed
        return changed
