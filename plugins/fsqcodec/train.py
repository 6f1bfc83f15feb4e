"""Trains the codec: ``wishbone codec-train OUT --audio FOLDER ...``.

Stage "code" trains encoder, quantiser and trunk on cheap targets at frame rate: the log-mel of the
frame, its pitch, and its phoneme, read by a small classifier from the code alone. Stage "sound"
freezes the code and trains the decoder on the waveform's spectra at several resolutions. Language
models can therefore start on the tokens of the first stage while the second still runs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.cli.arguments import parse
from wishbone.core.cli.main import in_three_lines
from wishbone.core.contract.atomic import replacing, write_text
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.weights.files import read_tensors
from wishbone.core.weights.provenance import hash_files
from wishbone.plugins.fsqcodec import corpus
from wishbone.plugins.fsqcodec.decoder import (
    DIGITS,
    PITCH_HIGH,
    PITCH_LOW,
    SAMPLE_RATE,
    FSQCodecDecoder,
)
from wishbone.plugins.fsqcodec.layers import Convolution, LogMel
from wishbone.plugins.fsqcodec.recipe import EXAMPLES, TrainOptions
from wishbone.plugins.fsqcodec.speaker import Manner
from wishbone.plugins.fsqcodec.tokenizer import FSQCodecTokenizer

CROP = 48  # code frames, 1.92 s: several words, and small enough for a batch of 16 on two cores


class PhonemeReader(nn.Module):
    """Phoneme logits, two per code frame, from a code and its two neighbours."""

    def __init__(self, classes: int):
        super().__init__()
        self.entry = Convolution(DIGITS, 192, 3, lookahead=1)
        self.middle = nn.Conv1d(192, 192, 1)
        self.exit = nn.Conv1d(192, 2 * classes, 1)
        self.classes = classes

    def forward(self, values: Tensor) -> Tensor:
        """values [B, 8, T] -> logits [B, 2 T, classes]."""
        h = F.gelu(self.middle(F.gelu(self.entry(values))))
        return self.exit(h).transpose(1, 2).unflatten(-1, (2, self.classes)).flatten(1, 2)


class Trainee(nn.Module):
    """Everything that learns: the two parts that are kept and the two readers that are not."""

    def __init__(self, speaker_width: int = 0, tokenizer: FSQCodecTokenizer.Config | None = None):
        super().__init__()
        self.tokenizer = FSQCodecTokenizer(tokenizer or FSQCodecTokenizer.Config())
        self.decoder = FSQCodecDecoder(FSQCodecDecoder.Config(speaker_width=speaker_width))
        self.reader = PhonemeReader(len(corpus.CLASSES) + 1)
        self.mel_reader = nn.Linear(self.decoder.config.fine_width, 80)


def rounded(values: Tensor) -> Tensor:
    """To {-1, 0, 1} with the gradient passed straight through (arXiv:2309.15505)."""
    return values + (values.round() - values).detach()


def log_pitch(hertz: Tensor) -> Tensor:
    """Hz -> 0..1 between the lowest and the highest pitch, on a logarithmic scale."""
    low, high = math.log(PITCH_LOW), math.log(PITCH_HIGH)
    return (hertz.clamp(PITCH_LOW, PITCH_HIGH).log() - low) / (high - low)


class Spectra(nn.Module):
    """Distance of two waveforms: log-mel and spectral convergence at several window lengths."""

    def __init__(self):
        super().__init__()
        self.mels = nn.ModuleList(
            LogMel(SAMPLE_RATE, window, window // 4, mels, 11_000.0)
            for window, mels in ((256, 40), (512, 64), (1024, 96), (2048, 128))
        )

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """made and real [B, S] -> their distance, averaged over batch, time and windows."""
        total = made.new_zeros(())
        for mel in self.mels:
            usable = made.shape[-1] // mel.hop * mel.hop
            a, b = mel(made[:, :usable]), mel(real[:, :usable])
            linear_a, linear_b = a.exp(), b.exp()
            convergence = (linear_a - linear_b).norm() / linear_b.norm()
            total = total + F.l1_loss(a, b) + 0.5 * convergence
        return total / len(self.mels)


def manner_of(decoder: FSQCodecDecoder, other: Tensor) -> Manner | None:
    """How the decoder is to speak, from other recordings [B, S] of the same voices."""
    if not decoder.config.speaker_width:
        return None
    return decoder.modulation(decoder.listener(other))


def step_code(
    model: Trainee, mel: LogMel, batch: corpus.Batch, phoneme_weight: float = 0.6
) -> dict[str, Tensor]:
    """Losses of the frame's log-mel, pitch and phoneme, all reached through the rounded code.

    The decoder is told whose voice it is, so the code need not carry that.
    """
    with torch.autocast("cpu", torch.bfloat16):
        values = rounded(model.tokenizer.values(batch.audio))
        manner = manner_of(model.decoder, batch.other)
        features = model.decoder.trunk(values, manner=manner)
        logits = model.reader(values).float()
        mel_guess = model.mel_reader(features).float()
    guess = log_pitch(model.decoder.pitch_of(features.float()))
    weight = 0.05 + batch.voiced.float()
    return {
        "mel": F.l1_loss(mel_guess, mel(batch.audio).transpose(1, 2)),
        "pitch": 8.0 * ((guess - log_pitch(batch.pitch)).abs() * weight).sum() / weight.sum(),
        "phoneme": phoneme_weight
        * F.cross_entropy(logits.transpose(1, 2), batch.labels, ignore_index=-1),
    }


def step_sound(model: Trainee, spectra: Spectra, batch: corpus.Batch) -> dict[str, Tensor]:
    """Spectral distance of the waveform, made with the recorded pitch, pulses and noise together.

    The voicing is learned from the pitch tracker beside it, not through the distance, to which a
    pulse that never varies is nearer on average than noise that is not the recorded noise.
    """
    audio, pitch, voiced = batch.audio, batch.pitch, batch.voiced
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            values = model.tokenizer.values(audio).round()
        manner = manner_of(model.decoder, batch.other)
        features = model.decoder.trunk(values, manner=manner)
    features = features.float()
    guess = log_pitch(model.decoder.pitch_of(features))
    weight = 0.05 + voiced.float()
    made = model.decoder.synthesise(features, pitch, None, torch.randn_like(audio))
    voicing = model.decoder.voicing_of(features)
    # the first frames lack the past that a whole utterance would give them
    edge = 6 * 960
    return {
        "sound": spectra(made[:, edge:], audio[:, edge:]),
        "pitch": 2.0 * ((guess - log_pitch(pitch)).abs() * weight).sum() / weight.sum(),
        "voicing": 0.2 * F.binary_cross_entropy(voicing, smooth(voiced)),
    }


def smooth(voiced: Tensor) -> Tensor:
    """voiced [B, n] bool -> [B, n] in 0..1: a frame wider, since trackers miss the edges of
    voiced stretches, and with ramps of a frame."""
    wide = F.max_pool1d(voiced.float()[:, None], 3, 1, 1)
    return F.avg_pool1d(wide, 3, 1, 1, count_include_pad=False)[:, 0]


def main(argv: Sequence[str]) -> int:
    """Train one stage; refuses to overwrite a model."""
    options = parse(TrainOptions, argv, "wishbone codec-train", EXAMPLES)
    if (options.out / "model.safetensors").exists():
        raise UsageError(
            "The folder holds a model already, and it is not overwritten.",
            str(options.out),
            "Choose another folder; --start begins from an earlier model.",
        )
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    groups, files = corpus.load(options.audio, options.hours)
    kept = 64 // len(groups) + 1
    held_out = [group[:kept] for group in groups]
    groups = [group[kept:] for group in groups]
    print(f"{' + '.join(str(len(group)) for group in groups)} recordings", flush=True)
    model = Trainee(options.speaker_width, _tokenizer_settings(options))
    if options.start:
        _begin_from(model, options.start)
    if options.decoder:
        _take_decoder(model, options.decoder)
    train(model, groups, held_out, options, hash_files(files))
    return 0


def _tokenizer_settings(options: TrainOptions) -> FSQCodecTokenizer.Config:
    """Those of the run to start from, and what --tokenizer says otherwise."""
    settings = {}
    if options.start and (earlier := options.start.with_name("config.json")).exists():
        settings = json.loads(earlier.read_text()).get("tokenizer", {})
    for word in options.tokenizer:
        key, _, number = word.partition("=")
        if key not in FSQCodecTokenizer.Config.__dataclass_fields__ or not number.isdigit():
            raise UsageError(
                f"The tokenizer has no setting '{word}'.",
                "--tokenizer",
                "Settings are " + ", ".join(FSQCodecTokenizer.Config.__dataclass_fields__) + ".",
            )
        settings[key] = int(number)
    return FSQCodecTokenizer.Config(**settings)


def _load(model: Trainee, tensors: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Take what fits; the names of the model's own that were not given, and of those unfit."""
    own = model.state_dict()
    unfit = [n for n, t in tensors.items() if n not in own or own[n].shape != t.shape]
    fitting = {name: tensor for name, tensor in tensors.items() if name not in unfit}
    missing = model.load_state_dict(fitting, strict=False).missing_keys
    return [name for name in missing if name not in unfit], unfit


