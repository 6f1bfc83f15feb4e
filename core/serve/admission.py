"""Admission: slots in which requests speak, and a queue of bounded length in front of them.

All of it runs on the event loop's thread, so nothing here locks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from wishbone.core.serve.refusal import busy, draining

SMOOTHING = 0.2
"""Weight of the newest request in the mean time that a slot is taken."""


class Gate:
    """Slots of one system, its queue, and the requests whose answers are still on their way."""

    def __init__(self, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self.used = 0
        """Slots that requests speak in."""
        self.inside = 0
        """Requests that wait, speak or are still being sent."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = 1.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Be inside for the length of a request. Raises ``Refusal`` where there is no room."""
        if self._closed:
            raise draining()
        if self.inside >= self.slots + self.queue:
            raise busy(self.retry_after())
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def take(self) -> None:
        """Wait for a slot and take it; first come, first served. Raises ``Refusal`` on closing."""
        if self._closed:
            raise draining()
        if self.used < self.slots and not self._waiting:
            self.used += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._hand_on()  # the slot came at the moment in which nobody wanted it any more
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self, seconds: float) -> None:
        """Give a slot back that was taken for so long."""
        self._mean += SMOOTHING * (seconds - self._mean)
        self._hand_on()

    def retry_after(self) -> int:
        """Seconds until a slot is likely free for somebody who comes now."""
        return max(1, math.ceil(self._mean * (self.waiting + 1) / self.slots))

    def close(self) -> None:
        """Refuse everybody who waits and all that come."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(draining())

    def _hand_on(self) -> None:
        """Give the slot to the next in the queue, or let it be free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.used -= 1
