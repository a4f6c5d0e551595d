"""``python -m threadwire.terminal.child ARGUMENTS``: the ``threadwire`` command, as long as its stdin is open.

The system closes our end of that pipe however the parent goes, also when it is killed, and on every platform.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from threadwire.cli import main


def _end_with_the_parent() -> None:
    # Not sys.stdin.read(): a thread in there holds a lock that the interpreter wants at its end.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.exit(main())
