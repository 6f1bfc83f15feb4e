"""RWKV-7 weights as RWKV-LM names them, random but with the scales of a trained model.

The official initialisation has zeros in so many places that most mistakes would not show.
"""

import torch


def trained_looking(
    width=96, layers=3, head_size=32, ffn_width=200, vocabulary=17, ranks=(16, 12, 8, 24), seed=0
):
    """Name -> tensor of a whole RWKV-LM checkpoint; ranks of w, a, v, g. Block 0 has no v*."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size, spread=1.0, middle=0.0):
        return middle + spread * torch.randn(*size, generator=random)

    def vector(spread, middle=0.0):
        return normal(1, 1, width, spread=spread, middle=middle)

    def matrix(rows, columns):
        return normal(rows, columns, spread=columns**-0.5)

    def norm(name):
        return {
            f"{name}.weight": normal(width, spread=0.1, middle=1.0),
            f"{name}.bias": normal(width, spread=0.1),
        }

    entries = {"emb.weight": normal(vocabulary, width), "head.weight": matrix(vocabulary, width)}
    entries |= norm("ln_out") | norm("blocks.0.ln0")
    for i in range(layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        entries |= norm(f"blocks.{i}.ln1") | norm(f"blocks.{i}.ln2") | norm(f"{att}ln_x")
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
            entries[att + name] = torch.rand(1, 1, width, generator=random)
        for letter, rank in zip("wavg", ranks, strict=True):
            if letter == "v" and i == 0:
                continue
            if letter != "g":
                spread, middle = (2.0, -1.0) if letter == "w" else (0.5, 0.0)
                entries[f"{att}{letter}0"] = vector(spread, middle)
            entries[f"{att}{letter}1"] = normal(width, rank, spread=width**-0.5)
            entries[f"{att}{letter}2"] = normal(rank, width, spread=0.3)
        entries[att + "k_k"] = vector(0.1, 0.8)
        entries[att + "k_a"] = vector(0.1, 1.0)
        entries[att + "r_k"] = normal(width // head_size, head_size, spread=0.1)
        for name in ("receptance", "key", "value", "output"):
            entries[f"{att}{name}.weight"] = matrix(width, width)
        entries[ffn + "x_k"] = torch.rand(1, 1, width, generator=random)
        entries[ffn + "key.weight"] = matrix(ffn_width, width)
        entries[ffn + "value.weight"] = matrix(width, ffn_width)
    return entries


def squeezed(tensors):
    """Without leading ones, as some tools save."""
    return {name: tensor.squeeze() for name, tensor in tensors.items()}
