"""``chiron``, and ``python -m chiron``."""

import gc
import sys
from typing import NoReturn

_NEW_OBJECTS = 5_000
"""New objects before the garbage collector looks at them. With Python's 700 it takes 0.1 s of CPU of each start and 0.1 ms a call."""


def main() -> NoReturn:
    """The command line. Interrupted while it is still being loaded, it leaves as it would later: quietly, with 130."""
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    try:
        from chiron.cli.app import main as obey
    except KeyboardInterrupt:
        sys.exit(130)
    obey()


if __name__ == "__main__":
    main()
