"""PiSSA (arXiv:2404.02948) around any backbone: text by the base, speech by base and difference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.contract.errors import (
    CapabilityError,
    ConfigError,
    UnknownName,
    did_you_mean,
)
from wishbone.core.contract.part import Count, Range
from wishbone.core.model.wrapper import Wrapper, build_base, count_base
from wishbone.plugins.engines import LARGEST_UNASKED
from wishbone.plugins.peft.adapter import Adapter
from wishbone.plugins.peft.files import read_adapter
from wishbone.plugins.peft.layers import PARTS, Size
from wishbone.plugins.peft.names import fused_rows
from wishbone.plugins.pissa.linear import PissaLinear, Route
from wishbone.plugins.pissa.speech_tensors import (
    Swap,
    parameter_key,
    replace_parameters,
    speech_parameters,
)
from wishbone.plugins.pissa.targets import check_rank, exchange, find_targets

SPEECH, TEXT = 0, 1
MODES = {"speech": SPEECH, "text": TEXT}
"""Name of a mode -> its number in the state."""
MODE = "mode"
"""The entry of the state, [B] int64, with the mode of each row."""


class PiSSA(Wrapper):
    """A backbone in two modes: "text" is the base, bit for bit, "speech" the adapted base.

    The mode is a part of the state, one number for every row, so it goes wherever a state goes,
    and a batch can hold rows of both. ``init_state(..., mode=)`` chooses it.
    """

    @dataclass
    class Config(Wrapper.Config):
        """The base, and the parts of it that are adapted."""

        rank: Annotated[int, Range(1, 2**20)] = 16
        """Rank of the trained factors; the difference from the base has twice as much."""
        targets: list[str] = field(default_factory=list)
        """Endings of the names of adapted layers, among those the base declares; empty means the
        feed-forward layers of every block."""
        own: list[str] = field(default_factory=list)
        """Endings of the names of other tensors (norms, shifts, decays) of which speech has its
        own; "*" means all that lie in no adapted layer."""
        mode: str = "speech"
        """The mode of a state whose mode nobody chose: "speech" or "text"."""
        iterations: Count = 0
        """Power iterations by which the principal factors are found; 0 decomposes the matrix."""
        start: dict[str, str] = field(default_factory=dict)
        """{weights: FOLDER}: a LoRA of Hugging Face's peft to begin as, its rank that of this."""

    def __init__(self, config: Config) -> None:
        _check_config(config)
        super().__init__(config)
        self.mode = config.mode
        self.route = Route()
        self.adapted: dict[str, PissaLinear] = {}
        """Name in the base -> layer. Not registered here: the base holds them."""
        names = find_targets(self.base, config.targets)
        others = speech_parameters(self.base, config.own, names)
        parameters = dict(self.base.named_parameters())
        self.own = nn.ParameterDict(
            {parameter_key(n): nn.Parameter(parameters[n].clone()) for n in others}
        )
        self._swap = Swap(self.base, others, self.own)
        for name in names:
            layer = self.base.get_submodule(name)
            check_rank(config.rank, name, layer)
            self.adapted[name] = PissaLinear(layer, config.rank, self.route)
            exchange(self.base, name, self.adapted[name])
        self._fast: _Fast | None = None
        self._last_mode: tuple[Tensor, int, int | None] | None = None

    @classmethod
    def small_config(cls) -> Config:
        """For the contract suites: a small RWKV-7."""
        base = {"name": "rwkv7", "width": 48, "layers": 2, "head_size": 16, "ffn_width": 112}
        return cls.Config(base=base, rank=4)

    def adopt(self) -> None:
        """Take over the principal factors of the base's weights: what is computed stays the same.

        Or the LoRA that ``start`` names. Raises ``CheckpointError`` where that does not fit.
        """
        with torch.no_grad():
            for at, tensor in self.own.items():
                tensor.copy_(self.base.get_parameter(at.replace("/", ".")))
        if self.config.start:
            self._start_from(weights_folder(self.config.start["weights"]))
            return
        for layer in self.adapted.values():
            layer.split(self.config.iterations)

    def learned(self) -> Adapter:
        """Return what was learned as the LoRA of rank 2 r that it is: [B, -B0] [A; A0] beside W.

        Raises ``CapabilityError`` where speech has tensors of its own, which no LoRA holds.
        """
        if len(self.own):
            raise CapabilityError(
                f"Speech has {len(self.own)} tensors of its own here, which a LoRA cannot hold.",
                "backbone.own",
                "Merge the system instead: 'wishbone convert pissa-merged'.",
            )
        layers = {name: layer.factors() for name, layer in self.adapted.items()}
        ranks = {len(a) for a, _ in layers.values()}
        parts = {n: dict(zip(PARTS["lora"], pair, strict=True)) for n, pair in layers.items()}
        return Adapter("lora", ranks.pop(), 1.0, parts)

    def choose_adapter(self, state: State, adapter: str) -> State:
        """Choose "speech" or "text" (also called "base") for sequences that begin."""
        names = MODES | {"base": TEXT}
        if adapter not in names:
            raise UnknownName(
                f"PiSSA has no mode '{adapter}'.",
                "the backbone of this system",
                f"{did_you_mean(adapter, names)} Modes: {', '.join(names)}.".strip(),
            )
        return {**state, MODE: torch.full_like(state[MODE], names[adapter])}  # [B]

    def init_state(
        self, batch: int, *, device: Any = None, dtype: Any = None, mode: str = ""
    ) -> State:
        """The base's state, in a mode: "text", "speech", or the configuration's."""
        state = self.base.init_state(batch, device=device, dtype=dtype)
        device = next(iter(state.values())).device
        state[MODE] = torch.full((batch,), MODES[mode or self.mode], device=device)  # [B]
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state; every row in the mode its state is in."""
        state = self.init_state(len(x), device=x.device) if state is None else state
        mode = state[MODE]  # [B]
        inside = {name: part for name, part in state.items() if name != MODE}
        inner, one = self._serving(mode)
        if one is None and len(self.own):
            y, after = self._both_modes(x, inside, mask, mode == SPEECH)  # [B, T, D]
        else:
            with self._routed(one, mode), self._tensors(one):
                y, after = inner(x, inside, mask=mask)  # [B, T, D]
        return y, {**after, MODE: mode}

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], in the mode that ``state`` names."""
        mode = state[MODE]  # [B]
        inner, one = self._serving(mode)
        if one is None and len(self.own):
            return super(Wrapper, self).step_(x, state)  # [B, 1, D]
        del state[MODE]
        try:
            with self._routed(one, mode), self._tensors(one):
                return inner.step_(x, state)  # [B, 1, D]
        finally:
            state[MODE] = mode

    def plain(self) -> Backbone:
        """The base in text mode, sharing its weights with this: what it was before."""
        return Mode(self, "text")

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Choose an engine -> its name. It has weights of its own: one set for each mode.

        "eager" keeps the one copy of W that both modes share, and "auto" does for a large base.
        Rows of both modes in one batch always run so.
        """
        self._fast = None
        unasked = engine == "auto" and weights == "float32"
        if engine == "eager" or (unasked and _count(self.base) > LARGEST_UNASKED):
            return self.base.accelerate("eager", weights)
        fast = _Fast(self.copied(merge=False), self.copied(merge=True))
        used = fast.text.accelerate(engine, weights)
        fast.speech.accelerate(used if engine == "auto" else engine, weights)
        if used != "eager":
            self._fast = fast
        return used

    def copied(self, merge: bool) -> Backbone:
        """Make a plain backbone for one mode; weights that ``merge`` does not change are shared."""
        memo = {id(t): t for t in [*self.base.parameters(), *self.base.buffers()]}
        copied = copy.deepcopy(self.base, memo)
        for name, layer in self.adapted.items():
            exchange(copied, name, layer.merged() if merge else layer.plain())
        if merge:
            replace_parameters(copied, self.own)
        return copied.eval().requires_grad_(False)

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """The base's bytes, and an int64 for the mode."""
        return self.base.state_bytes(length, dtype=dtype) + 8

    @classmethod
    def count_parameters(cls, config: Config) -> int:
        """The base's, r (in + out) for every adapted layer, and what speech has of its own."""
        with torch.device("meta"):
            base = build_base(config.base)
        names = find_targets(base, config.targets)
        sizes = sum(sum(base.get_submodule(name).weight.shape) for name in names)
        others = speech_parameters(base, config.own, names)
        extra = sum(base.get_parameter(n).numel() for n in others)
        return count_base(config.base) + config.rank * sizes + extra

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Group as ``Wrapper`` does, without decay: zero is no home of a factor or a norm."""
        groups = super().parameter_groups(learning_rate, weight_decay)
        return [{**group, "weight_decay": 0.0} for group in groups]

    def shardable(self) -> Sequence[nn.Module]:
        """The base's. Raises ``CapabilityError`` where speech has tensors of its own."""
        if len(self.own):
            raise CapabilityError(
                "Tensors of speech's own cannot be shared out among processes.",
                "shard of the training recipe",
                "Train with shard=none, or leave 'own' out.",
            )
        return super().shardable()

    def flops_per_position(self, context: int = 0) -> int:
        """In speech mode: the base's products, and two narrow ones of rank 2 r for every layer."""
        narrow = sum(4 * self.config.rank * sum(p.weight.shape) for p in self.adapted.values())
        return self.copied(merge=False).flops_per_position(context) + narrow

    @torch.no_grad()
    def _start_from(self, folder: Path) -> None:
        """Read the LoRA in ``folder``. Raises ``CheckpointError`` for another rank or layers."""
        sizes = {n: Size(m.out_features, m.in_features) for n, m in self.adapted.items()}
        adapter = read_adapter(folder, sizes, fused_rows(self.base))
        layers = sorted(self.adapted)
        expected = {"method": "lora", "rank": self.config.rank, "layers": layers}
        adapter.check_start(expected, str(folder), "Give the backbone its rank and its targets.")
        for name, parts in adapter.layers.items():
            narrow, wide = (parts[part] for part in PARTS["lora"])
            self.adapted[name].start_from(narrow, adapter.scale * wide)

    def _both_modes(
        self, x: Tensor, inside: State, mask: Tensor | None, speech: Tensor
    ) -> tuple[Tensor, State]:
        """Compute all rows in both modes and choose one of each by ``speech`` [B]."""
        with self._routed(TEXT, speech):
            y, after = self.base(x, inside, mask=mask)  # [B, T, D]
        with self._routed(SPEECH, speech), self._swap:
            spoken, speech_after = self.base(x, inside, mask=mask)  # [B, T, D]

        def pick(one: Tensor, other: Tensor) -> Tensor:
            return torch.where(speech.view(-1, *[1] * (one.ndim - 1)), other, one)  # [B, ...]

        state = {name: pick(part, speech_after[name]) for name, part in after.items()}
        return pick(y, spoken), state

    def _tensors(self, one: int | None) -> Any:
        """Return a context with speech's tensors in their places while all rows speak."""
        return self._swap if one == SPEECH and len(self.own) else nullcontext()

    def _serving(self, mode: Tensor) -> tuple[Backbone, int | None]:
        """Return the backbone for rows in these modes [B], and their mode where all share one."""
        one = self._common_mode(mode)
        fast = self._fast
        if fast is None or one is None or self.training or torch.is_grad_enabled():
            return self.base, one
        return (fast.text if one == TEXT else fast.speech), one

    def _common_mode(self, mode: Tensor) -> int | None:
        """Return the mode of all rows [B], or None; read a GPU once for a tensor, not each step."""
        # a tensor of inference mode does not say whether it was changed
        versioned = not mode.is_inference()
        if versioned and self._last_mode is not None and self._last_mode[0] is mode:
            if self._last_mode[1] == mode._version:
                return self._last_mode[2]
        low, high = (int(bound) for bound in torch.aminmax(mode)) if len(mode) else (0, 0)
        one = low if low == high else None
        self._last_mode = (mode, mode._version, one) if versioned else None
        return one

    def _routed(self, one: int | None, mode: Tensor) -> _Routed:
        return _Routed(self.route, mode == SPEECH if one is None else None, one == SPEECH)


