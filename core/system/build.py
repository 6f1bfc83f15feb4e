"""From a parsed configuration to parts: construction, facts between slots, weights.

``build_system`` is the whole of it. ``build_model``, ``build_codec`` and ``build_layout`` make the
part of a system that training and data need. Every system is constructed twice: first
``without_memory``, to check that the parts fit, and then on the device to run on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wishbone.core.config.compose import weights_folder
from wishbone.core.config.schema import SlotSpec, parse_slot
from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.layout import Layout
from wishbone.core.contract.text import Tokenizer
from wishbone.core.model.device import find_device
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.compatibility import Parts, check_fit
from wishbone.core.system.loading import load_bases, load_part
from wishbone.core.system.spec import SPEECH, TEXT, SystemSpec, Task, parse, require
from wishbone.core.system.system import Codec, System
from wishbone.core.system.text_layout import TextLayout
from wishbone.core.system.vocabulary_growth import grow


def build_system(config: Mapping[str, Any] | SystemSpec, device: str = "cpu") -> System:
    """Construct a system, check that its parts fit, then read weights.

    On ``device="meta"`` shapes are checked and nothing is read. Raises ``ConfigError`` when parts
    do not fit, ``CheckpointError`` when weights do not.
    """
    find_device(device)  # before anything is read
    spec = parse(config)
    require_task(spec, SPEECH)
    if spec.sampling.guidance != 1:
        require(spec, "sampling.guidance", "varlen")
    parts = _checked_parts(spec)
    reads_weights = str(device) != "meta"
    if reads_weights:
        with torch.device(device):
            parts = _construct(spec, parts.tokenizer)
    with torch.device(device):
        model = SpeechLM(parts.backbone, parts.head, parts.layout)
    notes: list[str] = []
    if reads_weights:
        notes += _load_slot(parts.speech_tokenizer, spec.slots["speech_tokenizer"])
        notes += _load_slot(parts.decoder, spec.slots["decoder"])
        notes += _load_model(model, spec)
    for module in (parts.speech_tokenizer, model, parts.decoder):
        module.to(device).eval().requires_grad_(False)
    return System(
        parts.tokenizer,
        parts.speech_tokenizer,
        parts.layout,
        model,
        parts.decoder,
        spec.sampling,
        spec.config,
        notes,
    )


def build_model(config: Mapping[str, Any] | SystemSpec, device: str = "cpu") -> SpeechLM:
    """Build the language model alone, ready to train: no codec is allocated or read.

    Starts from ``weights:`` where the configuration has them.
    """
    spec = parse(config)
    if spec.task is SPEECH:
        parts = _checked_parts(spec)
        layout, codes = parts.layout, parts.decoder.codes
    else:
        _, layout, codes = build_layout(spec)
    with without_memory(device) if str(device) == "meta" else torch.device(device):
        backbone = spec.slots["backbone"].build()
        facts = {"width": backbone.width, "codes": codes, "extra": layout.extra}
        model = SpeechLM(backbone, spec.slots["head"].build(facts), layout)
    if str(device) != "meta":
        _load_model(model, spec)
    return model


def build_codec(config: Mapping[str, Any], device: str = "cpu") -> Codec:
    """Build speech tokenizer and decoder with their weights; the other slots may be empty.

    Raises ``ConfigError`` when one of the two is missing, ``CheckpointError`` when weights do not
    fit.
    """
    slots = {slot: parse_slot(config, slot) for slot in Codec._fields}
    with torch.device(device):
        codec = Codec(**{slot: spec.build() for slot, spec in slots.items()})
    for slot, module in codec._asdict().items():
        _load_slot(module, slots[slot])
        module.to(device).eval().requires_grad_(False)
    return codec


def build_layout(
    config: Mapping[str, Any] | SystemSpec,
) -> tuple[Tokenizer, Layout, CodeSpace]:
    """Build the parts that turn a corpus into positions: tokenizer, layout, codes; no weights."""
    spec = parse(config)
    tokenizer: Tokenizer = spec.slots["tokenizer"].build()
    if spec.task is TEXT:
        text_layout = TextLayout(tokenizer.space, spec.end)
        return tokenizer, text_layout, text_layout.codes
    with without_memory("cpu"):
        codes = spec.slots["decoder"].build().codes
    layout = spec.slots["layout"].build({"text": tokenizer.space, "codes": codes})
    return tokenizer, layout, codes


def require_task(spec: SystemSpec, task: Task) -> None:
    """Raise ``ConfigError`` for a system of the other kind."""
    if spec.task is task:
        return
    what, do = {
        SPEECH: (
            "This is a system of text, which does not speak.",
            "Continue a text with 'wishbone text', or name a system that speaks.",
        ),
        TEXT: ("This is not a text system.", "Name one that says 'task: text'."),
    }[task]
    raise ConfigError(what, spec.config.place("task"), do)


def _checked_parts(spec: SystemSpec) -> Parts:
    """The six parts without memory. Raises ``ConfigError`` where two do not fit."""
    text: Tokenizer = spec.slots["tokenizer"].build()
    # the large one without allocating it; the others compute, which "meta" is slow at
    with without_memory("meta"):
        backbone = spec.slots["backbone"].build()
    with without_memory("cpu"):
        parts = _construct(spec, text, backbone)
    check_fit(parts, spec.config)
    return parts


def _construct(spec: SystemSpec, text: Tokenizer, backbone: Backbone | None = None) -> Parts:
    """All six parts without weights. A tokenizer is on no device, so one that exists is reused."""
    slots = spec.slots
    speech_tokenizer = slots["speech_tokenizer"].build()
    decoder = slots["decoder"].build()
    bones: Backbone = backbone or slots["backbone"].build()
    layout = slots["layout"].build({"text": text.space, "codes": decoder.codes})
    facts = {"width": bones.width, "codes": decoder.codes, "extra": layout.extra}
    head = slots["head"].build(facts)
    return Parts(text, speech_tokenizer, layout, bones, head, decoder)


def _load_slot(module: nn.Module, slot: SlotSpec) -> list[str]:
    """Read the weights that a slot names, if it names any -> notes for people."""
    note = load_part(module, weights_folder(slot.weights), slot.key) if slot.weights else ""
    return [note] if note else []


def _load_model(model: SpeechLM, spec: SystemSpec) -> list[str]:
    """Read the whole model's weights first, then those of a part that has its own -> notes."""
    backbone, head = spec.slots["backbone"], spec.slots["head"]
    note = ""
    if spec.weights:
        folder = weights_folder(spec.weights)
        note = load_part(model, folder, grow=partial(grow, spec.config, folder))
    elif not backbone.weights:
        load_bases(model)
    for slot in (backbone, head):
        _load_slot(getattr(model, slot.key), slot)
    # the note is about the backbone, which its own weights replaced
    return [note] if note and not backbone.weights else []


@contextmanager
def without_memory(device: str) -> Iterator[None]:
    """Build modules on ``device`` for their shapes alone while the block runs.

    Their numbers mean nothing, and no random number of PyTorch's is used up. The device "meta" is
    made for this, but computing anything there, such as a random value or a table of sines, imports
    PyTorch's compiler, which is most of a command's start. Without first values there is less to
    compute, and on the CPU memory that was never written to takes no place either.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device), _Unfilled():
        yield


FILLS = frozenset(
    getattr(nn.init, name)
    for name in (
        "normal_", "uniform_", "trunc_normal_", "constant_", "ones_", "zeros_", "orthogonal_",
        "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "kaiming_uniform_",
    )
) | {Tensor.normal_, Tensor.uniform_}  # fmt: skip
"""What a module begins with, and no shape depends on."""


class _Unfilled(TorchFunctionMode):
    """Leaves every tensor as it was allocated, where it would be filled with first values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer a call to ``func``, as PyTorch asks a mode to."""
        if func in FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
