"""Routing: the arm that answers a client, the same one each time."""

from __future__ import annotations

import hashlib

from wishbone.core.serve.settings import Route


def choose_arm(name: str, route: Route, client: str) -> str:
    """Choose by a hash of ``client``, so that arms get their shares and each client keeps its own.

    The name of the route goes into the hash: two routes divide the same clients independently.
    """
    digest = hashlib.sha256(f"{name}\n{client}".encode(errors="replace")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(route.arms.values())
    for arm, share in route.arms.items():
        point -= share
        if point < 0:
            return arm
    # rounding left the point at the very end
    return next(arm for arm in reversed(route.arms) if route.arms[arm])