def _begin_from(model: Trainee, file: Path) -> None:
    """Take the weights of an earlier stage; one that knew a single voice lacks the speaker's.

    A tokenizer that has grown since begins as what it was: its new parts add nothing yet.
    """
    missing, unfit = _load(model, read_tensors(file))
    new = ("decoder.listener.", "decoder.modulation.", "decoder.voice", "tokenizer.burst")
    tokenizer = model.tokenizer
    for name, blocks in (("fine", tokenizer.fine), ("coarse", tokenizer.coarse)):
        for number, block in enumerate(blocks):
            if f"tokenizer.{name}.{number}.scale" in missing:
                new += (f"tokenizer.{name}.{number}.",)
                nn.init.zeros_(block.scale)
    if "tokenizer.bursts_out.weight" in missing:
        nn.init.zeros_(tokenizer.bursts_out.weight)
        nn.init.zeros_(tokenizer.bursts_out.bias)
    wrong = unfit + [name for name in missing if not name.startswith(new)]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors do not fit, '{wrong[0]}' among them.",
            str(file),
            "Start from a model of this recipe with the same --speaker-width, or without one, and"
            " with a tokenizer as wide and no deeper.",
        )


def _take_decoder(model: Trainee, file: Path) -> None:
    """The decoder of another run in place of this one's.

    It knows the other run's code: of use where this run's has grown out of it. One that knew a
    single voice begins as if no voice had been told yet.
    """
    found = read_tensors(file)
    own = {name: value for name, value in found.items() if name.startswith("decoder.")}
    missing, unfit = _load(model, own)
    told = ("decoder.listener.", "decoder.modulation.", "decoder.voice")
    lost = [n for n in missing if n.startswith("decoder.") and not n.startswith(told)]
    if lost or unfit or not own:
        raise CheckpointError(
            "There is no decoder of this recipe in the file.",
            str(file),
            "Give the model.safetensors of a run of the stage 'sound'.",
        )
    if "decoder.modulation.project.weight" in missing:
        nn.init.zeros_(model.decoder.modulation.project.weight)
        nn.init.zeros_(model.decoder.modulation.project.bias)


