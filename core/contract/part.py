"""What the classes of all slots share."""

from __future__ import annotations

from typing import Any, ClassVar


class Part:
    """Base of the classes of all slots."""

    Config: ClassVar[type]
    """Dataclass: the schema of the slot in the YAML file."""

    @classmethod
    def small_config(cls) -> Any:
        """A config to run the contract suite on; None lets the suite make ``Config()`` small."""
        return None
