"""A language model of text: the same backbone, tables and training, with ids of text for codes.

A text system is a configuration with ``task: text`` and three slots::

    task: text
    tokenizer: {name: characters}
    backbone: {name: rwkv7, width: 192, layers: 6}
    head: {name: linear}       # the table of text, in both directions

Its head reads and predicts ids of text, so it is a ``SpeechLM`` whose only table is the head's, and
``wishbone train`` trains it as it trains any other. A speech system takes its backbone by
``backbone: {weights: FOLDER}``; what a wrapper adds to it leaves the text model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from wishbone.core.compose import Config, compose, weights_folder
from wishbone.core.config import part, structured
from wishbone.core.errors import CapabilityError, ConfigError, did_you_mean
from wishbone.core.interfaces import (
    Backbone,
    CodeSpace,
    Layout,
    Positions,
    Prompt,
    Sample,
    TextSpace,
    Tokenizer,
)
from wishbone.core.model import SpeechLM
from wishbone.core.sampling import Sampler, Sampling
from wishbone.core.session import Draw, LayoutSession

TASK = "text"
"""What ``task`` says in the configuration of a text system."""
SLOTS = ("tokenizer", "backbone", "head")
KEYS = ("task", *SLOTS, "end", "weights", "about")


@dataclass
class _Rest:
    """The keys of a text system that are no slots."""

    end: int = -1
    """Id that stands before and after a text; -1 means one more than the tokenizer has."""


class TextLayout(Layout):
    """END, the ids of a text, and each predicts the next, the last one END."""

    def __init__(self, text: TextSpace, end: int = -1) -> None:
        self.extra = 1 if end < 0 else 0
        self.end = text.vocabulary if end < 0 else end
        self.codes = CodeSpace(size=text.vocabulary, rate=1.0)
        self.tables = {"speech": text.vocabulary + self.extra}
        if self.end >= self.tables["speech"]:
            raise ConfigError(
                f"'end' is {end}, and the tokenizer has {text.vocabulary} ids.",
                "the text system",
                "Name one of its ids, or -1 for one more.",
            )

    def train(self, sample: Sample, random: Random) -> Positions:
        """Positions [T + 1] of a text of T ids."""
        ids = torch.tensor([self.end, *sample.text])[:, None]
        targets = torch.cat([ids[1:], torch.tensor([[self.end]])])
        return Positions(table=torch.zeros(len(ids), dtype=torch.int64), ids=ids, targets=targets)

    def start(self, prompt: Prompt) -> LayoutSession:
        """A text model speaks nothing: raises ``CapabilityError``."""
        raise CapabilityError(
            "A model of text does not speak.", "task: text", "Use 'wishbone text' to continue text."
        )


@dataclass
class TextSystem:
    """A tokenizer and the model that continues its texts."""

    tokenizer: Tokenizer
    layout: TextLayout
    model: SpeechLM
    config: Config

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """texts -> logits [B, T, X] over the next id at END and at every id; 0 behind a text."""
        rows = [[self.layout.end, *self.tokenizer.encode(text)] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        hidden, _ = self.model(torch.zeros_like(ids), ids[..., None], mask=mask)
        return self.model.head(hidden)[..., 0, :].masked_fill(~mask[..., None], 0)

    def continued(
        self, text: str, count: int = 200, sampling: Sampling | None = None, seed: int = 0
    ) -> Iterator[int]:
        """Ids that follow ``text``, up to the end of it or ``count`` of them."""
        sampling = sampling or Sampling(repetition_window=0)
        sampler = Sampler(sampling, self.layout.codes, seed)
        model = self.model
        state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
        feed: list[int] = [self.layout.end, *self.tokenizer.encode(text)]
        # a tokenizer may close what is to go on
        if text.rstrip()[-1:] not in _CLOSING and self.tokenizer.decode(feed[-1:]) in (".", " "):
            feed.pop()
        for _ in range(count):
            hidden, state = model.advance([(Layout.SPEECH, (row,)) for row in feed], state)
            with torch.inference_mode():
                (drawn,) = sampler.draw(Draw(), partial(model.head.sample, hidden))
            if drawn == self.layout.end:
                return
            yield drawn
            feed = [drawn]


_CLOSING = tuple(".?!,;:")


def is_text(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a text system."""
    return config.get("task") == TASK


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A text system's configuration, resolved. Raises ``ConfigError`` for one that speaks."""
    config = compose(name_or_path, overrides)
    if not is_text(config):
        raise ConfigError(
            "This is not a text system.", str(name_or_path), "Name one that says 'task: text'."
        )
    return resolve(config)


def resolve(config: Config) -> Config:
    """``config`` with its slots checked and filled, as ``wishbone.core.config.resolve`` does."""
    from wishbone.core.wrapping import resolved

    for key in config:
        if key not in KEYS:
            raise ConfigError(
                f"'{key}' is not a key of a text system.",
                config.place(key),
                f"{did_you_mean(key, KEYS)} Keys: {', '.join(KEYS)}.".strip(),
            )
    values: dict[str, Any] = {"task": TASK}
    for slot in SLOTS:
        _, fields = part(config, slot)
        own = {key: config[slot][key] for key in ("name", "weights") if key in config[slot]}
        values[slot] = {**own, **resolved(fields, config, slot)}
    rest = {"end": config["end"]} if "end" in config else {}
    values["end"] = structured(_Rest, rest, "text", config).end
    values |= {key: config[key] for key in ("weights", "about") if config.get(key) is not None}
    return Config(values, config.path, config.places)


def build_layout(config: Mapping[str, Any]) -> tuple[Tokenizer, TextLayout, CodeSpace]:
    """As ``wishbone.core.config.build_layout``: what turns texts into positions."""
    cls, fields = part(config, "tokenizer")
    tokenizer = cls(fields)
    layout = TextLayout(tokenizer.space, int(config.get("end", -1)))
    return tokenizer, layout, layout.codes


def build_model(
    config: Mapping[str, Any], device: str = "cpu", backbone: Backbone | None = None
) -> SpeechLM:
    """The model with its weights; around ``backbone`` where one is given, which is left as it is.

    Then only the head is built and read.
    """
    from wishbone.core.weights import load_part, load_tensors, part_tensors
    from wishbone.core.wrapping import begin

    _, layout, codes = build_layout(config)
    given = backbone is not None
    with torch.device(device):
        if backbone is None:
            cls, fields = part(config, "backbone")
            backbone = cls(fields)
        cls, fields = part(config, "head")
        head = cls(fields, width=backbone.width, codes=codes, extra=layout.extra)
        model = SpeechLM(backbone, head, layout)
    if str(device) == "meta":
        return model
    folder = config.get("weights")
    if given:
        if folder:
            tensors, path = part_tensors(weights_folder(folder), "head")
            load_tensors(head, tensors, str(path))
        return model
    if folder:
        load_part(model, weights_folder(folder))
    elif not config["backbone"].get("weights"):
        begin(model)
    for slot in ("backbone", "head"):
        if config[slot].get("weights"):
            load_part(getattr(model, slot), weights_folder(config[slot]["weights"]), slot)
    return model


def build(
    config: Mapping[str, Any], device: str = "cpu", backbone: Backbone | None = None
) -> TextSystem:
    """A text system on one device, ready to continue texts; ``backbone`` as in ``build_model``."""
    config = resolve(config if isinstance(config, Config) else Config(config))
    tokenizer, layout, _ = build_layout(config)
    model = build_model(config, device, backbone).to(device).eval().requires_grad_(False)
    return TextSystem(tokenizer, layout, model, config)
