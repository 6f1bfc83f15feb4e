"""Families of transformers: their sizes by few numbers, and which may be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn_width": "intermediate_size",
}
"""Field of a backbone -> the value of a configuration of transformers that it is."""


KERNELS = ("fla", "mamba_ssm", "causal_conv1d")
"""Packages of kernels for GPUs that transformers calls wherever they are installed."""


@dataclass(frozen=True)
class Shape:
    """The sizes that every backbone has."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn_width: int

    @property
    def head(self) -> int:
        """Numbers of a head."""
        return max(1, self.width // self.heads)

    def values(self) -> dict[str, int]:
        """Name the sizes as most families do."""
        return {key: getattr(self, name) for name, key in NAMES.items()}


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    values: Callable[[Shape], dict[str, Any]]
    """Values of its configuration that follow from the sizes, those of ``NAMES`` aside."""
    note: str = ""
    """What is particular about it, for people."""
    names: Mapping[str, str] | None = None
    """Where the fields are called otherwise than in ``NAMES``; "" for those it does not have."""
    tiny: Mapping[str, Any] | None = None
    """Values of the tiny copy that is tested, where it needs some of its own."""


def _dense(shape: Shape) -> dict[str, Any]:
    return {"head_dim": shape.head}


def _every_fourth(shape: Shape) -> list[str]:
    """Three recurrent layers, then one of attention; the last one is always attention."""
    attends = (i % 4 == 3 or i == shape.layers - 1 for i in range(shape.layers))
    return ["full_attention" if yes else "linear_attention" for yes in attends]


def _gated_delta(shape: Shape) -> dict[str, Any]:
    """Gated DeltaNet with the heads of attention."""
    return {
        "linear_num_key_heads": shape.kv_heads,
        "linear_num_value_heads": shape.heads,
        "linear_key_head_dim": shape.head,
        "linear_value_head_dim": shape.head,
        "layer_types": _every_fourth(shape),
    }


def _few_experts(shape: Shape) -> dict[str, Any]:
    """Experts that together are about as large as one dense part."""
    return {"moe_intermediate_size": max(8, shape.ffn_width // 4), "num_experts": 8}


def _mamba(shape: Shape) -> dict[str, Any]:
    """Mamba-2 of twice the width, by the names of falcon_h1 and granitemoehybrid."""
    return {
        "mamba_n_heads": shape.heads,
        "mamba_d_head": 2 * shape.width // shape.heads,
        "mamba_d_state": 64,
        "mamba_chunk_size": 64,
    }


def _mamba2(shape: Shape) -> dict[str, Any]:
    return {
        "num_heads": shape.heads,
        "head_dim": 2 * shape.width // shape.heads,
        "n_groups": 1,
        "state_size": 64,
        "chunk_size": 64,
    }


def _nemotron(shape: Shape) -> dict[str, Any]:
    types = _every_fourth(shape)
    return {
        "head_dim": shape.head,
        "layers_block_type": [kind for one in types for kind in (one, "mlp")],
        "mamba_num_heads": shape.heads,
        "mamba_head_dim": 2 * shape.width // shape.heads,
        "n_groups": 1,
        "ssm_state_size": 64,
        "chunk_size": 64,
    }


def _zamba2(shape: Shape) -> dict[str, Any]:
    types = ["hybrid" if i % 3 == 2 else "linear_attention" for i in range(shape.layers)]
    return {
        "layers_block_type": types,
        "num_key_value_heads": shape.heads,
        "n_mamba_heads": shape.heads,
        "mamba_headdim": 2 * shape.width // shape.heads,
        "chunk_size": 64,
        "num_mem_blocks": 1,
    }


def _lfm2(shape: Shape) -> dict[str, Any]:
    attends = (i % 3 == 2 or i == shape.layers - 1 for i in range(shape.layers))
    return {
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention" if yes else "conv" for yes in attends],
    }


def _kimi(shape: Shape) -> dict[str, Any]:
    return {
        **_few_experts(shape),
        "num_key_value_heads": shape.heads,
        "num_experts_per_token": 2,
        "kv_lora_rank": 2 * shape.head,
        "qk_rope_head_dim": max(2, shape.head // 2 // 2 * 2),
        "qk_nope_head_dim": shape.head,
        "v_head_dim": shape.head,
        "linear_num_heads": shape.heads,
        "linear_head_dim": shape.head,
        "layer_types": _every_fourth(shape),
        "mlp_layer_types": ["dense"] + ["sparse"] * (shape.layers - 1),
    }


def _bailing(shape: Shape) -> dict[str, Any]:
    return {**_kimi(shape), "num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2}


FAMILIES = {
    "qwen2": Family(lambda shape: {}),
    "qwen3": Family(_dense),
    "llama": Family(_dense),
    "mistral": Family(_dense, "a window has a state of constant size", tiny={"sliding_window": 12}),
    "smollm3": Family(lambda shape: {}),
    "lfm2": Family(_lfm2, "gated short convolutions and attention"),
    "mamba2": Family(
        _mamba2,
        "state of constant size",
        names={**NAMES, "heads": "num_heads", "kv_heads": "", "ffn_width": ""},
    ),
    "falcon_h1": Family(
        lambda shape: {**_mamba(shape), "mamba_d_ssm": 2 * shape.width},
        "Mamba-2 and attention side by side",
    ),
    "granitemoehybrid": Family(
        lambda shape: {
            **_mamba(shape),
            "layer_types": _every_fourth(shape),
            "shared_intermediate_size": shape.ffn_width,
            "num_local_experts": 0,
        },
        "Mamba-2, attention in every fourth layer",
    ),
    "nemotron_h": Family(
        _nemotron,
        "Mamba-2, attention in every fourth block",
        names={**NAMES, "layers": ""},
    ),
    "zamba2": Family(
        _zamba2,
        "Mamba-2, and one block of attention that layers share",
        names={**NAMES, "kv_heads": ""},
        tiny={"layers": 3},
    ),
    "qwen3_next": Family(
        lambda shape: {
            "head_dim": shape.head,
            **_gated_delta(shape),
            **_few_experts(shape),
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": max(8, shape.ffn_width // 4),
        },
        "Gated DeltaNet, attention in every fourth layer, experts",
    ),
    "qwen3_5_text": Family(
        lambda shape: {"head_dim": shape.head, **_gated_delta(shape)},
        "Gated DeltaNet, attention in every fourth layer",
    ),
    "olmo_hybrid": Family(
        lambda shape: {**_gated_delta(shape), "linear_num_key_heads": shape.heads},
        "Gated DeltaNet, attention in every fourth layer",
    ),
    "kimi_linear": Family(
        _kimi, "Kimi Delta Attention, latent attention, experts", names={**NAMES, "kv_heads": ""}
    ),
    "bailing_hybrid": Family(
        _bailing, "Kimi Delta Attention, latent attention, experts", names={**NAMES, "kv_heads": ""}
    ),
}
"""Families that pass the backbone suite on a tiny copy, each in the version of README.md."""

ALIASES = {"qwen3_5": "qwen3_5_text"}
"""Name of a model of several kinds of input -> its part that reads text."""

_DROPS = "it drops its state where a call of several positions continues one"
REFUSED = {
    "mamba": _DROPS + "; use 'stack' with the mixer 'mamba'",
    "falcon_mamba": _DROPS,
    "jamba": _DROPS,
    "rwkv": "it mixes the rows of a batch; use 'stack' with the mixer 'rwkv4'",
    "recurrent_gemma": "it keeps its state in its modules, which no other sequence may share",
    "minimax": "its cache is a class of its own that cannot be saved and continued",
    "xlstm": "its cache is a class of its own that cannot be saved and continued; use 'stack' with"
    " the mixer 'mlstm'",
}
"""Family -> the reason why it cannot be a backbone, as tests/plugins/test_hf.py measures it."""
