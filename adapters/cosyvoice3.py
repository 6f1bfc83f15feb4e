"""The CosyVoice3 layout: CosyVoice2's with one table, a prefix, and many ids behind the codes.

Everything that is fed beside text has its row in the speech table, which is the head's own::

    in      SOS p0 p1 ENDOFPROMPT t0 t1 t2 TASK s0 s1 s2 s3
    target   _  _  _       _       _  _  _  s0   s1 s2 s3 EOS

    ids     0 ... 6560   6561  6562  6563  6564  6565 ... 6760
            codes        SOS   EOS   TASK  FILL  mean nothing

The prefix ``p`` is the tokenizer's opening ("You are a helpful assistant.") and an instruction; its
marker ends it. The public code (``CosyVoice3LM`` in cosyvoice/llm/llm.py) refuses a text without.
Forms and paces are those of ``adapters/cosyvoice2.py``, the page to read first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.adapters.cosyvoice2_rules import (
    END_OF_PROMPT,
    SPEECH,
    CosyVoice2Config,
    SequenceRules,
)
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Range
from wishbone.core.contract.text import TextSpace

SOS, EOS, TASK, FILL, MEANT = range(5)
"""Ids behind the codes; from ``MEANT`` on they mean nothing."""


@dataclass
class CosyVoice3Config(CosyVoice2Config):
    """Schema of the slot ``layout: {name: cosyvoice3, ...}``."""

    extra_ids: Annotated[int, Range(MEANT - 1)] = 200
    """Ids behind the codes, of which four mean something; any of them ends in the public code."""


class OneTableRules(SequenceRules):
    """Ids and prefix of CosyVoice3."""

    config: CosyVoice3Config

    @property
    def eos(self) -> int:
        """Id that ends an utterance."""
        return self.codes.size + EOS

    @property
    def fill(self) -> int:
        """Id that asks for more text."""
        return self.codes.size + FILL

    @property
    def meaningless(self) -> tuple[int, ...]:
        """Ids that are fed or stand there for nothing; no training predicts them."""
        size = self.codes.size
        return size + SOS, size + TASK, *range(size + MEANT, size + self.extra)

    @property
    def extra(self) -> int:
        """Number of ids behind the codes."""
        return self.config.extra_ids

    @property
    def sos(self) -> tuple[int, int]:
        """Table and row of the first position."""
        return SPEECH, self.codes.size + SOS

    @property
    def task(self) -> tuple[int, int]:
        """Table and row of the position that begins the last codes."""
        return SPEECH, self.codes.size + TASK

    @property
    def tables(self) -> dict[str, int]:
        """Tables of a sequence -> their rows: the speech table holds the marks, too."""
        return {"speech": self.codes.size + self.extra, "text": self.text.vocabulary}

    @property
    def reads_instruct_first(self) -> bool:
        """True: what stands up to the marker is read with SOS."""
        return True

    def close_instruct(self, ids: Sequence[int]) -> list[int]:
        """Put the opening before an instruction, none included, and the marker behind.

        One that has the marker or begins with the opening is complete in that. A tokenizer without
        the marker has no prefix. Raises ``CapabilityError`` for an instruction with such a one.
        """
        marker, opening = self.text.specials.get(END_OF_PROMPT), list(self.text.opening)
        if marker is None or marker in ids:
            return super().close_instruct(ids)
        begun = list(ids[: len(opening)]) == opening
        return super().close_instruct([*([] if begun else opening), *ids]) or [marker]


class CosyVoice3(CosyVoice2):
    """SOS, prefix, text, TASK, speech, EOS; in one piece or alternating. One codebook.

    Raises ``ConfigError`` from the constructor as ``CosyVoice2``, and for ``fill: false``.
    """

    Config = CosyVoice3Config

    @classmethod
    def make_rules(
        cls, config: CosyVoice2Config, text: TextSpace, codes: CodeSpace
    ) -> SequenceRules:
        """Make the rules of one table."""
        if not config.fill:
            raise ConfigError(
                "CosyVoice3's table always has FILL.",
                "layout.fill of the cosyvoice3 layout",
                "Leave it out, or use the cosyvoice2 layout.",
            )
        return OneTableRules(config, text, codes)
