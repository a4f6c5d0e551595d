"""For the tests of people who serve a graph of their own: a real server, a scripted model, matchers for frames.

::

    async def test_it_greets(tmp_path):
        graph = build_graph(ScriptedModel("Hello there."))
        async with serve(graph, folder=tmp_path) as server, server.connect() as chat:
            frames = [frame async for frame in chat.send("hi")]
            assert_frames(frames, "run_started", ..., some("token"), ..., frame("run_finished", status="completed"))

With ``pytest_plugins = ["threadwire.testing.plugin"]`` in a ``conftest.py`` there is the fixture ``threadwire_serve``.
See docs/testing.md. Nothing here is imported by the server.
"""

from threadwire.testing.frames import assert_frames, frame, maybe, some
from threadwire.testing.model import ScriptedModel, calls
from threadwire.testing.server import Server, serve

__all__ = ["ScriptedModel", "Server", "assert_frames", "calls", "frame", "maybe", "serve", "some"]
