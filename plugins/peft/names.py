"""Map names of adapted layers between the files of others and ours.

Qwen2 and fla keep apart what our Transformer keeps in one matrix: q, k, v, and gate, up. Adapters
of the parts become one adapter of the whole exactly: A are stacked, and B stand on a diagonal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.plugins.peft.adapter import Adapter

Parts = dict[str, Tensor]

RWKV = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
"""Our layer of time mixing -> fla's."""
QWEN2 = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn.down": ("mlp.down_proj",),
}
"""Our layer of a block -> Qwen2's, which are its rows one after another."""
STYLES = ("fla", "qwen2")
"""Projects under whose names ``to_foreign_names`` can write."""
BLOCK = re.compile(r"(?:.*\.)?(?:blocks|layers)\.(\d+)\.(.+)")


def our_layer(module: str) -> tuple[str, int, int]:
    """Map a foreign module -> our layer, the index of the part that it is, the number of parts."""
    match = BLOCK.fullmatch(module)
    if not match:
        return module, 0, 1
    number, inner = match.groups()
    for our, parts in QWEN2.items():
        if inner in parts:
            return f"blocks.{number}.{our}", parts.index(inner), len(parts)
    for our, fla in RWKV.items():
        if inner in (f"attn.{fla}", f"att.{our}", f"time_mix.{our}"):
            return f"blocks.{number}.time_mix.{our}", 0, 1
    for our in ("key", "value"):
        if inner in (f"ffn.{our}", f"channel_mix.{our}"):
            return f"blocks.{number}.channel_mix.{our}", 0, 1
    return f"blocks.{number}.{inner}", 0, 1


def fused_rows(base: nn.Module) -> dict[str, list[int]]:
    """Count the rows of the parts of every fused layer of a block; empty where none is fused."""
    config = getattr(base, "config", None)
    if not all(hasattr(config, field) for field in ("heads", "kv_heads", "ffn_width", "width")):
        return {}
    size = config.width // config.heads
    return {
        "attention.qkv": [n * size for n in (config.heads, config.kv_heads, config.kv_heads)],
        "ffn.gate_up": [config.ffn_width] * 2,
    }


def to_our_names(
    modules: Mapping[str, Parts],
    layers: Mapping[str, Any],
    adapter: Adapter,
    rows: Mapping[str, list[int]],
) -> tuple[dict[str, Parts], int, list[str]]:
    """Map foreign modules -> our layers, their common rank, and names that meet no layer.

    Parts that share one A, as those this library wrote, keep their rank; the ranks of others are
    added up. A part without adapter gets one that does nothing, except beside DoRA.
    """
    groups: dict[str, dict[int, Parts]] = {}
    counts, lost = {}, []
    for module, parts in modules.items():
        name, index, count = (module, 0, 1) if module in layers else our_layer(module)
        if name not in layers:
            lost.append(module)
            continue
        groups.setdefault(name, {})[index] = parts
        counts[name] = count
    for name, group in groups.items():
        sizes = rows.get(name.split(".", 2)[-1], [])
        if len(group) < counts[name] and (adapter.method == "dora" or len(sizes) != counts[name]):
            lost.append(f"{name} (only some of its parts)")
            continue
        for index in set(range(counts[name])) - group.keys():
            group[index] = _zero_adapter(next(iter(group.values())), sizes[index])
    if lost:
        return {}, adapter.rank, lost
    merged = {
        name: _join([group[i] for i in range(counts[name])]) for name, group in groups.items()
    }
    rank = max((_rank(parts) for parts in merged.values()), default=adapter.rank)
    return {name: _widen(parts, rank) for name, parts in merged.items()}, rank, []


def to_foreign_names(
    layers: Mapping[str, Parts], style: str, rows: Mapping[str, Any]
) -> dict[str, Parts]:
    """Map our layers to the names of ``style``; unchanged where it is empty."""
    if not style:
        return dict(layers)
    renamed: dict[str, Parts] = {}
    for name, parts in layers.items():
        _, number, inner = name.split(".", 2)
        if style == "qwen2":
            pieces = _cut(parts, rows.get(inner) or [0])
            for foreign, piece in zip(QWEN2[inner], pieces, strict=True):
                renamed[f"model.layers.{number}.{foreign}"] = piece
        else:
            half, _, our = inner.partition(".")
            foreign = f"attn.{RWKV[our]}" if half == "time_mix" else f"ffn.{our}"
            renamed[f"model.layers.{number}.{foreign}"] = parts
    return renamed


def _zero_adapter(like: Parts, rows: int) -> Parts:
    """Make an adapter of so many rows that changes nothing."""
    if "miss_block" in like:
        return {"miss_block": like["miss_block"].new_zeros(len(like["miss_block"]), rows)}
    a = like["lora_A.weight"]
    return {"lora_A.weight": a, "lora_B.weight": a.new_zeros(rows, len(a))}


def _join(pieces: list[Parts]) -> Parts:
    """Join adapters of row blocks -> one of the whole matrix."""
    if len(pieces) == 1:
        return pieces[0]
    if "miss_block" in pieces[0]:
        return {"miss_block": torch.cat([piece["miss_block"] for piece in pieces], 1)}  # [r, R]
    a = [piece["lora_A.weight"] for piece in pieces]  # [r, C] of every part
    b = [piece["lora_B.weight"] for piece in pieces]  # [R_i, r] of every part
    if all(torch.equal(one, a[0]) for one in a):
        joined = {"lora_A.weight": a[0], "lora_B.weight": torch.cat(b)}
    else:
        joined = {"lora_A.weight": torch.cat(a), "lora_B.weight": torch.block_diag(*b)}
    if "lora_magnitude_vector" in pieces[0]:
        joined["lora_magnitude_vector"] = torch.cat([p["lora_magnitude_vector"] for p in pieces])
    return joined


def _cut(parts: Parts, rows: list[int]) -> list[Parts]:
    """Cut one adapter of a matrix -> one for each block of its rows, which share A."""
    if len(rows) == 1:
        return [parts]
    along = {"miss_block": 1, "lora_B.weight": 0, "lora_magnitude_vector": 0}
    cut = {n: t.split(rows, along[n]) for n, t in parts.items() if n in along}
    shared = {n: t for n, t in parts.items() if n not in along}
    return [shared | {n: pieces[i] for n, pieces in cut.items()} for i in range(len(rows))]


def _rank(parts: Parts) -> int:
    return len(parts["miss_block"] if "miss_block" in parts else parts["lora_A.weight"])


def _widen(parts: Parts, rank: int) -> Parts:
    """Fill an adapter with zeros up to ``rank``: all layers of one adapter have one rank."""
    missing = rank - _rank(parts)
    if not missing or "miss_block" in parts:
        return dict(parts)
    pad = nn.functional.pad
    return parts | {
        "lora_A.weight": pad(parts["lora_A.weight"], (0, 0, 0, missing)),  # [rank, C]
        "lora_B.weight": pad(parts["lora_B.weight"], (0, missing)),  # [R, rank]
    }
