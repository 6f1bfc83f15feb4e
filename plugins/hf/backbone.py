"""The backbone ``hf``: any language model of the package transformers, by the name of its family.

A model of transformers turns vectors to vectors (its table of ids is left out) and keeps a cache.
``memory.py`` makes the cache a state that is handed in and out; here rows of different lengths get
one. ``README.md`` lists the families, and says what is refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.part import OptionalSize
from wishbone.core.model.state_batch import pick, write_rows
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.hf import library
from wishbone.plugins.hf.admission import admit
from wishbone.plugins.hf.families import ALIASES, FAMILIES, NAMES, Family, Shape
from wishbone.plugins.hf.memory import GROWS, LENGTH, RECURS, WINDOW, Entry, Memory, wide

DEFAULTS = {"width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_width": 768}
"""Sizes where neither a field nor a folder says them."""


@dataclass
class HFConfig:
    """A family and its sizes, or a folder that has them; 0 is what the folder or a rule says."""

    model: str = "qwen3"
    """Family, as the ``model_type`` of transformers; ``weights`` says it, too."""
    width: OptionalSize = 0
    """D, numbers per position (hidden_size)."""
    layers: OptionalSize = 0
    """Number of layers (num_hidden_layers)."""
    heads: OptionalSize = 0
    """Query heads of attention, or heads of the recurrence where there is none."""
    kv_heads: OptionalSize = 0
    """Heads of keys and values (num_key_value_heads)."""
    ffn_width: OptionalSize = 0
    """Inner width of the feed-forward part (intermediate_size)."""
    config: dict[str, Any] = field(default_factory=dict)
    """Further values of that family's configuration, by the names that transformers has."""
    weights: str | None = None
    """Folder with config.json and .safetensors of a released model, which says all the sizes."""
    download: bool = False
    """True lets ``weights`` be the id of a model on the hub, which is then fetched, once."""

    def __post_init__(self) -> None:
        family, values = ALIASES.get(self.model, self.model), dict(self.config)
        if self.weights and self.download:
            self.weights = library.fetched(self.weights)
        if self.weights and (weights_folder(self.weights) / "config.json").is_file():
            family, released = library.read_config(weights_folder(self.weights))
            values = released | values
        self.model = family
        for name, key in names_of(family).items():
            stated = values.pop(key, None) if key else None
            current = getattr(self, name)
            if current and stated and stated != current:
                raise ValueError(f"'{name}' is {current}, and '{key}' is {stated}")
            default = DEFAULTS[name] if key or name == "layers" else 0
            setattr(self, name, current or stated or default)
        self.config = values


def names_of(family: str) -> dict[str, str]:
    """Field -> the value of the family's configuration that it is; "" for what it lacks."""
    names = getattr(FAMILIES.get(family), "names", None)
    return dict(names or NAMES)


def values_of(config: HFConfig) -> dict[str, Any]:
    """All values for transformers: sizes, what follows from them, and what was written."""
    sizes = {n: getattr(config, n) or DEFAULTS[n] for n in NAMES}
    family = FAMILIES.get(config.model, Family(lambda shape: {}))
    by_key = {key: sizes[name] for name, key in names_of(config.model).items() if key}
    if config.model not in FAMILIES:
        by_key = {key: n for key, n in by_key.items() if library.has_value(config.model, key)}
    return {**family.values(Shape(**sizes)), **by_key, **config.config}


