"""A queue for the slots of a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wishbone.core.contract.errors import CapabilityError


class SlotQueue:
    """Requests in the order in which they came, each waiting for all the slots it needs."""

    def __init__(self, slots: int) -> None:
        self._count = self._free = slots
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def slots(self, count: int) -> Iterator[None]:
        """Hold so many slots. Raises ``CapabilityError`` for more than there are."""
        if count > self._count:
            raise CapabilityError(
                "A guided request needs two slots, and this server has one.",
                "Server(slots=...)",
                "Make a server of two slots or more, or leave guidance at 1.",
            )
        # the first in the queue keeps the turn while it waits, so nobody overtakes it
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()
