"""DeltaNet (arXiv 2406.06484): the delta rule without a decay."""

from __future__ import annotations

from wishbone.core.contract.stack.mixer import Place
from wishbone.plugins.delta.memory import DeltaConfig, DeltaMemory


class DeltaNet(DeltaMemory):
    """``memory.py`` as it is: g = 0 and no gate."""

    targets = ("qkv", "output")
    eps = 1e-5

    def __init__(self, config: DeltaConfig, place: Place) -> None:
        super().__init__(config, place)
        self.reset_parameters()
