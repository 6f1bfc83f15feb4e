"""Streams of the codecs of transformers: in pieces what one call gives.

transformers decodes codes in one call. Four ways make the same samples earlier, or as late as
must be: ``MimiStream`` and ``LayerStream`` keep what the next samples depend on, ``WindowStream``
decodes the frames around the new ones again, ``CompleteStream`` waits for the last code.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache

from wishbone.core.contract.codec import DecoderStream
from wishbone.plugins.hf.codec_families import CodecFamily

NEVER = 1 << 30
"""Code frames: the look-ahead of a decoder that waits for the end."""


class StreamedDecoder(Protocol):
    """Facts of the decoder that a stream needs."""

    model: Any
    family: CodecFamily
    hop: int
    context: int
    lookahead: int


class _Stream(DecoderStream):
    """Shared by all: the decoder and its device."""

    def __init__(self, decoder: StreamedDecoder) -> None:
        self.decoder = decoder

    def _nothing(self) -> Tensor:
        return torch.zeros(0, device=next(self.decoder.model.parameters()).device)

    def finish(self) -> Tensor:
        """Return the samples that are held back, by default none."""
        return self._nothing()


class MimiStream(_Stream):
    """A causal decoder: all samples of a frame at once.

    It keeps the cache of the transformer in the decoder, and as many of the frames before as its
    convolutions see; transformers itself caches the convolutions of the encoder alone.
    """

    def __init__(self, decoder: StreamedDecoder) -> None:
        super().__init__(decoder)
        self._latent: Tensor | None = None  # [1, C, 1]
        self._before: Tensor | None = None  # [1, C, N]
        self._cache = DynamicCache(config=decoder.model.decoder.config)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples [T hop]."""
        decoder, half = self.decoder, self.decoder.model.decoder
        if not len(codes):
            return self._nothing()
        latents = decoder.model.quantizer.decode(codes.T[None])  # [1, C, T]
        stride = 1
        hidden = latents  # [1, C, T]
        if half.upsample is not None:
            stride = half.upsample.conv.stride[0]
            with_past = latents if self._latent is None else torch.cat((self._latent, latents), 2)
            hidden = half.upsample(with_past)[..., -stride * len(codes) :]  # [1, C, T stride]
            self._latent = latents[..., -1:]
        y = half.decoder_transformer(
            hidden.transpose(1, 2), cache=self._cache, use_cache=True
        ).last_hidden_state.transpose(1, 2)  # [1, C, T stride]
        y = y if self._before is None else torch.cat((self._before, y), 2)
        self._before = y[..., -decoder.context :]
        return half.decoder_seanet(y)[0, 0, -decoder.hop * len(codes) :].clamp(-1, 1)  # [T hop]


class LayerStream(_Stream):
    """encodec's decoder, layer by layer: convolutions keep their last inputs, the LSTM its state.

    At the beginning a convolution reads its first inputs in a mirror, so nothing is known before
    ``lookahead`` further frames are there; after that a frame waits for nothing.
    """

    def __init__(self, decoder: StreamedDecoder) -> None:
        super().__init__(decoder)
        self._waiting: Tensor | None = None  # [N, Q]
        self._kept: dict[int, Any] = {}
        """Number of a layer -> its last inputs [1, C, N], or the state of the LSTM."""
        self._begun = False

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples of all frames so far, or none at the very beginning."""
        if self._waiting is not None:
            codes = torch.cat((self._waiting, codes))  # [N + T, Q]
        if not len(codes) or not self._begun and len(codes) <= self.decoder.lookahead:
            self._waiting = codes
            return self._nothing()
        self._waiting = None
        x = self.decoder.model.quantizer.decode(codes.T[:, None])  # [1, C, T]
        for number, layer in enumerate(self.decoder.model.decoder.layers):
            x = self._layer(layer, x, 100 * number)
        self._begun = True
        return x[0, 0].clamp(-1, 1)  # [T hop]

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Decode an utterance that ended before it began to stream."""
        if self._waiting is None or not len(self._waiting) or self._begun:
            return self._nothing()
        return self.decoder.family.decode(self.decoder.model, self._waiting).clamp(-1, 1)

    def _layer(self, layer: nn.Module, x: Tensor, key: int) -> Tensor:
        """x [1, C, T] -> y [1, C', T'] of one layer, and remember what the next call needs."""
        if hasattr(layer, "lstm"):
            steps = x.permute(2, 0, 1)  # [T, 1, C]
            y, self._kept[key] = layer.lstm(steps, self._kept.get(key))  # pyright: ignore
            return (y + steps).permute(1, 2, 0)  # [1, C, T]
        if hasattr(layer, "block"):
            y = x
            for number, inner in enumerate(layer.block, start=1):  # pyright: ignore
                y = self._layer(inner, y, key + number)
            return self._layer(layer.shortcut, x, key) + y  # pyright: ignore
        if isinstance(getattr(layer, "conv", None), nn.ConvTranspose1d):
            return self._widen(layer, x, key)
        if isinstance(getattr(layer, "conv", None), nn.Conv1d):
            return self._convolve(layer, x, key)
        return layer(x)

    def _convolve(self, layer: Any, x: Tensor, key: int) -> Tensor:
        """Convolve [1, C, T] behind the last inputs, which are a mirror at the beginning."""
        size = mirrored(layer)
        if key in self._kept:
            x = torch.cat((self._kept[key], x), 2)  # [1, C, N + T]
        else:
            x = layer._pad1d(x, (size, 0), mode=layer.pad_mode)  # [1, C, N + T]
        self._kept[key] = x[..., x.shape[2] - size :]
        return layer.conv(x)

    def _widen(self, layer: Any, x: Tensor, key: int) -> Tensor:
        """Upsample [1, C, T] -> [1, C', T stride]; what hangs over at the right is not final."""
        stride, before = layer.conv.stride[0], 0
        if key in self._kept:
            before = self._kept[key].shape[2]
            x = torch.cat((self._kept[key], x), 2)
        reach = math.ceil(layer.conv.kernel_size[0] / stride) - 1
        self._kept[key] = x[..., max(0, x.shape[2] - reach) :]
        return layer.conv(x)[..., before * stride : x.shape[2] * stride]