class Mode(Wrapper):
    """A view of a ``PiSSA`` in which states begin in one mode; it has no weights of its own."""

    def __init__(self, pissa: PiSSA, mode: str) -> None:
        nn.Module.__init__(self)
        self.base, self.mode = pissa, mode
        self.config, self.width, self.caps = pissa.config, pissa.width, pissa.caps
        self.base_weights, self._plain = "", tuple(pissa.state_dict())

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """The state before the first position, in this mode."""
        return self.base.init_state(batch, device=device, dtype=dtype, mode=self.mode)

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state."""
        state = self.init_state(len(x), device=x.device) if state is None else state
        return self.base(x, state, mask=mask)


@dataclass
class _Fast:
    """Plain backbones with engines, one for each mode."""

    text: Backbone
    speech: Backbone

    def __deepcopy__(self, memo: Any) -> None:
        """A copy has weights of its own, so it begins as plain PyTorch."""


class _Routed:
    """Tell the adapted layers, for the time of a call, the rows that take the difference."""

    def __init__(self, route: Route, rows: Tensor | None, everyone: bool) -> None:
        self.route, self.now = route, (rows, everyone)

    def __enter__(self) -> None:
        self.before = self.route.rows, self.route.all
        self.route.rows, self.route.all = self.now

    def __exit__(self, *_: object) -> None:
        self.route.rows, self.route.all = self.before


def _check_config(config: PiSSA.Config) -> None:
    for what, right, do in (
        (f"'rank' is {config.rank}.", config.rank > 0, "Write 1 or more."),
        (f"There is no mode '{config.mode}'.", config.mode in MODES, "Write speech or text."),
        (f"'iterations' is {config.iterations}.", config.iterations >= 0, "Write 0 or more."),
        (
            "'start' does not say where the adapter is.",
            not config.start or list(config.start) == ["weights"],
            "Write start: {weights: FOLDER}.",
        ),
    ):
        if not right:
            raise ConfigError(what, "backbone", do)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
