"""The backbone ``stack``: any token mixer, any feed-forward part, in blocks by a pattern.

    for every block:
        x = x + mixer(norm_mixer(x))      sees other positions; remembers them in its state
        x = x + ffn(norm_ffn(x))          sees one position, or a few
    y = norm_out(x)

What every backbone needs is here once: norms, residuals, padding, the names of the state, counting.
``core/config/blocks.py`` has the syntax of the blocks, ``README.md`` the way to write a half.
``rwkv7``, ``transformer`` and ``arwkv`` are such stacks, too, under names of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.config.blocks import BlocksConfig, parse_blocks
from wishbone.core.config.schema import SlotSpec
from wishbone.core.contract.backbone import Backbone, Caps, Reading, State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.part import Dropout, OneOf, OptionalSize, Positive, Size
from wishbone.core.contract.stack.mixer import BALANCE, Call, Mixer
from wishbone.plugins.engines import Engine, Maker, choose
from wishbone.plugins.stack.block import LENGTH, Block
from wishbone.plugins.stack.engines.cuda_graph import attach
from wishbone.plugins.stack.engines.native import NativeStack
from wishbone.plugins.stack.packing import Packing
from wishbone.plugins.stack.parallel import Parallel, ParallelConfig
from wishbone.plugins.stack.plan import Half, Plan
from wishbone.plugins.stack.pointer import points_of, with_pointer

PIECE = 4096
"""Positions of all sequences together that go through the blocks at once without gradient: the
memory a long text needs does not grow with it, and the state it leaves is the same."""


@dataclass
class StackConfig(BlocksConfig):
    """Shape of a stack."""

    width: Size = 256
    """D, numbers per position."""
    ffn_width: OptionalSize = 0
    """Inner width of feed-forward parts that name none themselves; 0 means by their own rule."""
    gated: bool = False
    """True weighs the answers of halves side by side by a learned gate; else it is their mean."""
    norm: Annotated[str, OneOf("rms", "layer")] = "rms"
    """RMSNorm or LayerNorm before every half and at the end."""
    norm_eps: Positive = 1e-6
    """Added to the mean square, or to the variance, inside every norm."""
    norm_in: bool = False
    """True norms what goes into the first block, too, as every RWKV does."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a residual branch in training."""


