"""A language model of text: the same backbone, tables and training, with ids of text for codes.

Its configuration is in ``wishbone.core.system.spec``. Its head reads and predicts ids of text, so
it is a ``SpeechLM`` whose only table is the head's, and ``wishbone train`` trains it as it trains
any other. A speech system takes its backbone by ``backbone: {weights: FOLDER}``; a wrapper's own
tensors leave the text model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.config.compose import Config, compose, weights_folder
from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.layout import Layout
from wishbone.core.contract.session import Draw
from wishbone.core.contract.text import Tokenizer
from wishbone.core.model.sampling import Sampler, Sampling
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.build import build_layout, build_model, require_task
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import TEXT, SystemSpec, parse
from wishbone.core.system.text_layout import TextLayout
from wishbone.core.weights.folders import part_tensors


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
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])  # [B, T]
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])  # [B, T]
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        hidden, _ = self.model(torch.zeros_like(ids), ids[..., None], mask=mask)  # [B, T, D]
        logits = self.model.head(hidden)[..., 0, :]  # [B, T, X]
        return logits.masked_fill(~mask[..., None], 0)  # [B, T, X]

    def continued(
        self, text: str, count: int = 200, sampling: Sampling | None = None, seed: int = 0
    ) -> Iterator[int]:
        """Draw the ids that follow ``text``, up to its end or ``count`` of them."""
        sampling = sampling or Sampling(repetition_window=0)
        sampler = Sampler(sampling, self.layout.codes, seed)
        model = self.model
        state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
        feed: list[int] = [self.layout.end, *self.tokenizer.encode(text)]
        # a tokenizer may close a sentence that is to go on
        if text.rstrip()[-1:] not in _CLOSING and self.tokenizer.decode(feed[-1:]) in (".", " "):
            feed.pop()
        for _ in range(count):
            hidden, state = model.advance([(Layout.SPEECH, (row,)) for row in feed], state)  # [D]
            with torch.inference_mode():
                (drawn,) = model.head.sample(hidden, partial(sampler.pick, Draw()))
            if drawn == self.layout.end:
                return
            yield drawn
            feed = [drawn]


_CLOSING = tuple(".?!,;:")


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and resolve a text system's configuration; ``ConfigError`` for one that speaks."""
    return _parse(compose(name_or_path, overrides)).config


def build(
    config: Mapping[str, Any] | SystemSpec, device: str = "cpu", backbone: Backbone | None = None
) -> TextSystem:
    """Build a text system on one device, ready to continue texts.

    With ``backbone`` the model is built around that one, which is not changed: only the head is
    built and read.
    """
    spec = _parse(config)
    tokenizer, layout, _ = build_layout(spec)
    assert isinstance(layout, TextLayout)  # the only layout of this task
    if backbone is None:
        model = build_model(spec, device)
    else:
        model = _model_around(backbone, layout, spec, device)
    model = model.to(device).eval().requires_grad_(False)
    return TextSystem(tokenizer, layout, model, spec.config)


def _parse(config: Mapping[str, Any] | SystemSpec) -> SystemSpec:
    spec = parse(config)
    require_task(spec, TEXT)
    return spec


def _model_around(
    backbone: Backbone, layout: TextLayout, spec: SystemSpec, device: str
) -> SpeechLM:
    """The language model on a backbone that exists already."""
    facts = {"width": backbone.width, "codes": layout.codes, "extra": layout.extra}
    with torch.device(device):
        head = spec.slots["head"].build(facts)
        model = SpeechLM(backbone, head, layout)
    if spec.weights and str(device) != "meta":
        tensors, path = part_tensors(weights_folder(spec.weights), "head")
        load_tensors(head, tensors, str(path))
    return model
