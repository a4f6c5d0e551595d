"""What a run that was given up writes through: nothing more."""

from __future__ import annotations


class Fence:
    """The way of one run to its thread's checkpoints and to the store; ``close()`` shuts it for good.

    A node that does not stop when its run is given up may come back at any time; its later checkpoint would become
    the thread's newest and swallow the next turn. Once closed, each write through the run's saver and store raises
    ``FenceClosed`` before it reaches the database, also one that was waiting for its turn. One that has begun ends:
    what is read through ``Storage.saver()`` afterwards, which waits for it, is settled; ``reader`` may be before it.
    """

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether writes are refused."""
        return self._closed

    def close(self) -> None:
        """Refuse every write from now on."""
        self._closed = True

    def check(self) -> None:
        """Raise ``FenceClosed`` once closed."""
        if self._closed:
            raise FenceClosed


class FenceClosed(Exception):  # noqa: N818 -- it says what happened
    """A run that was given up tried to write."""
