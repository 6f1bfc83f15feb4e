"""Find the layers of a base that are adapted, and put ``peft``'s layers in their place.

Everything that touches the package ``peft`` is here, and imports it when called: that takes seconds
and pulls in ``transformers``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, require_caps
from wishbone.core.contract.errors import (
    CapabilityError,
    ConfigError,
    MissingExtra,
    UnknownName,
    did_you_mean,
)

METHODS = ("lora", "dora", "miss", "pissa")
"""Ways of adapting a matrix W [out, in] with rank r; README.md has their equations."""
DEFAULT, INITIAL = "default", "initial"
"""The adapter that training changes, and PiSSA's initial factors, which are subtracted again."""
PARTS = {
    "lora": ("lora_A.weight", "lora_B.weight"),
    "dora": ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"),
    "miss": ("miss_block",),
}
"""Method -> tensors that an adapter of one layer consists of, as ``peft``'s files name them."""


class Size(NamedTuple):
    """Size of a linear layer that need not exist any more."""

    out_features: int
    in_features: int

    @classmethod
    def of_all(cls, layers: Mapping[str, nn.Linear]) -> dict[str, Size]:
        """Note the sizes of ``layers``, which are not kept alive."""
        return {n: cls(layer.out_features, layer.in_features) for n, layer in layers.items()}


def adaptable_layers(base: Backbone) -> dict[str, nn.Linear]:
    """List the linear layers that the base offers to adapters, by name, in order."""
    ends = base.caps.peft_targets
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and any(ends_so(name, end) for end in ends)
    }


def target_layers(base: Backbone, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """List the adaptable layers whose names end so, or all where ``targets`` is empty.

    Raises ``CapabilityError`` for a base that offers none, ``UnknownName`` for an ending that no
    adaptable layer has.
    """
    require_caps(base, "An adapter (peft)", "peft_targets")
    offered, kind = adaptable_layers(base), type(base).__name__
    if not offered:
        raise CapabilityError(
            f"{kind} offers no layer to adapters: none has a name of its 'peft_targets'.",
            "the base of a peft backbone",
            "Wrap a backbone that offers some, or let it name its linear layers in 'caps'.",
        )
    for target in targets:
        if not any(ends_so(name, target) for name in offered):
            endings = _endings(offered)
            raise UnknownName(
                f"No layer that {kind} offers to adapters ends in '{target}'.",
                "targets of a peft backbone",
                f"{did_you_mean(target, endings)} Endings: {', '.join(endings)}.".strip(),
            )
    return {
        name: layer
        for name, layer in offered.items()
        if not targets or any(ends_so(name, target) for target in targets)
    }


def part_shapes(method: str, rank: int, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Give the shape of every part, as ``PARTS`` names them, for a matrix [rows, columns]."""
    if method == "miss":
        return {"miss_block": (rank, rows)}
    pair = {"lora_A.weight": (rank, columns), "lora_B.weight": (rows, rank)}
    return pair | ({"lora_magnitude_vector": (rows,)} if method == "dora" else {})


def check_rank(method: str, rank: int, layers: Mapping[str, nn.Linear]) -> None:
    """Raise ``ConfigError`` unless every layer's matrix is at least as large as the rank."""
    if method not in METHODS:
        raise ConfigError(
            f"There is no method '{method}'.",
            "method of a peft backbone",
            f"{did_you_mean(method, METHODS)} Write one of {', '.join(METHODS)}.".strip(),
        )
    if rank < 1:
        raise ConfigError(
            f"A rank of {rank} adapts nothing.", "rank of a peft backbone", "Raise it."
        )
    for name, layer in layers.items():
        # MiSS folds the input into r sums, so only the columns bound its rank
        most = layer.in_features
        if method != "miss":
            most = min(layer.in_features, layer.out_features)
        if rank > most:
            raise ConfigError(
                f"A rank of {rank} is above the {most} that '{name}' of shape"
                f" [{layer.out_features}, {layer.in_features}] can have.",
                "rank of a peft backbone",
                f"Choose a rank of {most} or less, or leave that layer out of 'targets'.",
            )


def import_peft() -> Any:
    """Import ``peft``. Raises ``MissingExtra``."""
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The package '{error.name}' is not installed.",
            "backbone 'peft'",
            "pip install 'wishbone-tts[adapt]'",
        ) from error
    return peft


def inject_adapter(
    base: Backbone,
    name: str,
    method: str,
    rank: int,
    alpha: float,
    dropout: float,
    layers: Iterable[str],
) -> None:
    """Put an adapter called ``name`` on the named layers of ``base``, in place.

    It begins at no change, except that DoRA's magnitudes are those of the weights there are now.
    """
    peft = import_peft()
    targets = list(layers)
    if method == "miss":
        config = peft.MissConfig(r=rank, target_modules=targets, miss_dropout=dropout)
    else:
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout,
            use_dora=method == "dora",
        )  # fmt: skip
    with warnings.catch_warnings():
        # it warns of a second adapter, which is what several adapters are
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(config, base, adapter_name=name)


