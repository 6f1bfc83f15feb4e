"""Map the names of hift.pt to ours: 328 tensors, of which 82 pairs become one weight each.

The release keeps weights in two parts, a direction and a length for every output channel (weight
normalisation, arXiv:1602.07868, equation 2). Nothing here trains the vocoder, so they are
multiplied out once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.system.loading import load_tensors
from wishbone.core.weights.tensor_files import translate
from wishbone.plugins.cosyvoice2.vocoder.model import HiFT

LENGTH, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
OLD = {"weight_g": LENGTH, "weight_v": DIRECTION}
"""Names of the two parts before PyTorch 2.0, which converted releases still have."""
_BLOCK = {
    "convs1.{}": "wide.{}.convolution",
    "convs2.{}": "narrow.{}.convolution",
    "activations1.{}.alpha": "before_wide.{}.alpha",
    "activations2.{}.alpha": "before_narrow.{}.alpha",
}


def table(blocks: int = 3) -> dict[str, str | None]:
    """List the names of hift.pt, weights already multiplied out -> ours.

    ``blocks`` is the number of residual blocks in a stage: the release counts them through.
    """
    names: dict[str, str | None] = {"f0_predictor.classifier": "pitch.out"}
    names |= {"m_source.l_linear": "source.mix", "ups.{}": "stages.{}.rise"}
    names |= {"conv_pre": "entry.convolution", "conv_post": "exit.convolution"}
    names |= {"source_downs.{}": "stages.{}.fall.convolution"}
    # an activation without weights stands between two convolutions
    names |= {f"f0_predictor.condnet.{2 * i}": f"pitch.convolutions.{i}.convolution"
              for i in range(5)}  # fmt: skip
    for foreign, ours in _BLOCK.items():
        names[f"source_resblocks.{{}}.{foreign}"] = f"stages.{{}}.source.{ours}"
        for stage in range(3):
            for block in range(blocks):
                names[f"resblocks.{blocks * stage + block}.{foreign}"] = (
                    f"stages.{stage}.blocks.{block}.{ours}"
                )
    full: dict[str, str | None] = {}
    for foreign, ours in names.items():
        if foreign.endswith("alpha"):
            full[foreign] = ours
        else:
            full |= {f"{foreign}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}
    return full


def fold(tensors: Mapping[str, Tensor], where: str = "") -> dict[str, Tensor]:
    """Multiply out every pair of direction and length -> ``tensors`` with one ``weight`` each.

    Raises ``CheckpointError`` for half a pair and for parts whose shapes do not belong together.
    """
    folded: dict[str, Tensor] = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for old, new in OLD.items():
            name = name.removesuffix(old) + new if name.endswith(f".{old}") else name
        layer, dot, part = name.partition(".parametrizations.")
        if dot:
            pairs.setdefault(layer, {})[f"parametrizations.{part}"] = tensor
        else:
            folded[name] = tensor
    problems = []
    for layer, parts in pairs.items():
        length, direction = parts.get(LENGTH), parts.get(DIRECTION)
        if length is None or direction is None or len(parts) != 2:
            problems.append(f"{layer} has only {', '.join(sorted(parts))}")
        elif length.shape != (*direction.shape[:1], *[1] * (direction.ndim - 1)):
            problems.append(f"{layer} has {[*length.shape]} lengths of {[*direction.shape]}")
        else:
            exact = direction.double()  # [O, I, K] of a convolution
            axes = tuple(range(1, exact.ndim))
            norm = torch.linalg.vector_norm(exact, dim=axes, keepdim=True)  # [O, 1, 1]
            weight = exact * (length.double() / norm)  # [O, I, K]
            folded[f"{layer}.weight"] = weight.to(direction.dtype)
    if problems:
        raise CheckpointError(
            f"The vocoder's normalised weights do not pair up: {'; '.join(problems)}.",
            where,
            "Download the file again.",
        )
    return folded


def load(vocoder: HiFT, tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Fill ``vocoder`` from the tensors of hift.pt by their names there; all are accounted for.

    ``where`` is the file, for the error. Raises ``CheckpointError`` naming whatever is missing, not
    known or of another shape; the vocoder is then as it was.
    """
    names = table(len(vocoder.config.kernels))
    load_tensors(vocoder, translate(fold(tensors, where), names, where), where)
