"""What can go wrong for a client, as one tree.

::

    ClientError
    ├── CommandFailed     the server answered a command with an ``error`` frame
    ├── Disconnected      the connection is gone and is not coming back
    ├── TurnFailed        a turn ended without the answer that ``Turn.text()`` was asked for
    ├── BatchFailed       a batch was stopped before all that ``Batch.results()`` was asked for
    └── TurnLost          a turn ended while nobody of us was listening, and its ``run_finished`` is gone

Knows no socket.
"""

from __future__ import annotations

from threadwire.protocol import BatchResultFrame, ErrorFrame, HistoryFrame, RunFinishedFrame


class ClientError(Exception):
    """The root of all that this client raises by itself."""


class CommandFailed(ClientError):  # noqa: N818 -- it says what happened
    """The server did not take a command.

    ``code`` is one of the protocol's error codes, ``retry`` whether the same command may work later, then
    after ``retry_after_seconds`` where the server knows it.
    """

    def __init__(self, code: str, message: str, retry: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry = retry
        self.retry_after_seconds = retry_after_seconds

    @classmethod
    def of(cls, frame: ErrorFrame) -> CommandFailed:
        """The failure an ``error`` frame tells of."""
        return cls(frame.code, frame.message, frame.retry, frame.retry_after_seconds)


class Disconnected(ClientError):  # noqa: N818 -- it says what happened
    """The connection ended and the chat with it, or a command that cannot be repeated went down with it.

    ``code`` is the WebSocket close code, 1006 where there was no close frame (network, refused upgrade);
    ``http_status`` is the status of a refused upgrade.
    """

    def __init__(self, code: int, reason: str, *, http_status: int | None = None) -> None:
        super().__init__(f"{code}: {reason}" if reason else str(code))
        self.code = code
        self.reason = reason
        self.http_status = http_status


class TurnFailed(ClientError):  # noqa: N818 -- it says what happened
    """A turn failed, was lost in a crash of the server, or ran into its timeout.

    ``finished`` is its last frame, ``text`` what the assistant had said until then.
    """

    def __init__(self, finished: RunFinishedFrame, text: str) -> None:
        why = finished.error.message if finished.error else finished.reason or "no reason given"
        super().__init__(f"the turn ended as {finished.status}: {why}")
        self.finished = finished
        self.text = text


class BatchFailed(ClientError):  # noqa: N818 -- it says what happened
    """A batch was cancelled, or failed as a whole.

    ``finished`` is its last frame, ``results`` what had finished until then, in the order of the inputs.
    """

    def __init__(self, finished: RunFinishedFrame, results: list[BatchResultFrame]) -> None:
        why = finished.error.message if finished.error else finished.reason or "no reason given"
        super().__init__(f"the batch ended as {finished.status}: {why}")
        self.finished = finished
        self.results = results


class TurnLost(ClientError):  # noqa: N818 -- it says what happened
    """A turn is over, but how it ended was said while this client was away, and the log no longer has it.

    ``history`` is the thread as it is now: the answer, if there is one, stands after the message
    ``message_id``. It is None where the server could not read it.
    """

    def __init__(self, run_id: str, message_id: str | None, history: HistoryFrame | None) -> None:
        super().__init__(f"run {run_id} ended while the connection was lost; see history for what it left")
        self.run_id = run_id
        self.message_id = message_id
        self.history = history
