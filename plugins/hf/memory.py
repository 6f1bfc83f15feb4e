"""A cache of transformers as a ``State``, and back; nothing is kept between calls.

transformers keeps what a model remembers in an object that its layers change in place. Here the
object lives for one call: it is filled from a state, and its tensors are the state after the call.
Three kinds of layers are known: attention (keys and values grow), attention to a window, and
recurrence (a convolution's last inputs, and a memory); a hybrid has two of them.

Shapes: B sequences, G heads of K numbers, S positions of the longest row, W of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError
from wishbone.plugins.hf.library import VERSION

# isort: split
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

LENGTH = "length"
"""Name of the counter of positions [B]."""


class Assigned:
    """Recurrent memory that is replaced, so that gradients reach the state a call began with.

    The methods of transformers copy into tensors that stay, for the sake of CUDA graphs.
    """

    def update_conv_state(
        self: Any,
        conv_states: Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> Tensor:
        """Join the last inputs and new ones, conv_states [B, C, T] -> [B, C, at least size]."""
        size = conv_kernel_size or self.conv_kernel_size[state_idx] or conv_states.shape[-1]
        before = self.conv_states[state_idx]
        if before is None or not self.has_previous_state[state_idx]:
            full = F.pad(conv_states, (max(0, size - conv_states.shape[-1]), 0))  # [B, C, S]
        else:
            full = torch.cat((before, conv_states), -1)  # [B, C, S]
        self.conv_kernel_size[state_idx] = size
        self.conv_states[state_idx] = full[..., -size:]  # [B, C, size]
        self.has_previous_state[state_idx] = self.is_conv_states_initialized[state_idx] = True
        return full

    def update_recurrent_state(self: Any, recurrent_states: Tensor, state_idx: int = 0) -> Tensor:
        """Take the memory after a call, of any shape [B, ...]."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        self.has_previous_state[state_idx] = True
        return recurrent_states


class Recurrent(Assigned, LinearAttentionLayer):
    """Memory of a recurrent layer."""


class Hybrid(Assigned, LinearAttentionAndFullAttentionLayer):
    """Memory of a layer with recurrence and attention."""


class HybridWindow(Assigned, LinearAttentionAndSlidingWindowAttentionLayer):
    """Memory of a layer with recurrence and attention to a window."""


LAYERS = {
    DynamicLayer: DynamicLayer,
    DynamicSlidingWindowLayer: DynamicSlidingWindowLayer,
    LinearAttentionLayer: Recurrent,
    LinearAttentionAndFullAttentionLayer: Hybrid,
    LinearAttentionAndSlidingWindowAttentionLayer: HybridWindow,
    DummyLayer: DummyLayer,
}
"""Kind of memory in transformers -> the kind that is used in its place."""
GROWS, WINDOW, RECURS, CONVOLVES = "grows", "window", "recurs", "convolves"


@dataclass(frozen=True)
class Entry:
    """One tensor of a state, and its place in the cache."""

    name: str
    layer: int
    attribute: str
    index: int
    """Of several memories of one layer."""
    kind: str
    shape: tuple[int, ...]
    """Without the batch; 0 where positions go, W - 1 for a window."""
    dtype: torch.dtype


