"""The Transformer's decoding step in fixed memory, for a CUDA graph to replay.

The cache has room beyond its longest row. A step writes each row's keys and values behind its own
end and attends to a multiple of ``replay.BLOCK`` slots, of which it masks what lies behind the
row. Projections are fused and query heads of a group share one read of their keys, as in
``backbone.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.errors import CapabilityError
from wishbone.core.interfaces import State
from wishbone.core.replay import Replay
from wishbone.plugins.transformer.backbone import Block, Transformer, rotary

WEIGHTS = {"float32": None, "bfloat16": torch.bfloat16}
"""Types matrices can be read in; None leaves them as they are."""


def attach(backbone: Transformer, weights: str = "float32") -> Replay:
    """Let ``backbone.step_`` replay graphs from now on, and return the engine that does.

    It copies the weights. Attention is computed in the type of the cache. Raises
    ``CapabilityError`` with the reason where there is no such engine.
    """
    parameter = backbone.norm_out.weight
    problem = ""
    if parameter.device.type != "cuda":
        problem = f"the weights are on {parameter.device.type}, and only CUDA has graphs"
    elif weights not in WEIGHTS:
        problem = f"it reads float32 and bfloat16, not {weights}"
    if problem:
        raise CapabilityError(
            f"Transformer cannot decode by CUDA graph here: {problem}.",
            "the engine 'graph' of the transformer backbone",
            "Use the engine 'auto', or move the model to a CUDA device first.",
        )
    backbone._engine = replay = Replay(StaticTransformer(backbone, weights))
    return replay


@dataclass
class _Packed:
    """One block's matrices in the type they are read in, [out, in]."""

    norm_attention: Tensor
    qkv: Tensor
    bias: Tensor | None
    output: Tensor
    norm_ffn: Tensor
    gate_up: Tensor
    down: Tensor


class StaticTransformer:
    """A ``wishbone.core.replay.Static``."""

    counter = "length"
    narrow = True

    def __init__(self, backbone: Transformer, weights: str = "float32") -> None:
        config, parameter = backbone.config, backbone.norm_out.weight
        self.width, self.kind = backbone.width, WEIGHTS[weights] or parameter.dtype
        self.heads, self.groups = config.heads, config.kv_heads
        self.size = config.width // config.heads
        self.theta, self.eps = config.rope_theta, config.norm_eps
        self.device = parameter.device
        with torch.inference_mode(False), torch.no_grad():
            self.norm_out = parameter.detach().float().clone()
            self.blocks = [_pack(block, self.kind) for block in backbone.blocks]

    def takes(self, x: Tensor, state: State) -> bool:
        """Float32 and bfloat16, on the device of the weights."""
        kinds = (torch.float32, torch.bfloat16)
        fits = x.dtype in kinds and state["blocks.0.key"].dtype in kinds
        return fits and x.device == self.device and len(x) > 0

    def allocate(self, batch: int, room: int, like: State) -> State:
        """As ``Static.allocate``; caches are [B, G, room, K]."""
        state: State = {}
        for name, part in like.items():
            shape = (batch,) if part.ndim == 1 else (batch, self.groups, room, self.size)
            state[name] = torch.zeros(shape, dtype=part.dtype, device=part.device)
        return state

    def step(self, x: Tensor, state: State, seen: int) -> Tensor:
        """As ``Static.step``; the residual stream is float32."""
        length, room = state["length"], state["blocks.0.key"].shape[2]
        x = x.float()
        angles = rotary(length[:, None], self.size, self.theta, torch.float32)
        # a spare row of the batch may run past the end; nobody reads what it says
        place = length.clamp(max=room - 1)
        slots = torch.arange(seen, device=x.device)
        visible = (slots <= place[:, None])[:, None, None]
        index = place[:, None, None, None].expand(-1, self.groups, 1, self.size)
        for i, block in enumerate(self.blocks):
            cache = state[f"blocks.{i}.key"], state[f"blocks.{i}.value"]
            h = self._norm(x, block.norm_attention)
            heads = F.linear(h, block.qkv, block.bias).unflatten(-1, (-1, self.size))
            y = self._attend(heads, cache, angles, index, visible, seen)
            x = x + F.linear(y, block.output)
            gate, up = F.linear(self._norm(x, block.norm_ffn), block.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, block.down)
        length += 1
        return F.rms_norm(x, (self.width,), self.norm_out, self.eps)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.width,), weight, self.eps).to(self.kind)

    def _attend(
        self,
        heads: Tensor,
        cache: tuple[Tensor, Tensor],
        angles: tuple[Tensor, Tensor],
        index: Tensor,
        visible: Tensor,
        seen: int,
    ) -> Tensor:
        """heads [B, H + 2 G, K], cache [B, G, room, K] -> [B, D]; the cache takes the new slot."""
        turning, values = heads.split((self.heads + self.groups, self.groups), dim=1)
        low, high = turning.float().chunk(2, dim=-1)
        cosines, sines = angles
        turned = torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)
        keys, kind = turned[:, self.heads :], cache[0].dtype
        cache[0].scatter_(2, index, keys[:, :, None].to(kind))
        cache[1].scatter_(2, index, values[:, :, None].to(kind))
        queries = turned[:, : self.heads].to(kind).unflatten(1, (self.groups, -1))
        key, value = (part[:, :, :seen] for part in cache)
        y = F.scaled_dot_product_attention(queries, key, value, attn_mask=visible)
        return y.flatten(1).to(self.kind)

    def bytes_per_step(self, batch: int, state: State) -> int:
        """What a step must read and write: every matrix, every cache to its end, a slot each."""
        weights = sum(
            tensor.numel() * tensor.element_size()
            for block in self.blocks
            for tensor in vars(block).values()
            if tensor is not None
        )
        key = state["blocks.0.key"]
        slot = 2 * len(self.blocks) * self.groups * self.size * key.element_size()
        return weights + slot * (int(state["length"][:batch].sum()) + batch)


def _pack(block: Block, kind: torch.dtype) -> _Packed:
    attention, ffn = block.attention, block.ffn

    def copied(tensor: Tensor, to: torch.dtype = kind) -> Tensor:
        return tensor.detach().to(to, copy=True)

    return _Packed(
        norm_attention=copied(block.norm_attention.weight, torch.float32),
        qkv=copied(attention.qkv.weight),
        bias=None if attention.qkv.bias is None else copied(attention.qkv.bias),
        output=copied(attention.output.weight),
        norm_ffn=copied(block.norm_ffn.weight, torch.float32),
        gate_up=copied(ffn.gate_up.weight),
        down=copied(ffn.down.weight),
    )
