"""The part of a ledger that knows what became of every case. All of it can be made again from the replies."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chiron.errors import InputError
from chiron.models.ledger_store import Store

MAX_RECORD = 64 * 2**20
"""Bytes of one case's record, unpacked. The largest tree of long replies stays far below."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What became of one case, as the run recorded it."""

    case_id: str
    position: int
    """Of the case in its file, from 0; results are written out in this order."""
    fingerprint: str
    """The case's, so that an edited case is searched again."""
    outcome: str
    retained: bool
    mics_score: float | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResultHead:
    """A result without its record."""

    position: int
    fingerprint: str
    outcome: str
    retained: bool
    mics_score: float | None


class Results(Store):
    """What became of cases."""

    def put_result(self, result: StoredResult) -> None:
        """Keep what became of a case, in place of what was known of it before.

        Raises:
            DiskError: the disk took it not.
        """
        row = (
            result.case_id, result.position, result.fingerprint, result.outcome, int(result.retained), result.mics_score,
            _pack(result.record),
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO results VALUES (?,?,?,?,?,?,?)", row)

    def result_heads(self) -> dict[str, ResultHead]:
        """What is known of every case on record, by its id."""
        rows = self._read("SELECT case_id, position, fingerprint, outcome, retained, mics_score FROM results")
        heads = {}
        for case_id, position, fingerprint, outcome, retained, score in rows:
            heads[case_id] = ResultHead(position, fingerprint, outcome, bool(retained), score)
        return heads

    def move_result(self, case_id: str, position: int) -> None:
        """The case stands elsewhere in its file now."""
        self._write("UPDATE results SET position = ? WHERE case_id = ?", (position, case_id))

    def drop_result(self, case_id: str) -> None:
        """The case is in the file no more. Its replies stay: should it come back, it costs nothing."""
        self._write("DELETE FROM results WHERE case_id = ?", (case_id,))

    def results(self, *, retained: bool | None = None) -> Iterator[StoredResult]:
        """Every result in the order of the case file, one at a time; only the retained ones, or only the others, by choice."""
        query = (
            "SELECT case_id, position, fingerprint, outcome, retained, mics_score, record FROM results"
            " WHERE ?1 IS NULL OR retained = ?1 ORDER BY position, case_id"
        )
        for row in self._read(query, (None if retained is None else int(retained),)):
            case_id, position, fingerprint, outcome, kept, score, record = row
            yield StoredResult(case_id, position, fingerprint, outcome, bool(kept), score, self._unpack(case_id, record))

    def outcomes(self) -> dict[tuple[str, bool], int]:
        """How many cases had each (outcome, retained)."""
        rows = self._read("SELECT outcome, retained, COUNT(*) FROM results GROUP BY outcome, retained")
        return {(outcome, bool(retained)): count for outcome, retained, count in rows}

    def scores(self) -> list[float]:
        """The MICS-Score of every case that has one."""
        return [row[0] for row in self._read("SELECT mics_score FROM results WHERE mics_score IS NOT NULL")]

    def _unpack(self, case_id: str, blob: bytes) -> dict[str, Any]:
        try:
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(blob, MAX_RECORD)
            if not unpacking.eof:
                raise self._garbled(case_id)  # cut short, or a bomb
            value = json.loads(text.decode("utf-8", "surrogatepass"))
        except (zlib.error, ValueError, TypeError, RecursionError) as error:
            raise self._garbled(case_id) from error
        if not isinstance(value, dict):
            raise self._garbled(case_id)
        return value

    def _garbled(self, case_id: str) -> InputError:
        return InputError(
            f"{self.path} is damaged: the result of case '{case_id}' cannot be read. Take the results away (sqlite3 {self.path.name}"  # noqa: S608 - words
            " 'DELETE FROM results'); the same search then makes them anew from the replies, at no cost"
        )


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)
