"""What a call's attempts cost: on record before each is sent, and let go, kept as possibly billed, or paid once its end is known."""

from chiron.models.call import Call, Reply
from chiron.models.ledger import Ledger


class Bill:
    """Of one call, as long as it is under way."""

    def __init__(self, call: Call, ledger: Ledger) -> None:
        """Nothing is on record yet."""
        self._call, self._ledger = call, ledger
        self._most = 0.0
        self._on_record: int | None = None
        """The attempt under way, as the ledger numbers it; ``None`` where no budget has to outlive this process."""

    def begin(self, most: float, *, on_record: bool) -> None:
        """An attempt that may cost ``most`` USD is about to be sent.

        ``on_record``: a process that goes on with this run has to know of it, should this one be killed.

        Raises:
            DiskError: the ledger took it not.
        """
        self._most = most
        if most and on_record:
            self._on_record = self._ledger.begin_attempt(self._call, most)

    def maybe_billed(self, kind: str, message: str) -> float:
        """It ended without an answer and may be billed all the same; the most it can have cost, in USD."""
        if self._on_record is not None:
            self._ledger.fail_attempt(self._on_record, kind, message)
            self._on_record = None
        elif self._most:
            self._ledger.note_failure(self._call, kind, message, final=False, cost_at_most=self._most)
        return self._most

    def not_billed(self) -> float:
        """It ended without an answer and is not billed: 0 USD."""
        if self._on_record is not None:
            self._ledger.end_attempt(self._on_record)
            self._on_record = None
        return 0.0

    def paid(self, reply: Reply) -> None:
        """Keep the reply for good, and let go of what was set aside for it in the same moment.

        Raises:
            DiskError: the ledger took it not.
        """
        self._ledger.put(self._call, reply, attempt=self._on_record)
