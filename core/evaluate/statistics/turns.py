"""Balanced orders: who speaks, or is heard, first."""

from __future__ import annotations


def williams(size: int) -> list[list[int]]:
    """Rows of a balanced Latin square (Williams 1949): each number once at each place.

    Each also follows each other equally often; an odd size needs twice as many rows for that.
    """
    first = [0]
    for step in range(1, size):
        first.append((step + 1) // 2 if step % 2 else size - step // 2)
    rows = [[(number + shift) % size for number in first] for shift in range(size)]
    return rows if size % 2 == 0 else [*rows, *([*reversed(row)] for row in rows)]
