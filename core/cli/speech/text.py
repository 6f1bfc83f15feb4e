"""``wishbone text``: a text goes on, by a model of text or the one inside a speech system."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wishbone.core.cli.arguments import REQUIRED, EngineOptions, argument, option, parse
from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import CapabilityError, GateFailed
from wishbone.core.contract.part import Count, NonNegative, Seed

if TYPE_CHECKING:
    from torch import nn

    from wishbone.core.contract.backbone import Backbone
    from wishbone.core.system.system import System
    from wishbone.core.system.text_system import TextSystem

DRAWING = "how it draws"
EXAMPLES = """examples:
  wishbone text "Once upon a time" --system runs/text-rwkv7/export
  wishbone text "Once upon a time" --system runs/text-rwkv7/export --inside runs/pissa/export
  wishbone text "Once upon a time" --system runs/text-rwkv7/export --inside runs/pissa/export \\
      --check --speak said.wav

--inside takes the backbone out of a speech system, without what was added to it for speech: one
copy of the weights then serves both. --check compares every logit with those of --system alone."""


@dataclass(frozen=True, kw_only=True)
class TextOptions(EngineOptions):
    """Continue a text, by a language model of text or by the one inside a speech system."""

    text: str = argument(help="how the text begins")
    system: str = option(
        REQUIRED, metavar="NAME",
        help="the text system: a bundled one's name, a YAML file, or a training's export folder",
    )  # fmt: skip
    set: list[str] = option(
        [], metavar="key=value", repeat=True,
        help="a change to the system's configuration; may be given several times",
    )  # fmt: skip
    inside: str | None = option(
        None, metavar="SYSTEM",
        help="take the backbone out of this speech system, so that one copy of it serves both",
    )  # fmt: skip
    check: bool = option(
        False, help="with --inside: compare every logit with those of --system alone"
    )
    speak: str | None = option(
        None, metavar="FILE", help="with --inside: let the speech system say the text, into a file"
    )
    count: Count = option(120, metavar="N", group=DRAWING, help="tokens to add, at most")
    seed: Seed = option(
        0, metavar="N", group=DRAWING, help="start of the random numbers: same seed, same text"
    )
    temperature: NonNegative = option(
        0.7, metavar="T", group=DRAWING,
        help="how adventurous: 0 always takes the likeliest token, 1 the model's own odds",
    )  # fmt: skip
    top_p: NonNegative = option(
        0.95, metavar="P", group=DRAWING,
        help="draw among the likeliest tokens that together have this probability; 1 is off",
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the command; raises ``GateFailed`` where ``--check`` finds a logit that differs."""
    options = parse(TextOptions, argv, "wishbone text", EXAMPLES)
    import torch

    from wishbone.core.model.sampling import Sampling
    from wishbone.core.speak.speaker import build
    from wishbone.core.system import text_system
    from wishbone.core.system.spec import read

    choice = parse_engine(options.engine)
    config = text_system.read(options.system, options.set)
    speech = build(read(options.inside)) if options.inside else None
    shared = speech.model.backbone.plain() if speech else None
    system = text_system.build(config, backbone=shared)
    if shared is None or options.engine != "auto":
        # an engine packs the weights again, and --inside is there to have them once
        system.model.accelerate(*choice)
    sampling = Sampling(
        temperature=options.temperature, top_k=0, top_p=options.top_p, repetition_window=0
    )
    torch.manual_seed(options.seed)
    ids = list(system.continued(options.text, options.count, sampling, options.seed))
    # a tokenizer of letters writes no space behind a mark
    more = re.sub(r"([,.?!])(?=\w)", r"\1 ", system.tokenizer.decode(ids))
    whole_text = f"{options.text.rstrip()}{more}"
    print(whole_text)
    if speech:
        report_memory(speech, system)
    if options.check:
        alone = text_system.build(config)
        compare_logits(alone, system, [options.text, whole_text])
    if speech and options.speak:
        from wishbone.core.speak import text_to_speech

        text_to_speech.say(speech, whole_text, seed=options.seed).save(
            options.speak, overwrite=False
        )
        print(f"wrote {options.speak}", file=sys.stderr)
    return 0


def compare_logits(alone: TextSystem, within: TextSystem, texts: Sequence[str]) -> int:
    """Compare every logit of two text systems over ``texts`` -> how many there are.

    Prints a digest of the bits of both. Raises ``GateFailed`` unless all are the same.
    """
    before, after = alone.logits(texts), within.logits(texts)
    if before.shape != after.shape:
        raise CapabilityError(
            "The two text systems have logits of different shapes.", "--check", "Name one system."
        )
    for name, logits in (("alone", before), ("inside", after)):
        digest = hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest()[:16]
        print(f"{name:<8}{logits.numel()} logits, SHA-256 {digest}")
    wrong = int((before != after).sum())
    worst = float((before - after).abs().max())
    if wrong:
        raise GateFailed(
            f"{wrong} of {before.numel()} logits differ, by up to {worst:.3g}.",
            "wishbone text --check",
            "The speech system has changed the weights of the text model.",
        )
    print(f"all {before.numel()} logits are the same to the last bit")
    return before.numel()


def report_memory(speech: System, text: TextSystem) -> dict[str, int]:
    """Bytes of the language models' tensors: both on one backbone, and each on its own."""
    shared = tensor_bytes([speech.model, text.model])
    # a speech model of its own has its difference multiplied in, a text model its own base
    plain = _plain_bytes(speech.model.backbone)
    apart = tensor_bytes([speech.model]) - tensor_bytes([speech.model.backbone]) + plain
    apart += tensor_bytes([text.model.head]) + plain
    sizes = {"shared": shared, "apart": apart}
    print(
        f"tensors of both language models: {shared:,} B on one backbone, {apart:,} B as two models",
        file=sys.stderr,
    )
    return sizes


def _plain_bytes(backbone: Backbone) -> int:
    """Bytes of a backbone without what a wrapper added."""
    from wishbone.core.model.wrapper import Wrapper

    while isinstance(backbone, Wrapper):
        added = set(backbone.own_names())
        state = backbone.state_dict()
        plain = [t for n, t in state.items() if n not in added]
        if not isinstance(backbone.base, Wrapper):
            return sum(t.numel() * t.element_size() for t in plain)
        backbone = backbone.base
    return tensor_bytes([backbone])


def tensor_bytes(modules: Sequence[nn.Module]) -> int:
    """Bytes of the memory behind all parameters and buffers, what is shared counted once."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(memory.values())
