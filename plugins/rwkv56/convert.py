"""RWKV-5.2's and RWKV-6's ``.pth``, such as BlinkDL/rwkv-5-world and rwkv-6-world, as stacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wishbone.plugins.rwkv_files import RWKVFile


class RWKV5(RWKVFile):
    """RWKV-5.2; 5.0 and 5.1 have one decay a head and no ``time_faaaa``."""

    version, share, time_rows, mark = "5.2", "time_mix_", "kvrg", "time_mix_g"
    names = {"time_faaaa": "bonus"}

    @classmethod
    def config_of(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The size of a head is that of a row of the bonus."""
        _, size = tensors["blocks.0.mixer.bonus"].shape
        mixer = {"name": "rwkv5", "head_size": size}
        return {"mixer": mixer, "ffn": {"name": "rwkv5_channel_mix"}}

    @classmethod
    def theirs(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate our tensors back; a decay has the shape of the bonus."""
        result = super().theirs(tensors)
        for name in [name for name in result if name.endswith("att.time_decay")]:
            bonus = result[name.replace("time_decay", "time_faaaa")]
            result[name] = result[name].reshape(bonus.shape)
        return result


class RWKV6(RWKVFile):
    """RWKV-6 (x060)."""

    version, share, time_rows, mark = "6", "time_maa_", "xwkvrg", "time_maa_w1"
    names = {
        "time_faaaa": "bonus", "time_maa_w1": "mix_down", "time_maa_w2": "mix_up",
        "time_decay_w1": "decay_down", "time_decay_w2": "decay_up",
    }  # fmt: skip

    @classmethod
    def config_of(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Sizes of a head and of the two low ranks."""
        _, size = tensors["blocks.0.mixer.bonus"].shape
        mixer = {
            "name": "rwkv6",
            "head_size": size,
            "mix_rank": tensors["blocks.0.mixer.mix_up"].shape[1],
            "decay_rank": tensors["blocks.0.mixer.decay_down"].shape[1],
        }
        return {"mixer": mixer, "ffn": {"name": "rwkv6_channel_mix"}}

    @classmethod
    def shape_of(cls, name: str, tensor: Tensor) -> tuple[int, ...]:
        """The decay is a row [1, 1, D]."""
        return (1, 1, len(tensor)) if name == "time_decay" else tuple(tensor.shape)
