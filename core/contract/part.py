"""Base of all parts that are configured: a schema, and a small config to test with."""

from __future__ import annotations

from typing import Any, ClassVar


class Part:
    """Base of all parts that are configured: those of slots, and others that a file names."""

    Config: ClassVar[type]
    """Dataclass: the schema of the part's section in the YAML file."""

    @classmethod
    def small_config(cls) -> Any:
        """Return a config for the contract suite; None lets the suite make ``Config()`` small."""
        return None