def make_optimizers(
    trained: list[nn.Parameter], learning_rate: float, muon: float
) -> list[torch.optim.Optimizer]:
    """AdamW, or, with ``muon``, Muon (Jordan et al. 2024) for matrices and AdamW for the rest."""
    matrices = [p for p in trained if p.ndim == 2] if muon else []
    apart = set(map(id, matrices))
    rest = [p for p in trained if id(p) not in apart]
    made = [torch.optim.AdamW(rest, learning_rate, betas=(0.8, 0.99), fused=True)]
    if matrices:
        made.append(
            torch.optim.Muon(matrices, muon * learning_rate, 0.01, adjust_lr_fn="match_rms_adamw")
        )
    return made


def train(
    model: Trainee,
    groups: list[list[corpus.Recording]],
    held_out: list[list[corpus.Recording]],
    options: TrainOptions,
    data: str,
) -> None:
    """Train for ``options.steps`` or ``minutes``; the learning rate falls with what is left."""
    if options.stage == "code":
        trained, measure = list(model.parameters()), LogMel(SAMPLE_RATE, 1024, 240, 80, 11_000.0)
        step = partial(step_code, phoneme_weight=options.phoneme_weight)
    else:
        trained, measure, step = list(model.decoder.parameters()), Spectra(), step_sound
    optimizers = make_optimizers(trained, options.learning_rate, options.muon)
    crops = corpus.Crops(groups, CROP, np.random.default_rng(options.seed), options.stretched)
    check = corpus.Crops(held_out, CROP, np.random.default_rng(0)).batch(32)
    begin, count, saved = time.time(), 0, time.time()
    log = (options.out / "log.jsonl").open("a")

    def share() -> float:
        if options.steps:
            return count / options.steps
        return (time.time() - begin) / 60 / options.minutes

    while (done := share()) < 1.0:
        rate = min(1.0, (count + 1) / 100) * (1 - done) ** 0.5
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * optimizer.defaults["lr"]
        losses = step(model, measure, crops.batch(options.batch))
        loss = torch.stack(list(losses.values())).sum()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 5.0)
        if not torch.isfinite(norm):
            print(f"step {count}: the gradient is not finite, skipped", flush=True)
            continue
        for optimizer in optimizers:
            optimizer.step()
        count += 1
        if count % 100 == 0:
            with torch.no_grad():
                held = {k: round(float(v), 4) for k, v in step(model, measure, check).items()}
            made = {k: round(float(v.detach()), 4) for k, v in losses.items()}
            speed = count * options.batch * CROP / 25 / (time.time() - begin)
            entry = {
                "step": count,
                "train": made,
                "held_out": held,
                "audio_per_second": round(speed, 1),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
            print(entry, flush=True)
        if time.time() - saved > 120:
            save(model, options, count, data)
            saved = time.time()
    save(model, options, count, data)


def save(model: Trainee, options: TrainOptions, count: int, data: str) -> None:
    """Everything, so that the next stage can start from it.

    ``data`` is the hash of the audio data that was used.
    """
    path = options.out / "model.safetensors"
    notes = {"stage": options.stage, "steps": str(count), "seed": str(options.seed)}
    with replacing(path) as temporary:
        save_file(model.state_dict(), temporary, metadata=notes)
    earlier = options.start.with_name("config.json") if options.start else None
    stages = json.loads(earlier.read_text()).get("stages", []) if earlier else []
    settings = {
        "tokenizer": asdict(model.tokenizer.config),
        "decoder": asdict(model.decoder.config),
        "seed": options.seed,
        "data": data,
        "stages": [*stages, {"stage": options.stage, "steps": count, "hours": options.hours}],
    }
    write_text(options.out / "config.json", json.dumps(settings, indent=1))


if __name__ == "__main__":
    sys.exit(in_three_lines(main))
