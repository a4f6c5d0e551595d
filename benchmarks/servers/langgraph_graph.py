"""The tutorial's graph, for ``langgraph dev``, which brings its own checkpointer."""

from benchmarks.servers.tutorial import build

graph = build()
