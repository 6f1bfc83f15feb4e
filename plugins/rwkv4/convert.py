"""RWKV-4's ``.pth``, such as BlinkDL/rwkv-4-pile-169m, as a stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wishbone.plugins.rwkv_files import RWKVFile


class RWKV4(RWKVFile):
    """All of a block is the width."""

    version, share, time_rows, mark = "4", "time_mix_", "kvr", "time_first"

    @classmethod
    def config_of(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Nothing depends on more than the width."""
        return {"mixer": {"name": "rwkv4"}, "ffn": {"name": "rwkv4_channel_mix"}}
