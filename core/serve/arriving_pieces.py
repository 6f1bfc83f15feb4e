"""Text that a client sends piece by piece, handed to the thread that speaks it."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from wishbone.core.contract.sentences import PIECE_END
from wishbone.core.speak.server import Cancelled


class ArrivingPieces:
    """A queue of pieces: filled on the event loop, iterated once in another thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._cancelled = False
        self.text = ""
        """All that came so far."""
        self.size = 0
        """Characters and flushes that came so far: what a limit counts."""

    def add(self, piece: str) -> None:
        """Hand a piece on."""
        self.text += piece
        self.size += len(piece)
        self._queue.put(piece)

    def flush(self) -> None:
        """Let the sentence end here, so that all of it is spoken now."""
        self.size += 1
        self._queue.put(PIECE_END)

    def end(self) -> None:
        """Say that nothing follows."""
        self._queue.put(None)

    def cancel(self) -> None:
        """Wake the thread that waits for a piece, which ends by ``Cancelled``."""
        self._cancelled = True
        self._queue.put(None)

    def __iter__(self) -> Iterator[str]:
        while True:
            piece = self._queue.get()
            if self._cancelled:
                raise Cancelled
            if piece is None:
                return
            yield piece
