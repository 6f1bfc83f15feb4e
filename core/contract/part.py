"""Base of the classes of all slots: a schema, and a small one to test with."""

from __future__ import annotations

from typing import Any, ClassVar


class Part:
    """Base of the classes of all slots."""

    Config: ClassVar[type]
    """Dataclass: the schema of the slot in the YAML file."""

    @classmethod
    def small_config(cls) -> Any:
        """Return a config for the contract suite; None lets the suite make ``Config()`` small."""
        return None