class Stack(Backbone):
    """Pre-norm blocks of two halves each.

    State: ``blocks.i.NAME`` for every NAME of a half of the block at depth i, and ``length`` [B]
    where a half wants positions. A subclass is a preset: ``planned`` says which halves it has,
    ``names`` how its modules are called.
    """

    Config = StackConfig
    names: ClassVar[tuple[tuple[str, str], tuple[str, str]]] = (
        ("norm_mixer", "mixer"),
        ("norm_ffn", "ffn"),
    )
    """Attributes of a block: norm and half of the mixer, norm and half of the other one."""
    engines: ClassVar[dict[str, Maker]] = {"native": NativeStack, "graph": attach}
    """Ways to compute a step faster than plain PyTorch, by the names of ``accelerate``."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        plan = self.planned(config)
        self.config, self.width = config, plan.width
        # The caps of an instance are those of its configuration.
        self.caps: Caps = self.caps_of(config)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.norm_in = _norm(plan) if plan.norm_in else None
        self.blocks = nn.ModuleList(_blocks(plan, self.names))
        self.norm_out = _norm(plan)
        leaves = plan.leaves()
        self.needs_reading = any(leaf.cls.ids for leaf in leaves)
        self.exact = all(leaf.cls.exact for leaf in leaves)
        self.memory = tuple(dict.fromkeys(f".{n}" for leaf in leaves for n in leaf.cls.memory))
        self.differentiable = all(leaf.cls.differentiable for leaf in leaves)
        self.rounding = max(leaf.cls.rounding for leaf in leaves)
        self._order = plan.order
        self._counts = any(leaf.cls.positions for leaf in leaves)
        self._engine: Engine | None = None
        self._penalty: Tensor | None = None
        self._points = 0

    @classmethod
    def planned(cls, config: Any) -> Plan:
        """Say which halves a stack of ``config`` has. Raises ``ConfigError``."""
        row = parse_blocks(config)
        entries = list(range(len(row)))
        if config.share:
            entries = [block.entry for block in row]
        firsts = [entries.index(entry) for entry in dict.fromkeys(entries)]
        numbers = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
        return Plan(
            config.width,
            tuple(
                (_half(row[first].mixer, config.gated), _half(row[first].ffn, config.gated))
                for first in firsts
            ),
            tuple(numbers[entry] for entry in entries),
            config.ffn_width,
            layer_norm=config.norm == "layer",
            norm_eps=config.norm_eps,
            norm_in=config.norm_in,
            dropout=config.dropout,
        )

    @classmethod
    def small_config(cls) -> Any:
        """For the contract suites: attention, and a feed-forward part of an odd width."""
        attention = {"name": "attention", "heads": 4, "kv_heads": 2}
        return StackConfig(width=48, layers=2, mixer=attention, ffn_width=112)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """Return the first state of every half; ``dtype`` is by default the model's."""
        weight = self.norm_out.weight
        device = torch.device(weight.device if device is None else device)
        dtype = weight.dtype if dtype is None else dtype
        state: State = {}
        if self._counts:
            state[LENGTH] = torch.zeros(batch, dtype=torch.int64, device=device)  # [B]
        for depth, block in enumerate(self._row()):
            for half in block.halves():
                for name, tensor in half.init_state(batch, device, dtype).items():
                    state[f"blocks.{depth}.{name}"] = tensor
        return state

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        mask: Tensor | None = None,
        reading: Reading | None = None,
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state. Outputs at masked positions are zero.

        ``reading`` is asked for where a half has ``ids``; else it is ignored.
        """
        self._penalty = None  # of an earlier call: it must not be added to this one's loss
        first = state is None
        table, ids = self._read(reading)
        state = self.init_state(len(x), device=x.device) if state is None else state
        if not x.shape[1]:
            return self._wide(x), {name: tensor.clone() for name, tensor in state.items()}
        if not torch.is_grad_enabled() and not self.training:
            fast = self._prefill(x, state, mask, reading)
            if fast is not None:
                return fast
        packing = None if mask is None else Packing.of(mask, short=not self.caps.constant_state)
        if packing is None:
            call = Call(start=state.get(LENGTH), table=table, ids=ids, first=first)
            return self._forward(x, state, call)
        if not packing.size:
            after = {name: tensor.clone() for name, tensor in state.items()}
            return self._wide(torch.zeros_like(x)), after
        if table is not None and ids is not None:
            table = packing.pack(table[..., None])[..., 0]  # [B, P]
            ids = packing.pack(ids)  # [B, P, Q]
        call = Call(packing.lengths, state.get(LENGTH), table, ids, first)
        y, after = self._forward(packing.pack(x), state, call)  # [B, P, D]
        return packing.unpack(y), after

    def _forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, P, D], real positions at the front of each row -> y [B, P, D], state."""
        after: State = {}
        if self._counts:
            more = x.shape[1] if call.lengths is None else call.lengths  # [B]
            after[LENGTH] = state[LENGTH] + more  # [B]
        if self.norm_in is not None:
            x = self.norm_in(x)  # [B, P, D]
        for depth, block in enumerate(self._row()):
            names = block.state_names
            own = {name: state[f"blocks.{depth}.{name}"] for name in names}
            x, new = block(x, own, call)  # [B, P, D]
            after |= {f"blocks.{depth}.{name}": new[name] for name in names}
        self._penalty = call.extra.get(BALANCE) if self.training else None
        return with_pointer(self.norm_out(x), call, self._points), after

    def _wide(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> a copy, with zeros where a pointer would stand."""
        return nn.functional.pad(x, (0, 2 * self._points)).clone()  # [B, T, D + 2 k]

    def _read(self, reading: Reading | None) -> tuple[Tensor | None, Tensor | None]:
        """Return table and ids where a half asks for them. Raises ``CapabilityError`` without."""
        if not self.needs_reading:
            return None, None
        if reading is None:
            raise CapabilityError(
                "A half of this stack asks what each position reads, and was given vectors alone.",
                "the blocks of a stack",
                "Use it in a system of text and speech, without an adapter or a batch server.",
            )
        return reading

    def _prefill(
        self, x: Tensor, state: State, mask: Tensor | None, reading: Reading | None
    ) -> tuple[Tensor, State] | None:
        """Compute by the engine or, where memory would grow, in pieces; return None elsewhere."""
        engine = self._engine
        if mask is None and reading is None and self._few(x, state):
            state = dict(state)  # an engine with ``few`` leaves the tensors in it as they are
            return torch.cat([engine.step_(one, state) for one in x.split(1, dim=1)], 1), state
        many = getattr(engine, "takes_many", None)
        if mask is None and many is not None and many(x, state):
            return engine.prefill(x, state)
        piece = max(128, PIECE // len(x))
        if x.shape[1] <= piece or not self.caps.constant_state:
            return None
        parts = []
        for start in range(0, x.shape[1], piece):
            positions = slice(start, start + piece)
            part = None if mask is None else mask[:, positions]  # [B, P]
            read = None if reading is None else (reading[0][:, positions], reading[1][:, positions])
            y, state = self(x[:, positions], state, mask=part, reading=read)  # [B, P, D]
            parts.append(y)
        return torch.cat(parts, 1), state

    def _few(self, x: Tensor, state: State) -> bool:
        """Return whether steps of the engine compute x [B, T, D] sooner than all at once."""
        engine = self._engine
        return len(x) == 1 and x.shape[1] <= getattr(engine, "few", 0) and engine.takes(x, state)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State, reading: Reading | None = None) -> Tensor:
        """As in ``Backbone``, without gradient; plain steps may put new tensors into ``state``."""
        engine = self._engine
        if engine is not None and not self.training and engine.takes(x, state):
            return engine.step_(x, state)
        return self.plain_step(x[:, 0], state, reading)[:, None]  # [B, 1, D]

    def plain_step(self, x: Tensor, state: State, reading: Reading | None = None) -> Tensor:
        """x [B, D] -> y [B, D] by the steps of the halves; ``state`` gets what they return."""
        table, ids = self._read(reading)
        call = Call(start=state.get(LENGTH), table=table, ids=ids)
        if self.norm_in is not None:
            x = self.norm_in(x)  # [B, D]
        for depth, block in enumerate(self._row()):
            own = {name: state[f"blocks.{depth}.{name}"] for name in block.state_names}
            x, new = block.step(x, own, call)  # [B, D]
            for name in block.state_names:
                state[f"blocks.{depth}.{name}"] = new[name]
        if self._counts:
            state[LENGTH] = state[LENGTH] + 1  # [B]
        return with_pointer(self.norm_out(x), call, self._points)

    def penalty(self) -> Tensor | None:
        """The sum of what halves left as "balance"."""
        return self._penalty

    def point(self) -> None:
        """As in ``Backbone``, from the last half that leaves a pointer."""
        self._points = points_of(self._halves())

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Backbone``; ``engines`` are the names beside "auto" and "eager"."""
        self._engine, used = choose(self, engine, weights, self.engines)
        return used

    def steps_narrow_state(self) -> bool:
        """As in ``Backbone``: an attribute of the engine."""
        return self._engine is not None and self._engine.narrow

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Count the first state without memory, and what each position adds to it."""
        total = 8 if self._counts else 0
        for half in (half for block in self._row() for half in block.halves()):
            growth = half.growth()
            for name, tensor in half.init_state(1, torch.device("meta"), dtype).items():
                count = tensor.numel() + length * growth.get(name, 0)
                total += count * tensor.element_size()
        return total

    @classmethod
    def count_parameters(cls, config: Any) -> int:
        """Count every half once for each place that is different."""
        return cls.planned(config).count_parameters()

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """A state of constant size where every half has one; targets of all adaptable layers."""
        plan = cls.planned(config)
        with torch.device("meta"):
            constant = all(half.build(place).constant for _, _, half, place in plan.halves())
        targets = dict.fromkeys(end for leaf in plan.leaves() for end in leaf.cls.targets)
        return Caps(constant_state=constant, peft_targets=tuple(targets))

    def flops_per_position(self, context: int = 0) -> int:
        """Count two per number of every matrix, and what each half does to its state."""
        vectors = tuple({f".{end}" for half in self._halves() for end in half.vectors})
        total = 0
        for block in self._row():
            named = block.named_parameters()
            total += 2 * sum(p.numel() for n, p in named if p.ndim > 1 and not n.endswith(vectors))
            total += sum(half.operations(context) for half in block.halves())
        return total

    def training_form(self) -> str:
        """Those of all halves, once."""
        forms = dict.fromkeys(half.training_form() for half in self._halves())
        return ", ".join(form for form in forms if form)

    def shardable(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def mixers(self) -> list[nn.Module]:
        """The token mixers; none where depths share weights, or a block has no mixer."""
        names = [self.names[0][1] in dict(block.named_children()) for block in self.blocks]
        if len(self._order) > len(self.blocks) or not all(names):
            return []
        return [getattr(block, self.names[0][1]) for block in self.blocks]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Decay the weights of linear layers alone; twice the rate for ``fast`` parameters."""
        linear = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        endings = tuple({f".{end}" for half in self._halves() for end in half.fast})
        fast, decayed, plain = [], [], []
        for name, parameter in self.named_parameters():
            if name.endswith(endings):
                fast.append(parameter)
            else:
                (decayed if id(parameter) in linear else plain).append(parameter)
        groups = [
            {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
            {"params": fast, "lr": 2 * learning_rate, "weight_decay": 0.0},
        ]
        return groups if fast else groups[:2]

    def _row(self) -> list[Block]:
        """Return the block of every depth."""
        return [self.blocks[number] for number in self._order]

    def _halves(self) -> list[Mixer]:
        """Return the halves of all weights, those side by side one by one."""
        modules = (module for block in self.blocks for module in block.modules())
        return [module for module in modules if isinstance(module, Mixer)]


class Preset(Stack):
    """A stack that fixes its halves and has a key, names and perhaps engines of its own.

    A subclass has ``Config``, ``caps``, ``names`` and ``planned``, whose plan says ``start=False``:
    initial values are drawn when all of it is built.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if next(self.parameters()).is_meta:  # it has no numbers, and computing there is slow
            return
        for block in self.blocks:
            for half in block.halves():
                half.reset_parameters()

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """The same for every configuration."""
        return cls.caps


def fields_of(schema: type[Any], config: Any) -> Any:
    """Make an instance of the dataclass ``schema`` of the fields of the same names of another."""
    return schema(**{part.name: getattr(config, part.name) for part in fields(schema)})


def _half(slots: list[SlotSpec], gated: bool) -> Half | None:
    halves = [Half(slot.cls, slot.config) for slot in slots]
    if len(halves) > 1:
        return Half(Parallel, ParallelConfig(tuple(halves), gated))
    return halves[0] if halves else None


def _norm(plan: Plan) -> nn.Module:
    if plan.layer_norm:
        return nn.LayerNorm(plan.width, eps=plan.norm_eps)
    return nn.RMSNorm(plan.width, eps=plan.norm_eps)


def _blocks(plan: Plan, names: tuple[tuple[str, str], tuple[str, str]]) -> list[Block]:
    """Build every block that has weights of its own."""
    halves: list[list[tuple[str, nn.Module, str, Mixer]]] = [[] for _ in plan.entries]
    for entry, which, half, place in plan.halves():
        norm_name, name = names[which]
        halves[entry].append((norm_name, _norm(plan), name, half.build(place)))
    return [Block(block, plan.dropout) for block in halves]
