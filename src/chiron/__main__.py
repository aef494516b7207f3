"""``chiron``, and ``python -m chiron``."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The command line. Interrupted while it is still being loaded, it leaves as it would later: quietly, with 130."""
    try:
        from chiron.cli.app import main as obey
    except KeyboardInterrupt:
        sys.exit(130)
    obey()


if __name__ == "__main__":
    main()