def tuner_layers(base: nn.Module) -> dict[str, Any]:
    """List ``peft``'s layers in a base, by the names of the layers that they replaced."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: module for n, module in base.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_part(layer: Any, part: str, name: str) -> Tensor | None:
    """One tensor of adapter ``name`` in one of ``peft``'s layers; None where it has none."""
    holder = getattr(layer, part.partition(".")[0], None)
    if holder is None or name not in holder:
        return None
    part_or_layer = holder[name]
    return part_or_layer if isinstance(part_or_layer, Tensor) else part_or_layer.weight


def has_adapter(layer: Any, name: str) -> bool:
    """Tell whether an adapter of that name is on the layer."""
    return any(name in getattr(layer, part, ()) for part in ("lora_A", "miss_block"))


@torch.no_grad()
def effective_weight(layer: Any, names: Sequence[str]) -> Tensor:
    """Compute the one matrix [R, C] that does what the layer does with these adapters.

    It is float32 at least. LoRA: W + s B A (arXiv:2106.09685, section 4.1). MiSS: W plus a block
    repeated over the columns (arXiv:2409.15371), as ``MissLinear`` in peft/tuners/miss/layer.py.

    DoRA: W' = m / ||V|| * V of every row, V = W + s B A (arXiv:2402.09353, equation 5).
    """
    weight = layer.get_base_layer().weight.detach()  # [R, C]
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)  # [R, C]
    for name in names:
        if not has_adapter(layer, name):
            continue
        if (block := adapter_part(layer, "miss_block", name)) is not None:
            # x is folded: columns c, c + r, c + 2 r ... are multiplied by the same row of the block
            repeats = -(-weight.shape[1] // len(block))
            weight += block.to(weight).repeat(repeats, 1)[: weight.shape[1]].mT  # [R, C]
            continue
        a, b = (adapter_part(layer, part, name).to(weight) for part in PARTS["lora"])
        weight += layer.scaling[name] * (b @ a)  # [R, r] @ [r, C] -> [R, C]
        magnitude = adapter_part(layer, "lora_magnitude_vector", name)  # [R]
        if magnitude is not None:
            norm = torch.linalg.norm(weight, dim=1)  # [R]
            weight *= (magnitude.to(weight) / norm)[:, None]  # [R, C]
    return weight


@torch.no_grad()
def principal_factors(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """weight [R, C] -> A [r, C] and B [R, r] with s B A the nearest matrix of that rank.

    PiSSA, arXiv:2404.02948, equations 2 and 3; the singular values are divided by s first.
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))  # [R, C]
    u, values, vh = torch.linalg.svd(exact, full_matrices=False)  # [R, m], [m], [m, C]
    root = (values[:rank] / scale).sqrt()  # [r]
    return root[:, None] * vh[:rank], u[:, :rank] * root  # [r, C], [R, r]


def ends_so(name: str, ending: str) -> bool:
    """Compare whole words only: "key" is the end of "time_mix.key", not of "monkey"."""
    return f".{name}".endswith(f".{ending}")


def _endings(names: Iterable[str]) -> list[str]:
    """List the names without the numbers of blocks, every one once."""
    stripped = (".".join(p for p in name.split(".") if not p.isdigit()) for name in names)
    return sorted({name.removeprefix("blocks.") for name in stripped})
