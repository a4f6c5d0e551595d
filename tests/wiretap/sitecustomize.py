"""Found by every Python that the tests start (PYTHONPATH): where it is ``threadwire serve``, its wires are tapped."""

import importlib.util
import os
import sys
from pathlib import Path

if os.environ.get("WIRETAP") and "serve" in sys.orig_argv:
    # By its place: the tests' own modules are not for the server to find.
    _spec = importlib.util.spec_from_file_location("wiretap", Path(__file__).with_name("tap.py"))
    assert _spec is not None
    assert _spec.loader is not None
    _tap = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_tap)
    _tap.install()
