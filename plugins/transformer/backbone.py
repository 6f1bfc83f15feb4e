"""A modern decoder-only Transformer: the yardstick every other backbone is measured against.

Pre-norm blocks of grouped-query attention and SwiGLU, with rotary positions: the architecture
of Qwen2 (arXiv:2407.10671, section 2.2), so that the language model of CosyVoice2 fits into it.

    for every block:
        x = x + attention(norm_attention(x))      reads and extends the cache of keys and values
        x = x + ffn(norm_ffn(x))
    y = norm_out(x)

``layers.py`` has attention, ``cache.py`` keeps the cache, ``convert.py`` translates the names of
the weights, ``README.md`` says where the parts come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.part import Dropout, Layers, Positive, Size
from wishbone.plugins.ffn.swiglu import SwiGLU, SwiGLUConfig
from wishbone.plugins.stack.backbone import Preset
from wishbone.plugins.stack.plan import Half, Plan
from wishbone.plugins.transformer.engines.cuda_graph import attach
from wishbone.plugins.transformer.engines.native import NativeTransformer
from wishbone.plugins.transformer.layers import Attention, AttentionConfig, check_heads


@dataclass
class TransformerConfig:
    """Shape of the stack. The defaults are a small speech model of about 5 M parameters."""

    width: Size = 256
    """D, numbers per position."""
    layers: Layers = 6
    """Number of blocks."""
    heads: Size = 4
    """Query heads; each has width / heads numbers."""
    kv_heads: Size = 2
    """Heads of keys and values; each serves heads / kv_heads query heads. Sets the cache size."""
    ffn_width: Size = 768
    """Inner width of the feed-forward part."""
    rope_theta: Positive = 10000.0
    """Base of the rotary frequencies: the longest wave spans about 2 pi rope_theta positions."""
    norm_eps: Positive = 1e-6
    """Added to the mean square inside every RMSNorm."""
    qkv_bias: bool = True
    """True gives queries, keys and values a bias, as in Qwen2."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a residual branch in training."""


class Transformer(Preset):
    """Decoder-only Transformer. State: ``length`` [B] and ``blocks.i.key``, ``blocks.i.value``.

    Caches are [B, G, T, K]. Row b holds its real positions in slots 0..length[b] - 1 with
    nothing between them and zeros behind, whatever padding they came with.
    """

    Config = TransformerConfig
    caps: ClassVar[Caps] = Caps(
        peft_targets=("attention.qkv", "attention.output", "ffn.gate_up", "ffn.down")
    )
    names = (("norm_attention", "attention"), ("norm_ffn", "ffn"))
    engines = {"native": NativeTransformer, "graph": attach}

    @classmethod
    def small_config(cls) -> TransformerConfig:
        """Return a config for tests: two query heads share one head of keys."""
        return TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, ffn_width=96)

    @classmethod
    def planned(cls, config: Any) -> Plan:
        """Attention and SwiGLU in every block."""
        check_heads(config.width, config.heads, config.kv_heads)
        attention = Half(
            Attention,
            AttentionConfig(
                config.heads, config.kv_heads, True, config.rope_theta, config.qkv_bias
            ),
        )
        ffn = Half(SwiGLU, SwiGLUConfig(config.ffn_width))
        return Plan(
            config.width,
            ((attention, ffn),) * config.layers,
            tuple(range(config.layers)),
            norm_eps=config.norm_eps,
            dropout=config.dropout,
            start=False,
        )
