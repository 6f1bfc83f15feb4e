"""Compute linear layers and convolutions on a CPU with weights laid out once for oneDNN.

PyTorch multiplies float32 matrices with MKL, which uses half the width of processors that are not
Intel's, and lays out a convolution's weights and inputs anew in every call. oneDNN, which every
PyTorch for x86 brings along, does better with weights in its own order: 220 against 108 GFLOP/s for
the products of CosyVoice2's flow on a core of an AMD EPYC (Zen 5), 240 against 60 to 230 for the
vocoder's convolutions. The sums are the same in another order.

Where this does not apply (a gradient, a GPU, bfloat16, a PyTorch without these functions) layers
are computed as usual. Packed weights are a copy, made at the first call and again after a change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "none": ("none", "", lambda x: x),
    "gelu": ("gelu", "none", F.gelu),
    "silu": ("swish", "", F.silu),
}
"""Name -> name and variant in oneDNN, and the function of PyTorch."""

Entry = tuple[Hashable, Tensor, Tensor | None]
_packed_weights: WeakKeyDictionary[nn.Module, Entry] = WeakKeyDictionary()
"""First layer of a call -> version of its weights, the packed weights, and the bias."""


def linear(
    x: Tensor, *layers: nn.Module, activation: str = "none", add: Tensor | None = None
) -> Tensor:
    """Compute linear layers side by side, x [..., D] -> [..., sum of N], then ``activation``.

    A layer is an ``nn.Linear`` or a convolution, whose kernel of k positions stands for x
    [..., k D] of k neighbours side by side. All have a bias or none has. ``add`` [..., N] is added
    last.
    """
    name, variant, usual = ACTIVATIONS[activation]
    packs = _applies(x, layers[0].weight)
    weight, bias = _together(layers, packs)  # [N, D], [N]
    if not packs:
        y = usual(F.linear(x, weight, bias))  # [..., N]
    elif add is not None and activation == "none":
        return torch.ops.mkldnn._linear_pointwise.binary(x, add, weight, bias, "add")  # [..., N]
    else:
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], variant)  # [..., N]
    return y if add is None else y + add  # [..., N]


def convolve(x: Tensor, layer: nn.Conv1d, padding: int = 0) -> Tensor:
    """Convolve x [B, T, C], with so many zeros at both ends, by ``layer`` -> [B, T', C']."""
    stride, dilation = layer.stride[0], layer.dilation[0]
    if not _applies(x, layer.weight):
        x = x.transpose(1, 2)  # [B, C, T]
        y = F.conv1d(x, layer.weight, layer.bias, stride, padding, dilation)  # [B, C', T']
        return y.transpose(1, 2)  # [B, T', C']
    wide = [0, padding], [1, stride], [1, dilation]
    # one line of an image whose channels stand together
    image = x.contiguous().transpose(1, 2)[:, :, None]  # [B, C, 1, T]
    weight = _packed_kernel(layer, image, wide)  # [C', C, 1, K]
    y = torch.ops.mkldnn._convolution_pointwise(image, weight, layer.bias, *wide, 1, "none", [], "")
    return y[:, :, 0].transpose(1, 2)  # [B, T', C']


def neighbours(x: Tensor, count: int) -> Tensor:
    """Join x [B, n + count - 1, D] -> [B, n, count D]: every position and those after it."""
    length = x.shape[1] - count + 1
    return torch.cat([x[:, i : i + length] for i in range(count)], dim=2)  # [B, n, count D]


def _matrix(layer: nn.Module) -> Tensor:
    """Write the weight as a matrix [N, D], or [N, k D] with a kernel's positions in a row."""
    weight = layer.weight  # [N, D] or [N, D, k]
    return weight if weight.ndim == 2 else weight.transpose(1, 2).flatten(1)  # [N, k D]


def _bias(layers: tuple[nn.Module, ...]) -> Tensor | None:
    """Join the biases [sum of N], if there are any."""
    if layers[0].bias is None:
        return None
    if len(layers) == 1:
        return layers[0].bias  # [N]
    return torch.cat([layer.bias for layer in layers])  # [sum of N]


def _applies(x: Tensor, weight: Tensor) -> bool:
    """Tell whether oneDNN computes this call; see the top of the file."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.numel() > 0
        and _works()
    )


def _version(layers: tuple[nn.Module, ...]) -> Hashable:
    """Identify the weights: their addresses and how often they were changed."""
    # a tensor made for inference counts no changes; a release's are filled in once
    return tuple(
        (w.data_ptr(), 0 if w.is_inference() else w._version)
        for w in (layer.weight for layer in layers)
    )


def _together(layers: tuple[nn.Module, ...], packs: bool) -> tuple[Tensor, Tensor | None]:
    """Stack the weights [N, D] and biases [N] of all layers; cached unless a gradient is taken."""
    if not packs and len(layers) == 1 and layers[0].weight.ndim == 2:
        return layers[0].weight, layers[0].bias
    entry, version = _packed_weights.get(layers[0]), (packs, _version(layers))
    if entry is None or entry[0] != version or torch.is_grad_enabled():
        matrix = torch.cat([_matrix(layer) for layer in layers])  # [N, D]
        entry = version, matrix.contiguous().to_mkldnn() if packs else matrix, _bias(layers)
        if not torch.is_grad_enabled():
            _packed_weights[layers[0]] = entry
    # a single bias is read as it is now, since it is no copy
    return entry[1], layers[0].bias if len(layers) == 1 else entry[2]


def _packed_kernel(layer: nn.Conv1d, image: Tensor, wide: tuple[list[int], ...]) -> Tensor:
    """Pack the kernel [C', C, 1, K] for images [B, C, 1, T] of about this length; cached."""
    entry, version = _packed_weights.get(layer), ("kernel", _version((layer,)))
    if entry is None or entry[0] != version:
        # the length decides the order too, but only a few lengths would choose another
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            layer.weight[:, :, None].to_mkldnn(), *wide, 1, list(image.shape)
        )
        entry = version, weight, None
        _packed_weights[layer] = entry
    return entry[1]


@cache
def _works() -> bool:
    """Tell whether this PyTorch has these functions of its compiler, and they compute right."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    # a small linear layer and a small convolution, computed both ways
    numbers = torch.linspace(-1.0, 1.0, 48)  # [48]
    x, weight, add = numbers.view(3, 16), numbers.repeat(8).view(24, 16), numbers.new_ones(3, 24)
    image, kernel = numbers.view(1, 3, 1, 16), numbers[:36].view(4, 3, 1, 3)
    wide = [0, 1], [1, 2], [1, 1]  # padding, stride, dilation
    try:
        packed = weight.to_mkldnn()  # [24, 16]
        activated = torch.ops.mkldnn._linear_pointwise(
            x, packed, None, "gelu", [], "none"
        )  # [3, 24]
        added = torch.ops.mkldnn._linear_pointwise.binary(x, add, packed, None, "add")  # [3, 24]
        reordered = torch._C._nn.mkldnn_reorder_conv2d_weight(
            kernel.to_mkldnn(), *wide, 1, list(image.shape)
        )
        convolved = torch.ops.mkldnn._convolution_pointwise(
            image, reordered, None, *wide, 1, "none", [], ""
        )
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    pairs = (
        (activated, F.gelu(F.linear(x, weight))),
        (added, F.linear(x, weight) + add),
        (convolved, F.conv2d(image, kernel, None, (1, 2), (0, 1))),
    )
    return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
