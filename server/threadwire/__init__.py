"""Serve any LangGraph graph as persistent, multi-session chat over WebSocket.

A message's way is the list of files: connection → protocol.decode → thread (the actor) → run →
streams (what the graph tells) → events (filter, as frames) → log → cursor → connection.

This package imports nothing by itself, so that ``threadwire.client`` and ``threadwire.protocol`` load neither
langgraph nor the server.
"""

__version__ = "0.1.0"
