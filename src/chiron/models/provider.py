"""What the desk needs of anything that answers calls."""

from typing import Protocol

from chiron.models.call import Call, Reply


class Provider(Protocol):
    """One model, ready to be asked."""

    identity: str
    """What answers, for the key: the same string means the same distribution of replies."""

    async def complete(self, call: Call) -> Reply:
        """One attempt.

        Raises:
            CallFailed: in one of its three classes.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
