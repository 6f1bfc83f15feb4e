"""The speech tokenizer's network (S3 v2, arXiv:2412.10117, section 2.2) in PyTorch.

Log-mel at 100 frames per second, two convolutions that halve the rate, a Transformer whose
attention has a memory of its neighbours beside it, and eight values rounded to three levels each.
The release publishes it as an .onnx file (``speech_tokenizer_v2.onnx``); ``weights_of`` reads that
file's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.errors import CheckpointError
from wishbone.plugins.cosyvoice2.release.onnx import Node

HEAD = 64  # channels of an attention head, on which the rotary table is built
DIGITS = 8
ROTARY_BASE = 10_000.0
SHRINK = 0.9990000128746033  # keeps tanh below the next level; a float32 constant of the graph


class Block(nn.Module):
    """Attention with an FSMN memory on its values (arXiv:1803.05030), then a feed-forward."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.memory = nn.Conv1d(width, width, kernel, groups=width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, rotary: Tensor, real: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; ``rotary`` [2, T, HEAD], ``real`` [B, T] is true inside."""
        h = self.norm_attention(x)  # [B, T, D]
        query, key, value = (
            layer(h).unflatten(2, (self.heads, HEAD)).transpose(1, 2)  # [B, H, T, HEAD]
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            _rotate(query, rotary), _rotate(key, rotary), value, attn_mask=real[:, None, None]
        )  # [B, H, T, HEAD]
        attended = self.out(mixed.transpose(1, 2).flatten(2))  # [B, T, D]
        x = x + attended + self._memorise(value, real)  # [B, T, D]
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))  # [B, T, D]

    def _memorise(self, value: Tensor, real: Tensor) -> Tensor:
        """value [B, H, T, HEAD], real [B, T] -> [B, T, D]: values and their neighbours."""
        value = value.transpose(1, 2).flatten(2) * real[:, :, None]  # [B, T, D]
        reach = self.memory.kernel_size[0] - 1
        padded = F.pad(value.transpose(1, 2), (reach // 2, reach - reach // 2))  # [B, D, T + reach]
        return (self.memory(padded).transpose(1, 2) + value) * real[:, :, None]  # [B, T, D]


class SpeechNetwork(nn.Module):
    """Log-mel [B, mels, T] -> codes [B, T / 4]."""

    def __init__(self, mels: int, width: int, layers: int, kernel: int) -> None:
        super().__init__()
        if width % HEAD:
            raise ValueError(f"a width of {width} is no multiple of {HEAD}")
        self.first = nn.Conv1d(mels, width, 3, stride=2, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(width, kernel) for _ in range(layers))
        self.project = nn.Linear(width, DIGITS)

    def hidden(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """mel [B, mels, T] with lengths [B] -> vectors [B, ceil(T / 4), D]."""
        x, real = mel, _inside(lengths, mel.shape[2])  # [B, mels, T], [B, T]
        for convolution in (self.first, self.second):
            x = F.gelu(convolution(x * real[:, None]))  # [B, D, T / 2], then [B, D, T / 4]
            lengths = (lengths + 1) // 2  # [B]
            real = _inside(lengths, x.shape[2])  # [B, T']
        x = x.transpose(1, 2)  # [B, T / 4, D]
        rotary = _rotary(x.shape[1], x.device).to(x.dtype)  # [2, T / 4, HEAD]
        for block in self.blocks:
            x = block(x, rotary, real)  # [B, T / 4, D]
        return x

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """mel [B, mels, T] with lengths [B] -> codes [B, T / 4]; FSQ (arXiv:2309.15505)."""
        values = self.project(self.hidden(mel, lengths)).float()  # [B, T / 4, 8]
        values = torch.tanh(values) * SHRINK  # [B, T / 4, 8]
        powers = 3 ** torch.arange(DIGITS, device=values.device)  # [8]
        return ((values.round().long() + 1) * powers).sum(dim=2)  # [B, T / 4]


def _inside(lengths: Tensor, longest: int) -> Tensor:
    """Make the mask [B, T] of positions before each of lengths [B]."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]  # [B, T]


def _rotary(positions: int, device: torch.device) -> Tensor:
    """Compute cosines and sines [2, T, HEAD] (arXiv:2104.09864), both halves of a head alike."""
    half = torch.arange(0, HEAD, 2, device=device, dtype=torch.float32) / HEAD  # [HEAD / 2]
    place = torch.arange(positions, device=device).float()  # [T]
    angle = torch.outer(place, ROTARY_BASE**-half)  # [T, HEAD / 2]
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2)  # [2, T, HEAD]


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate x [B, H, T, HEAD] by its positions."""
    low, high = x.chunk(2, dim=3)  # [B, H, T, HEAD / 2] each
    return x * rotary[0] + torch.cat([-high, low], dim=3) * rotary[1]  # [B, H, T, HEAD]


LAYERS = {
    "attn/query": "query",
    "attn/key": "key",
    "attn/value": "value",
    "attn/out": "out",
    "attn/fsmn_block": "memory",
    "attn_ln": "norm_attention",
    "mlp/mlp.0": "up",
    "mlp/mlp.2": "down",
    "mlp_ln": "norm_mlp",
}
"""Path of a node in a block of the exported module -> our layer."""
_IN_BLOCK = re.compile(r"blocks\.(\d+)/(.+)/[^/]+")


def weights_of(nodes: Iterable[Node], where: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Read tensors by our names, and the epsilon of every norm that states one.

    Inside a block a node's name says which layer it was exported from. Outside, the exporter's
    numbers differ from release to release, so the two convolutions are known by their order and the
    projection by its eight outputs. Raises ``CheckpointError`` for a weight that belongs nowhere.
    """
    tensors: dict[str, Tensor] = {}
    epsilons: dict[str, float] = {}
    strange = []
    convolutions = iter(("first", "second"))
    for node in nodes:
        # shapes, axes and scalars are no weights
        weights = [w for w in node.weights if w.is_floating_point() and w.ndim]
        match = _IN_BLOCK.search(node.name)
        layer: str | None = None
        if match and match[2] in LAYERS:
            layer = f"blocks.{match[1]}.{LAYERS[match[2]]}"
        elif not match and node.kind == "Conv":
            layer = next(convolutions, None)
        elif not match and node.kind in ("MatMul", "Add") and weights[:1]:
            # constants of the rounding have eight numbers, too, but are multiplied
            layer = "project" if weights[0].shape[-1] == DIGITS else None
        if layer is None and match and weights:
            strange.append(node.name)
        if layer is None or not weights:
            continue
        tensors |= _placed(node, layer, weights)
        if "epsilon" in node.attributes:
            epsilons[layer] = float(node.attributes["epsilon"])
    if strange:
        raise CheckpointError(
            f"The speech tokenizer has weights of unknown use: {', '.join(strange[:5])}.",
            where,
            "Use speech_tokenizer_v2.onnx of CosyVoice2-0.5B, or say speech_tokenizer.engine=onnx.",
        )
    return tensors, epsilons


def _placed(node: Node, layer: str, weights: list[Tensor]) -> dict[str, Tensor]:
    """Name the weights of one node; MatMul stores its matrix transposed."""
    if node.kind == "MatMul":
        return {f"{layer}.weight": weights[0].T.contiguous()}  # [out, in]
    if node.kind == "Add":
        return {f"{layer}.bias": weights[0]}
    return {f"{layer}.{part}": w for part, w in zip(("weight", "bias"), weights, strict=False)}