@lru_cache(maxsize=64)
def _plan(text: str) -> tuple[Caps, int]:
    """Caps and parameters of a configuration, by a model that takes no memory."""
    config = HFConfig(**json.loads(text))
    with torch.device("meta"):
        model = HF(config)
    ends = {
        ".".join(name.split(".")[-2:])
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    caps = Caps(constant_state=not model.cache.grows, peft_targets=tuple(sorted(ends)))
    return caps, sum(parameter.numel() for parameter in model.parameters())


def plan(config: HFConfig) -> tuple[Caps, int]:
    """Return the promises and the number of parameters of a configuration, building nothing."""
    values = asdict(config)
    return _plan(json.dumps({**values, "weights": None}, sort_keys=True))


class HF(Backbone):
    """A model of transformers. State: ``length`` [B] and what each layer remembers.

    ``blocks.i.key`` and ``.value`` [B, G, S, K] grow, row b in slots 0..length[b] - 1, or hold the
    last positions of a window at their right end. ``blocks.i.convolution`` and ``.memory`` are the
    last inputs of a convolution and the memory of a recurrence, of constant size.
    """

    Config = HFConfig
    size_fields = {"ffn_width": 16}

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        admit(config.model, HF, tiny_config)
        self.config = config
        self.inner = library.make_config(config.model, values_of(config))
        self.cache = Memory(self.inner)
        self.model = library.build_model(self.inner)
        self.width = config.width
        self.exact = not _experts(self.inner)
        self.memory = tuple([".memory"] if self.cache.recurs else [])
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self._entries: dict[torch.dtype, list[Entry]] = {}

    @property
    def caps(self) -> Caps:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The promises of this configuration."""
        return self.caps_of(self.config)

    @classmethod
    def small_config(cls) -> HFConfig:
        """A tiny Qwen3."""
        return tiny_config("qwen3")

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """Constant is the state of a model without attention, or with windows alone."""
        return plan(config)[0]

    @classmethod
    def count_parameters(cls, config: Any) -> int:
        """Count those of a model on the device "meta", once for a configuration."""
        return plan(config)[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move and convert as every module does, but keep tables of angles in float32 at least."""
        before = {
            (module, name): buffer
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in module._non_persistent_buffers_set and buffer.dtype == torch.float32
        }
        super()._apply(fn, recurse)
        for (module, name), buffer in before.items():
            now = getattr(module, name)
            if now.dtype in (torch.bfloat16, torch.float16):
                setattr(module, name, buffer.to(now.device))
        return self

    def entries(self) -> list[Entry]:
        """List the parts of the state, by one position through the model, once for a dtype."""
        weight = next(self.parameters())
        if weight.dtype not in self._entries:
            x = torch.zeros(1, 1, self.width, dtype=weight.dtype, device=weight.device)
            cache, training = self.cache.empty(), self.training
            with torch.no_grad():
                self.model.eval()
                self._call(x, cache, None, torch.zeros(1, 1, dtype=torch.int64, device=x.device))
                self.model.train(training)
            self._entries[weight.dtype] = self.cache.entries(cache)
        return self._entries[weight.dtype]

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """Zeros; ``dtype`` is by default the model's, and that of memory float32 at least."""
        weight = next(self.parameters())
        device = torch.device(weight.device if device is None else device)
        state: State = {LENGTH: torch.zeros(batch, dtype=torch.int64, device=device)}  # [B]
        for entry in self.entries():
            kind = _kind(entry, weight.dtype, dtype or weight.dtype)
            state[entry.name] = torch.zeros(batch, *entry.shape, dtype=kind, device=device)
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], zeros where masked, and the state."""
        if mask is None or bool(mask.all()):
            return self._real(x, state, None)
        counts = mask.sum(1)  # [B]
        # real positions first, in their order
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # [B, T]
        order = order[:, : max(1, int(counts.max())), None]  # [B, P, 1]
        packed = x.gather(1, order.expand(-1, -1, x.shape[2]))  # [B, P, D]
        real = torch.arange(packed.shape[1], device=x.device) < counts[:, None]  # [B, P]
        packed = packed.masked_fill(~real[..., None], 0)
        if self.cache.recurs or self.cache.window:
            y, after = self._by_count(packed, state, counts)  # [B, P, D]
        else:
            y, after = self._real(packed, state, counts)  # [B, P, D]
        y = y.masked_fill(~real[..., None], 0)
        index = order.expand(-1, -1, x.shape[2])  # [B, P, D]
        y = torch.zeros_like(x).scatter(1, index, y.to(x.dtype))  # [B, T, D]
        return y.masked_fill(~mask[..., None], 0), after

    def _by_count(self, x: Tensor, state: State | None, counts: Tensor) -> tuple[Tensor, State]:
        """Call rows with as many real positions together: a recurrence must see nothing else.

        x [B, P, D] has them first, counts [B] of them.
        """
        state = self.init_state(len(x), dtype=x.dtype) if state is None else state
        y = torch.zeros_like(x)  # [B, P, D]
        after = dict(state)
        groups = [(n, (counts == n).nonzero()[:, 0]) for n in counts.unique().tolist() if n]
        results = []
        for count, rows in groups:
            out, of_rows = self._real(x[rows, :count], pick(state, rows), None)  # [N, count, D]
            padded = torch.cat((out, out.new_zeros(len(rows), x.shape[1] - count, x.shape[2])), 1)
            y = y.index_copy(0, rows, padded)  # [B, P, D]
            results.append((rows, of_rows))
        return y, _merged(after, results)

    def _real(self, x: Tensor, state: State | None, counts: Tensor | None) -> tuple[Tensor, State]:
        """x [B, T, D] of real positions, or of counts [B] with padding behind -> y, the state."""
        batch, length, _ = x.shape
        new = torch.arange(length, device=x.device)  # [T]
        if state is None:
            cache, used = self.cache.empty(), 0
            before = x.new_zeros(batch, dtype=torch.int64)  # [B]
        else:
            before = state[LENGTH]  # [B]
            used = int(before.max()) if batch else 0
            cache = self.cache.fill(self.entries(), state, used, length == 1)
        begins = used - before  # [B]
        visible = None
        if bool(begins.any()) and (self.cache.grows or self.cache.window):
            slots = torch.arange(used + length, device=x.device)  # [S]
            visible = (slots >= begins[:, None]).long()  # [B, S]
        y = self._call(x, cache, visible, before[:, None] + new)  # [B, T, D]
        after = before + (length if counts is None else counts)  # [B]
        return y, self.cache.read(cache, self.entries(), begins, after)

    def _call(self, x: Tensor, cache: Any, visible: Tensor | None, positions: Tensor) -> Tensor:
        """Run the model, whose cache is changed -> y [B, T, D].

        visible [B, S] is 0 at slots that attention must not see, positions [B, T] those of ``x``.
        """
        values: dict[str, Any] = {"inputs_embeds": x, "cache": cache, "use_cache": True}
        if visible is not None:
            values["attention_mask"] = visible
        if self._takes_positions:
            values["position_ids"] = positions
        return self.model(**values).last_hidden_state.to(x.dtype)  # [B, T, D]

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Keys and values of ``length`` positions, or of a window; memory of constant size."""
        total, kind = 8, next(self.parameters()).dtype
        for entry in self.entries():
            numbers = torch.Size(entry.shape).numel()
            if entry.kind == GROWS:
                numbers = entry.shape[0] * length * entry.shape[2]
            total += numbers * _kind(entry, kind, dtype).itemsize
        return total

    def flops_per_position(self, context: int = 0) -> int:
        """Two a weight that is used, of experts those chosen, and two a number that is read."""
        chosen, every = _experts(self.inner) or (1, 1)
        total = 0
        for name, parameter in self.model.named_parameters():
            if parameter.ndim > 1:
                share = chosen / every if ".experts." in name else 1.0
                total += int(2 * share * parameter.numel())
        heads = getattr(self.inner, "num_attention_heads", 0) or 0
        for entry in self.entries():
            if entry.kind in (GROWS, WINDOW):
                places = context if entry.kind == GROWS else min(context, entry.shape[1])
                total += 2 * heads * entry.shape[2] * places
            elif entry.kind == RECURS:
                total += 4 * torch.Size(entry.shape).numel()
        return total

    def shardable(self) -> Sequence[nn.Module]:
        """The layers, unless some are the same module."""
        layers = list(getattr(self.model, "layers", None) or [])
        inside = [id(m) for layer in layers for m in layer.modules()]
        return layers if layers and len(inside) == len(set(inside)) else [self]

    def load_release(self, folder: Path) -> None:
        """Fill the model with a released folder's weights. Raises ``CheckpointError``."""
        library.require_folder(
            folder,
            "Check 'weights:'; to fetch a model of the hub, write 'download: true' beside its id.",
        )
        load_tensors(self, self.release_tensors(folder), str(folder))

    def release_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read a released folder's tensors by the names here. Raises ``CheckpointError``."""
        return {f"model.{name}": t for name, t in library.read_body(folder).items()}