class Memory:
    """What a model of one configuration remembers: the entries of its state.

    ``window`` is the width W of its sliding windows, 0 without. Raises ``CapabilityError`` for a
    kind of cache that is not known here.
    """

    def __init__(self, config: Any) -> None:
        self._template = DynamicCache(config=config).layers
        unknown = {type(x).__name__ for x in self._template if type(x) not in LAYERS}
        if unknown:
            raise CapabilityError(
                f"A '{config.model_type}' remembers in {', '.join(sorted(unknown))}, which is not"
                " known here.",
                f"transformers {VERSION}",
                "Choose another family; plugins/hf/README.md lists those that work.",
            )
        sliding = [x for x in self._template if isinstance(x, DynamicSlidingWindowLayer)]
        linear = [x for x in self._template if isinstance(x, LinearAttentionLayer)]
        full = [x for x in self._template if isinstance(x, DynamicLayer)]
        self.window = max((x.sliding_window for x in sliding), default=0)
        self.grows = len(full) > len(sliding)
        self.recurs = bool(linear)

    def empty(self) -> Cache:
        """Make the cache before the first position."""
        layers = []
        for layer in self._template:
            cls = LAYERS[type(layer)]
            values: dict[str, int] = {}
            if isinstance(layer, DynamicSlidingWindowLayer):
                values["sliding_window"] = layer.sliding_window
            if isinstance(layer, LinearAttentionLayer):
                values["number_of_states"] = layer.number_of_states
            layers.append(cls(**values))
        return Cache(layers=layers)

    def entries(self, cache: Cache) -> list[Entry]:
        """List what a cache holds after one position, in order."""
        found_entries = []
        for number, layer in enumerate(cache.layers):
            for attribute, name in (("keys", "key"), ("values", "value")):
                tensor = getattr(layer, attribute, None)
                if tensor is None:
                    continue
                window = getattr(layer, "sliding_window", 0)
                kind = WINDOW if window else GROWS
                shape = (tensor.shape[1], max(0, window - 1), tensor.shape[3])
                found_entries.append(
                    Entry(f"blocks.{number}.{name}", number, attribute, 0, kind, shape,
                          tensor.dtype)
                )  # fmt: skip
            for attribute, name, kind in (
                ("conv_states", "convolution", CONVOLVES), ("recurrent_states", "memory", RECURS),
            ):  # fmt: skip
                several = getattr(layer, attribute, {})
                for index, tensor in several.items():
                    if tensor is None:
                        continue
                    title = name if len(several) == 1 else f"{name}_{index}"
                    found_entries.append(
                        Entry(f"blocks.{number}.{title}", number, attribute, index, kind,
                              tuple(tensor.shape[1:]), tensor.dtype)
                    )  # fmt: skip
        return found_entries

    def fill(self, entries: Sequence[Entry], state: State, used: int, step: bool) -> Cache:
        """Fill a cache from a state whose longest row has ``used`` positions.

        Rows end together at the right, shorter ones behind something that attention must not see.
        ``step`` copies what a call of one position changes in place.
        """
        cache, lengths = self.empty(), state[LENGTH]  # [B]
        for entry in entries:
            layer: Any = cache.layers[entry.layer]
            tensor = state[entry.name]
            if entry.kind == GROWS:
                tensor = to_right(tensor, lengths, used)  # [B, G, S, K]
            elif entry.kind == WINDOW:
                tensor = tensor[:, :, max(0, entry.shape[1] - used) :]  # [B, G, up to W - 1, K]
            if entry.kind in (GROWS, WINDOW):
                setattr(layer, entry.attribute, tensor)
                layer.device, layer.dtype = tensor.device, tensor.dtype
                layer.is_initialized = True
                if entry.kind == WINDOW:
                    layer.cumulative_length = used
                continue
            getattr(layer, entry.attribute)[entry.index] = tensor.clone() if step else tensor
            if entry.kind == CONVOLVES:
                layer.conv_kernel_size[entry.index] = tensor.shape[-1]
                layer.is_conv_states_initialized[entry.index] = True
            else:
                layer.is_recurrent_states_initialized[entry.index] = True
            layer.has_previous_state[entry.index] = True
        return cache

    def read(
        self,
        cache: Cache,
        entries: Sequence[Entry],
        begins: Tensor,
        after: Tensor,
    ) -> State:
        """Take the state out of a cache after a call.

        begins [B] is the slot of a growing part at which each row begins, after [B] its length.
        """
        longest = int(after.max())
        state: State = {LENGTH: after}  # [B]
        for entry in entries:
            tensor = getattr(cache.layers[entry.layer], entry.attribute)
            if entry.kind in (CONVOLVES, RECURS):
                tensor = tensor[entry.index]  # [B, ...]
            if entry.kind == GROWS:
                tensor = to_left(tensor, begins, after, longest)  # [B, G, S, K]
            elif entry.kind == WINDOW:
                size = entry.shape[1]
                tensor = tensor[:, :, tensor.shape[2] - min(size, tensor.shape[2]) :]
                tensor = F.pad(tensor, (0, 0, size - tensor.shape[2], 0))  # [B, G, W - 1, K]
                slots = torch.arange(size, device=tensor.device)  # [W - 1]
                alive = slots >= size - after[:, None]  # [B, W - 1]
                tensor = tensor.masked_fill(~alive[:, None, :, None], 0)
            state[entry.name] = released(tensor.to(wide(entry)))
        return state


def wide(entry: Entry) -> torch.dtype:
    """Type of a part of a state: memory that recurs is float32 at least."""
    if entry.kind == RECURS and entry.dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return entry.dtype


def released(tensor: Tensor) -> Tensor:
    """Copy a view of something larger, which it would keep alive."""
    if tensor.is_meta:
        return tensor.contiguous()
    held, size = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    return tensor.clone() if held > 2 * size or not tensor.is_contiguous() else tensor


def to_right(cache: Tensor, lengths: Tensor, used: int) -> Tensor:
    """cache [B, G, S, K], rows from the left -> the same rows, all ending at slot ``used``."""
    cache = cache[:, :, :used]  # [B, G, S, K]
    if not used or bool((lengths == used).all()):
        return cache
    slots = torch.arange(used, device=cache.device) - (used - lengths[:, None])  # [B, S]
    index = slots.clamp(min=0)[:, None, :, None]  # [B, 1, S, 1]
    return cache.gather(2, index.expand(-1, cache.shape[1], -1, cache.shape[3]))  # [B, G, S, K]


def to_left(cache: Tensor, begins: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """cache [B, G, S, K], row b from slot begins[b] -> [B, G, longest, K], zeros behind each."""
    if not bool(begins.any()):
        cache = cache[:, :, :longest]  # [B, G, longest, K]
    else:
        slots = torch.arange(longest, device=cache.device) + begins[:, None]  # [B, longest]
        index = slots.clamp(max=cache.shape[2] - 1)[:, None, :, None]  # [B, 1, longest, 1]
        cache = cache.gather(2, index.expand(-1, cache.shape[1], -1, cache.shape[3]))
    if bool((lengths == longest).all()):
        return cache
    alive = torch.arange(longest, device=cache.device) < lengths[:, None]  # [B, longest]
    return cache.masked_fill(~alive[:, None, :, None], 0)  # [B, G, longest, K]
