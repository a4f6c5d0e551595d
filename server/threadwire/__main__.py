"""``python -m threadwire`` is the ``threadwire`` command."""

import sys

from threadwire.cli import main

sys.exit(main())