def _kind(entry: Entry, model: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Type of a part in a state for ``dtype``, of a model of type ``model``."""
    return dtype if entry.kind != RECURS and entry.dtype == model else wide(entry)


def _merged(before: State, results: Sequence[tuple[Tensor, State]]) -> State:
    """The rows of several states in one, longer parts with zeros behind; the others as before."""
    state = {name: part.clone() for name, part in before.items()}
    for rows, values in results:
        write_rows(state, rows.tolist(), values)
    return state


def _experts(inner: Any) -> tuple[int, int] | None:
    """Experts chosen for a position, and all of them; None for a model without."""
    every = next(
        (getattr(inner, n) for n in ("num_experts", "num_local_experts", "n_routed_experts")
         if getattr(inner, n, None)), 0,
    )  # fmt: skip
    chosen = next(
        (getattr(inner, n) for n in ("num_experts_per_tok", "num_experts_per_token")
         if getattr(inner, n, None)), 0,
    )  # fmt: skip
    return (int(chosen), int(every)) if every and chosen else None


def tiny_config(family: str) -> HFConfig:
    """A config for tests: few layers, all kinds of layers that the family has."""
    values = dict(getattr(FAMILIES.get(ALIASES.get(family, family)), "tiny", None) or {})
    return HFConfig(
        model=family,
        width=64,
        layers=values.pop("layers", 2),
        heads=4,
        kv_heads=2,
        ffn_width=96,
        config=values,
    )
