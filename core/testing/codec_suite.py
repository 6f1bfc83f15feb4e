"""Suites of decoders and of speech tokenizers, on random weights.

Sizes are small and nothing here depends on how the audio sounds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.codec import Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.testing.common import Check, near, require, seeded

FRAMES = 23
TOLERANCE = 1e-4
"""Largest difference of samples in -1..1, float32, computed in pieces of another length."""


def _build(cls: Any, config: Any) -> Any:
    with seeded(0):
        return cls(config).eval()


def _codes(decoder: Decoder, frames: int = FRAMES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, decoder.codes.codebooks)
    return torch.randint(0, decoder.codes.size, shape, generator=generator)  # [T, Q]


def _speak(stream: DecoderStream, codes: Tensor, pieces: list[int]) -> Tensor:
    parts = [stream.push(piece) for piece in codes.split(pieces)]  # [S of each piece]
    return torch.cat([*parts, stream.finish()])  # [S]


@torch.no_grad()
def pieces(cls: Any, config: Any, module: str | None) -> str:
    """Codes pushed in pieces of any size give the samples they give when pushed at once."""
    decoder = _build(cls, config)
    codes = _codes(decoder)  # [T, Q]
    expected = _speak(decoder.start(seed=1), codes, [FRAMES])  # [S]
    worst = 0.0
    for sizes in ([1] * FRAMES, [2, 9, 1, 11], [0, 20, 0, 3]):
        samples = _speak(decoder.start(seed=1), codes, sizes)  # [S]
        worst = max(worst, near(samples, expected, TOLERANCE, f"pieces of {sizes[:4]} frames"))
    return f"largest difference {worst:.1e}"


@torch.no_grad()
def counts(cls: Any, config: Any, module: str | None) -> str:
    """T frames make T / rate seconds, and samples come no later than ``lookahead`` allows."""
    decoder = _build(cls, config)
    hop = decoder.sample_rate / decoder.codes.rate
    require(hop == int(hop), f"a code frame lasts {hop} samples, not a whole number")
    for frames in (1, 2, FRAMES):
        codes = _codes(decoder, frames)  # [T, Q]
        stream, count = decoder.start(seed=1), 0
        for t in range(frames):
            part = stream.push(codes[t : t + 1])  # [S]
            require(part.ndim == 1, f"push returns {part.ndim} dimensions, not 1")
            count += len(part)
            final = max(0, t + 1 - decoder.lookahead) * hop
            require(count >= final, f"{count} samples after {t + 1} frames, {final:.0f} are final")
        count += len(stream.finish())
        require(count == frames * hop, f"{frames} frames made {count} samples, not {frames * hop}")
    return f"{hop:.0f} samples a frame, {decoder.lookahead} frames ahead"


@torch.no_grad()
def streams(cls: Any, config: Any, module: str | None) -> str:
    """Two streams of one decoder, taken in turns, do not disturb each other."""
    decoder = _build(cls, config)
    a, b = _codes(decoder), _codes(decoder, seed=1)
    alone = [_speak(decoder.start(seed=s), c, [5] * 4 + [3]) for s, c in ((1, a), (2, b))]
    first, second, parts = decoder.start(seed=1), decoder.start(seed=2), ([], [])
    for piece_a, piece_b in zip(a.split(5), b.split(5), strict=True):
        parts[0].append(first.push(piece_a))
        parts[1].append(second.push(piece_b))
    parts[0].append(first.finish())
    parts[1].append(second.finish())
    for samples, expected in zip(parts, alone, strict=True):
        near(torch.cat(samples), expected, 0.0, "a stream beside another one")
    return "bit-equal"


@torch.no_grad()
def seeds(cls: Any, config: Any, module: str | None) -> str:
    """The same seed gives the same samples, whatever else drew random numbers before."""
    decoder = _build(cls, config)
    codes = _codes(decoder)  # [T, Q]
    first = _speak(decoder.start(seed=3), codes, [FRAMES])  # [S]
    with seeded(9):
        torch.rand(5)
        before = torch.get_rng_state()
        second = _speak(decoder.start(seed=3), codes, [FRAMES])  # [S]
        untouched = bool((torch.get_rng_state() == before).all())
    near(second, first, 0.0, "the same seed twice")
    require(untouched, "the global random generator was used")
    other = _speak(decoder.start(seed=3), _codes(decoder, seed=1), [FRAMES])  # [S]
    require(not torch.equal(first, other), "the samples do not depend on the codes")
    return "bit-equal"


@torch.no_grad()
def audible(cls: Any, config: Any, module: str | None) -> str:
    """Every code makes finite samples in -1..1."""
    decoder = _build(cls, config)
    samples = _speak(decoder.start(seed=0), _codes(decoder, 60), [60])  # [S]
    require(samples.is_floating_point(), f"samples are {samples.dtype}")
    require(bool(samples.isfinite().all()), "a sample is not finite")
    loudest = samples.abs().max().item()
    require(loudest <= 1.0, f"the loudest sample is {loudest:.2f}")
    return f"loudest {loudest:.2f}"


@torch.no_grad()
def prompt_tensors(cls: Any, config: Any, module: str | None) -> str:
    """``hear`` gives the same tensors every time; a stream that starts with them makes samples."""
    decoder = _build(cls, config)
    samples = round(FRAMES * decoder.sample_rate / decoder.codes.rate)
    audio = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))  # [S]
    codes, before = _codes(decoder), (audio.clone(), _codes(decoder))
    prompt, again = decoder.hear(audio, codes), decoder.hear(audio, codes)
    unchanged = torch.equal(audio, before[0]) and torch.equal(codes, before[1])
    require(unchanged, "hear changes its input")
    require(prompt.keys() == again.keys(), "the same recording gives other tensors")
    for name, tensor in prompt.items():
        require(isinstance(tensor, Tensor), f"'{name}' is no tensor")
        near(again[name], tensor, 0.0, f"'{name}' of the same recording")
    stream, parts, at = decoder.start(seed=1, prompt=prompt), [], 0
    while at < FRAMES:
        count = stream.wants() if stream.wants else 0
        require(count >= 0, f"wants() gives {count} code frames")
        parts.append(stream.push(codes[at : at + (count or 1)]))
        at += count or 1
    speech = torch.cat([*parts, stream.finish()])  # [S]
    require(bool(speech.isfinite().all()), "a sample after a prompt is not finite")
    return ", ".join(prompt) or "nothing"


@torch.no_grad()
def code_range(cls: Any, config: Any, module: str | None) -> str:
    """Audio of any length gives [T, Q] codes in range, one frame per 1 / rate seconds."""
    tokenizer: SpeechTokenizer = _build(cls, config)
    space, generator = tokenizer.codes, torch.Generator().manual_seed(0)
    for seconds in (0.3, 1.0, 1.37):
        samples = int(seconds * tokenizer.sample_rate)
        codes = tokenizer.encode(0.1 * torch.randn(samples, generator=generator))  # [T, Q]
        require(codes.dtype == torch.int64, f"codes are {codes.dtype}, not int64")
        frames = seconds * space.rate
        fits = codes.ndim == 2 and codes.shape[1] == space.codebooks
        require(fits, f"codes are {[*codes.shape]}, expected [T, {space.codebooks}]")
        require(
            abs(len(codes) - frames) <= 1, f"{seconds} s gave {len(codes)} frames, not {frames:.1f}"
        )
        inside = bool(((codes >= 0) & (codes < space.size)).all())
        require(inside, f"a code is outside 0..{space.size - 1}")
    return f"{space.codebooks} of {space.size}, {space.rate:g} a second"


@torch.no_grad()
def same_codes(cls: Any, config: Any, module: str | None) -> str:
    """The same audio gives the same codes, and silence is no special case."""
    tokenizer: SpeechTokenizer = _build(cls, config)
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(tokenizer.sample_rate, generator=generator)  # [S]
    before = audio.clone()
    first, second = tokenizer.encode(audio), tokenizer.encode(audio)  # [T, Q] each
    require(torch.equal(first, second), "the same audio twice gives other codes")
    require(torch.equal(audio, before), "encode changes its input")
    silent = tokenizer.encode(torch.zeros(tokenizer.sample_rate // 2))  # [T, Q]
    require(bool((silent >= 0).all()), "silence gives a negative code")
    return f"{len(first)} frames"


DECODER_CHECKS = (
    Check("pieces", "Pushed in pieces equals pushed at once.", pieces),
    Check("counts", "Sample counts are exact and in time.", counts),
    Check("streams", "Streams do not disturb each other.", streams),
    Check("seeds", "The same seed gives the same samples.", seeds),
    Check("audible", "Samples are finite and in -1..1.", audible),
    Check("heard", "hear repeats itself, and speech follows its tensors.", prompt_tensors),
)
TOKENIZER_CHECKS = (
    Check("code_range", "Codes are in range and on time.", code_range),
    Check("same_codes", "The same audio gives the same codes.", same_codes),
)