class WindowStream(_Stream):
    """A decoder that sees both sides: new frames are decoded between those around them."""

    def __init__(self, decoder: StreamedDecoder) -> None:
        super().__init__(decoder)
        self._codes: Tensor | None = None  # [N, Q]
        self._done = 0
        """Frames of ``_codes`` whose samples were given."""

    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples of the frames that have seen as many behind them."""
        self._codes = codes if self._codes is None else torch.cat((self._codes, codes))
        return self._until(len(self._codes) - self.decoder.lookahead)

    def finish(self) -> Tensor:
        """Samples of all that is left."""
        return self._nothing() if self._codes is None else self._until(len(self._codes))

    @torch.no_grad()
    def _until(self, end: int) -> Tensor:
        """Samples of the frames from the first that is not done up to ``end``."""
        assert self._codes is not None
        decoder = self.decoder
        if end <= self._done:
            return self._nothing()
        first = max(0, self._done - decoder.context)
        window = self._codes[first:]  # [N, Q]
        audio = decoder.family.decode(decoder.model, window)  # [S]
        # transposed convolutions of an odd stride make a few samples less at the very end
        audio = F.pad(audio, (0, max(0, len(window) * decoder.hop - len(audio))))
        samples = audio[(self._done - first) * decoder.hop : (end - first) * decoder.hop]
        dropped = max(0, end - decoder.context)
        self._codes, self._done = self._codes[dropped:], end - dropped
        return samples.clamp(-1, 1)  # [S]


class CompleteStream(_Stream):
    """A decoder whose every sample depends on every code."""

    def __init__(self, decoder: StreamedDecoder) -> None:
        super().__init__(decoder)
        self._codes: list[Tensor] = []

    def push(self, codes: Tensor) -> Tensor:
        """Keep codes [T, Q]."""
        self._codes.append(codes)
        return self._nothing()

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Samples of the utterance."""
        codes = torch.cat(self._codes) if self._codes else self._nothing()
        if not len(codes):
            return self._nothing()
        return self.decoder.family.decode(self.decoder.model, codes).clamp(-1, 1)


def frames_before(layers: nn.Module) -> int:
    """Bound how many frames of input a frame of output depends on, to each side.

    Every convolution of kernel K and dilation d sees (K - 1) d steps of its own rate; sums over
    all of them, which counts those of branches twice.
    """
    rate, total = 1.0, 0.0
    for module in layers.modules():
        if isinstance(module, nn.ConvTranspose1d):
            total += (module.kernel_size[0] - 1) / (rate * module.stride[0])
            rate *= module.stride[0]
        elif isinstance(module, nn.Conv1d):
            total += (module.kernel_size[0] - 1) * module.dilation[0] / rate
    return math.ceil(total)


def frames_mirrored(layers: nn.Module) -> int:
    """Count the frames behind the first that a decoder's mirrored convolutions read to begin.

    One that reads P inputs in a mirror needs P + 1 of them, at the rate that it has.
    """
    rate, most = 1, 0
    for module in layers.modules():
        if isinstance(module, nn.ConvTranspose1d):
            rate *= module.stride[0]
        elif getattr(module, "pad_mode", "") == "reflect":
            most = max(most, math.ceil((mirrored(module) + 1) / rate) - 1)
    return most


def mirrored(layer: Any) -> int:
    """Count the inputs that a convolution of encodec reads in front of its first one."""
    # from the kernel, because on the device "meta" its own number cannot be read
    reach = (layer.conv.kernel_size[0] - 1) * layer.conv.dilation[0]
    return reach + 1 - layer.conv.stride[0]
