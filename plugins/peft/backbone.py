"""A backbone with low-rank adapters on its linear layers: LoRA, DoRA, MiSS, PiSSA.

The base stays as it is, in full precision or quantised; ``peft`` supplies the layers. Inference
can use plain backbones with the adapters multiplied in, which any engine reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    UnknownName,
    did_you_mean,
)
from wishbone.core.model.wrapper import BASE, Wrapper, build_base, count_base
from wishbone.plugins.engines import LARGEST_UNASKED
from wishbone.plugins.peft.adapter import Adapter
from wishbone.plugins.peft.choice import (
    Switch,
    after_load,
    drop_other_adapters,
    keep_other_adapters,
    merge_rows,
)
from wishbone.plugins.peft.config import NONE, PEFTConfig, check_config
from wishbone.plugins.peft.files import base_mark, read_adapter
from wishbone.plugins.peft.layers import (
    DEFAULT,
    INITIAL,
    PARTS,
    Size,
    adaptable_layers,
    adapter_part,
    check_rank,
    has_adapter,
    inject_adapter,
    part_shapes,
    principal_factors,
    target_layers,
    tuner_layers,
)
from wishbone.plugins.peft.merging import merged_copy, quantized_layers
from wishbone.plugins.peft.names import fused_rows
from wishbone.plugins.peft.quantized import QuantizedLinear

ROWS = "adapter"
"""Part of the state [B]: the adapter that each row goes on with, where there are several."""


class PEFT(Wrapper):
    """``base`` with adapters; their tensors lie in it, at the layers that they adapt.

    State: the base's and, where the configuration's ``adapters`` names some, ``adapter`` [B] int64:
    0 is the trained one, then those named, in order; -1 is none. So every sequence keeps its
    adapter in a batch, in a pool and in a file.
    """

    Config = PEFTConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.caps = self.caps_of(config)
        check_config(config)
        targets = target_layers(self.base, config.targets)
        check_rank(config.method, config.rank, targets)
        self.targets = tuple(targets)
        self.layers = Size.of_all(adaptable_layers(self.base))
        self._parts_rows = fused_rows(self.base)
        others = {name: self._read(at) for name, at in config.adapters.items()}
        self.names = (DEFAULT, *others)
        self.marks = {name: other.base for name, other in others.items() if other.base}
        self._quantize()
        self._inject(others)
        self._switch = Switch()
        self.register_load_state_dict_post_hook(after_load)
        if others:
            self.register_state_dict_post_hook(drop_other_adapters)
            self.register_load_state_dict_pre_hook(keep_other_adapters)

    @classmethod
    def small_config(cls) -> Config:
        """LoRA on a small RWKV-7."""
        base = {"name": "rwkv7", "width": 48, "layers": 2, "head_size": 16, "ffn_width": 112}
        return cls.Config(base=base, rank=4)

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """The base's, whose layers are taken."""
        return replace(super().caps_of(config), peft_targets=())

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.config.alpha / self.config.rank if self.config.alpha else 1.0

    def base_names(self) -> dict[str, str]:
        """Map as ``Wrapper`` does; the tensors of an adapted layer lie one level deeper."""
        names = {}
        for name in self._plain:
            layer, _, part = name.rpartition(".")
            deeper = layer in getattr(self, "_tuned", ())
            names[name] = f"{BASE}{layer}.base_layer.{part}" if deeper else BASE + name
        return names

    @torch.no_grad()
    def adopt(self) -> None:
        """Set DoRA's magnitudes and PiSSA's factors from the base's weights; read ``start``."""
        for at, layer in self._tuners(DEFAULT).items():
            weight = layer.get_base_layer().weight
            if self.config.method == "dora":
                # as peft's own forward computes the norm, so that their quotient is exactly 1
                norm = torch.linalg.norm(weight, dim=1)  # [R]
                if not norm.all():
                    raise ConfigError(
                        f"DoRA turns the rows of a matrix, and '{at}' has rows of zeros.",
                        "the base of a peft backbone",
                        "Begin on trained weights, or leave that layer out of 'targets'.",
                    )
                adapter_part(layer, "lora_magnitude_vector", DEFAULT).copy_(norm)
            elif self.config.method == "pissa":
                factors = principal_factors(weight, self.config.rank, self.scale)
                for name in (DEFAULT, INITIAL):
                    for part, values in zip(PARTS["lora"], factors, strict=True):
                        adapter_part(layer, part, name).copy_(values)
        if self.config.start:
            self._copy_into(DEFAULT, self._checked_start(self._read(self.config.start)))

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """The base's state, every row with the trained adapter."""
        state = self.base.init_state(batch, device=device, dtype=dtype)
        if len(self.names) > 1:
            device = next(iter(state.values())).device
            state[ROWS] = torch.zeros(batch, dtype=torch.int64, device=device)  # [B]
        return state

    def choose_adapter(self, state: State, adapter: str) -> State:
        """Choose as ``Backbone`` says; "default" is the trained adapter, "base" none."""
        available = (*self.names, NONE)
        if adapter not in available:
            raise UnknownName(
                f"This system has no adapter '{adapter}'.",
                "adapters of its backbone",
                f"{did_you_mean(adapter, available)} Adapters: {', '.join(available)}.".strip(),
            )
        if ROWS not in state:
            if adapter == DEFAULT:
                return state
            raise CapabilityError(
                "This system has one adapter, and every request speaks with it.",
                "adapters of its backbone",
                "Name others under 'adapters:'; then each request may choose, also none.",
            )
        index = -1 if adapter == NONE else self.names.index(adapter)
        return {**state, ROWS: torch.full_like(state[ROWS], index)}  # [B]

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state.

        All rows go through every adapter that one of them has, so a row's numbers depend
        on the size of the batch and never on the others' adapters.
        """
        inner, rows, indices = self._split(state)
        results = []
        for index in indices:
            with self._computing_with(index) as backbone:
                results.append(backbone(x, inner, mask=mask))  # [B, T, D]
        y, after = results[0] if len(results) == 1 else merge_rows(results, indices, rows)
        return y, after if rows is None else {**after, ROWS: rows.clone()}

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], without gradient; changes ``state``."""
        _, rows, indices = self._split(state)
        if len(indices) > 1:
            y, after = self(x, state)  # [B, 1, D]
            state.clear()
            state.update(after)
            return y
        state.pop(ROWS, None)
        with self._computing_with(indices[0]) as backbone:
            y = backbone.step_(x, state)  # [B, 1, D]
        if rows is not None:
            state[ROWS] = rows
        return y

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Compute steps with plain backbones, one with each adapter multiplied in -> the engine.

        Each costs the memory of its weights, so "auto" leaves a large base, a quantised one and one
        on a GPU as it is, unless narrow weights are asked for.
        """
        self._switch.fast = {}
        if engine == "auto" and weights == "float32" and not self._worth_copies():
            engine = "eager"
        if engine == "eager":
            return self.base.accelerate("eager", weights)
        fast, used = {}, "eager"
        for index in (*range(len(self.names)), *([-1] if len(self.names) > 1 else [])):
            fast[index] = merged_copy(self.base, self._members(index)).eval()
            used = fast[index].accelerate(engine, weights)
            if used == "eager":
                return used
        self._switch.fast = fast
        return used

    def merged(self, adapter: str = DEFAULT) -> Backbone:
        """Return a plain backbone with an adapter multiplied in, or none for "base"."""
        index = -1 if adapter == NONE else self.names.index(adapter)
        return merged_copy(self.base, self._members(index)).train(self.training)

    def learned(self, adapter: str = DEFAULT) -> Adapter:
        """Return an adapter's tensors; PiSSA's as the LoRA of twice the rank that it amounts to.

        W + s (B A - B0 A0) = W + s [B, -B0] [A; A0].
        """
        layers, method = {}, self._methods[adapter]
        for name, layer in self._tuners(adapter).items():
            parts = {part: adapter_part(layer, part, adapter).detach() for part in PARTS[method]}
            if adapter == DEFAULT and self.config.method == "pissa":
                a, b = (adapter_part(layer, part, INITIAL).detach() for part in PARTS["lora"])
                parts["lora_A.weight"] = torch.cat((parts["lora_A.weight"], a))  # [2 r, C]
                parts["lora_B.weight"] = torch.cat((parts["lora_B.weight"], -b), 1)  # [R, 2 r]
            layers[name] = parts
            scale = 1.0 if method == "miss" else layer.scaling[adapter]
        return Adapter(method, len(parts[PARTS[method][0]]), scale, layers, self.mark())

    def mark(self) -> str:
        """Tell this base from others, by the tensors that adapters leave alone."""
        tensors = self.base.state_dict()
        by_name = {n: tensors[at.removeprefix(BASE)] for n, at in self.base_names().items()}
        return base_mark(by_name, self.layers)

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """The base's, and eight bytes for the choice where there is one."""
        return self.base.state_bytes(length, dtype=dtype) + 8 * (len(self.names) > 1)

    @classmethod
    def count_parameters(cls, config: Any) -> int:
        """The base's, and r (in + out) for each adapted layer.

        DoRA adds out, PiSSA doubles it for its first factors, MiSS has r out. The numbers of a
        quantised layer are no parameters.
        """
        with torch.device("meta"):
            base = build_base(config.base)
        layers, targets = adaptable_layers(base), target_layers(base, config.targets)
        count = sum(_numbers(config.method, config.rank, layer) for layer in targets.values())
        for at in config.adapters.values():
            count += read_adapter(_folder(at), layers, fused_rows(base)).numbers
        packed = () if config.base_weights == "float32" else layers.values()
        return count_base(config.base) + count - sum(layer.weight.numel() for layer in packed)

    def flops_per_position(self, context: int = 0) -> int:
        """The base's, which counts the adapters in it, and the products of quantised layers."""
        hidden = sum(m.in_features * m.out_features for m in quantized_layers(self.base).values())
        return self.base.flops_per_position(context) + 2 * hidden

    def _worth_copies(self) -> bool:
        """Tell whether an engine that nobody asked for may copy the weights."""
        parameters = list(self.base.parameters())
        small = sum(p.numel() for p in parameters) <= LARGEST_UNASKED
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        return small and on_cpu and self.config.base_weights == "float32"

    def _read(self, at: Mapping[str, str]) -> Adapter:
        return read_adapter(_folder(at), self.layers, self._parts_rows)

    def _checked_start(self, adapter: Adapter) -> Adapter:
        """Return ``adapter`` if this configuration trains one like it; ``CheckpointError``."""
        where = str(_folder(self.config.start))
        expected = {
            "method": self.config.method,
            "rank": self.config.rank,
            "alpha / rank": round(self.scale, 9),
            "layers": sorted(self.targets),
        }
        do = "Give the backbone its method, rank, alpha and targets."
        adapter.check_start(expected, where, do)
        self.check_mark(adapter.base, where)
        return adapter

    def _quantize(self) -> None:
        if self.config.base_weights == "float32":
            return
        for name, layer in adaptable_layers(self.base).items():
            parent, _, leaf = name.rpartition(".")
            packed = QuantizedLinear(layer, self.config.base_weights)
            setattr(self.base.get_submodule(parent), leaf, packed)

    def _inject(self, others: Mapping[str, Adapter]) -> None:
        config = self.config
        kind = "lora" if config.method == "pissa" else config.method
        self._methods = {DEFAULT: kind} | {name: other.method for name, other in others.items()}
        if len({method == "miss" for method in self._methods.values()}) > 1:
            raise ConfigError(
                "MiSS and LoRA cannot be on one base together.",
                "adapters of a peft backbone",
                "Use adapters of one kind, or merge one of them into the base first.",
            )
        alpha = self.scale * config.rank
        inject_adapter(self.base, DEFAULT, kind, config.rank, alpha, config.dropout, self.targets)
        if config.method == "pissa":
            inject_adapter(self.base, INITIAL, kind, config.rank, alpha, 0.0, self.targets)
            for layer in tuner_layers(self.base).values():
                layer.scaling[INITIAL] = -layer.scaling[DEFAULT]
        for name, other in others.items():
            alpha = other.scale * other.rank
            inject_adapter(self.base, name, other.method, other.rank, alpha, 0.0, other.layers)
        self._tuned = tuner_layers(self.base)
        for name, other in others.items():
            self._copy_into(name, other)
        self.base.requires_grad_(False)
        for layer in self._tuners(DEFAULT).values():
            for part in PARTS[kind]:
                adapter_part(layer, part, DEFAULT).requires_grad_(True)

    @torch.no_grad()
    def _copy_into(self, name: str, adapter: Adapter) -> None:
        for at, parts in adapter.layers.items():
            for part, values in parts.items():
                adapter_part(self._tuned[at], part, name).copy_(values)

    def _tuners(self, adapter: str) -> dict[str, Any]:
        return {name: layer for name, layer in self._tuned.items() if has_adapter(layer, adapter)}

    def _members(self, index: int) -> tuple[str, ...]:
        """Names of the adapters of ``peft``'s layers that together are adapter ``index`` here."""
        if index < 0:
            return ()
        first = not index and self.config.method == "pissa"
        return (self.names[index], INITIAL) if first else (self.names[index],)

    @contextmanager
    def _computing_with(self, index: int) -> Iterator[Backbone]:
        """Yield a backbone that computes with an adapter; no other thread switches meanwhile."""
        fast = self._switch.fast.get(index)
        if fast is not None and not self.training and not torch.is_grad_enabled():
            yield fast
            return
        with self._switch.lock:
            if self._switch.index != index:
                for layer in self._tuned.values():
                    layer._active_adapter = list(self._members(index))
                self._switch.index = index
            yield self.base

    def _split(self, state: State | None) -> tuple[State | None, Tensor | None, list[int]]:
        """Split off ``ROWS`` -> the base's state, the adapter of each row, the distinct ones."""
        if state is None or ROWS not in state:
            return state, None, [0]
        rows = state[ROWS]  # [B]
        inner = {name: part for name, part in state.items() if name != ROWS}
        return inner, rows, rows.unique().tolist() or [0]

    def check_mark(self, adapter_mark: str, where: str) -> None:
        """Raise ``CheckpointError`` if an adapter from ``where`` bears another base's mark."""
        expected_mark = self.mark()
        if adapter_mark and expected_mark and adapter_mark != expected_mark:
            raise CheckpointError(
                f"The adapter was trained on another base: it is marked {adapter_mark}, this one"
                f" {expected_mark}.",
                where,
                "Use it with the weights that it was trained on.",
            )


def _numbers(method: str, rank: int, layer: nn.Linear) -> int:
    """Count what an adapter of this method adds to ``layer``."""
    shapes = part_shapes(method, rank, layer.out_features, layer.in_features).values()
    once = sum(torch.Size(shape).numel() for shape in shapes)
    return 2 * once if method == "pissa" else once


def _folder(at: Mapping[str, str]) -> Any:
    return weights_folder(at["weights"])
