"""Manners in which an arm's system speaks: its engine, alone or in a batch, at once or streamed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from wishbone.core.contract.part import Range


@dataclass(frozen=True)
class Manner:
    """Keys of an arm beside its system; without any, all arms speak in the same way."""

    engine: str = ""
    """Engine of this arm's decoding steps, NAME or NAME:WEIGHTS; empty: the one of all arms."""
    batch: Annotated[int, Range(0, 64)] = 0
    """Requests that share every step, of which one is the item and the others say the same text
    from other seeds; 0 means none but the item."""
    whole: bool = False
    """True: the decoder gets all codes at once, and not group after group as they are drawn; a
    piece in which something is wrong may then be drawn again, since nobody has heard of it yet."""
    arriving: bool = False
    """True: the text is given word by word, as it arrives from another program."""

    @property
    def changed(self) -> dict[str, object]:
        """The keys that say something else than usual."""
        usual = Manner()
        pairs = [(part.name, getattr(self, part.name)) for part in fields(self)]
        return {name: value for name, value in pairs if value != getattr(usual, name)}

    @property
    def suffix(self) -> str:
        """What follows the engine's name in tables."""
        words = [f"batch of {self.batch}"] if self.batch else []
        words += ["decoded at once"] if self.whole else []
        words += ["text word by word"] if self.arriving else []
        return "".join(f", {word}" for word in words)


MANNER = tuple(part.name for part in fields(Manner))
"""Keys of an arm that say how it speaks."""
