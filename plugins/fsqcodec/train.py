"""Trains the codec: ``wishbone codec-train OUT --audio FOLDER ...``.

Stage "code" trains encoder, quantiser and trunk on cheap targets at frame rate: the log-mel of the
frame, its pitch, and its phoneme, read by a small classifier from the code alone. Stage "sound"
freezes the code and trains the decoder on the waveform's spectra at several resolutions. Language
models can therefore start on the tokens of the first stage while the second still runs.
"""

from __future__ import annotations

import json
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

from wishbone.core.cli.arguments import parse
from wishbone.core.cli.main import in_three_lines
from wishbone.core.contract.atomic import replacing, write_text
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.model.device import multiplies_bfloat16_faster
from wishbone.core.train.optimizer import Float32Muon
from wishbone.core.weights.provenance import hash_files
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.fsqcodec import corpus
from wishbone.plugins.fsqcodec.decoder import CODE_RATE, SAMPLE_RATE
from wishbone.plugins.fsqcodec.layers import LogMel
from wishbone.plugins.fsqcodec.losses import Spectra, Trainee, step_code, step_sound
from wishbone.plugins.fsqcodec.recipe import EXAMPLES, TrainOptions
from wishbone.plugins.fsqcodec.tokenizer import FSQCodecTokenizer

READER_STEPS = 300
"""Steps in which readers that begin anew learn alone: until they read, their gradients would only
disturb a code that is trained already."""
READERS = ("reader.", "mel_reader.", "semantic_reader.")
CROP = 48  # code frames, 1.92 s: several words, and small enough for a batch of 16 on two cores


def main(argv: Sequence[str]) -> int:
    """Train one stage; refuses a folder that holds a model."""
    options = parse(TrainOptions, argv, "wishbone codec-train", EXAMPLES)
    if (options.out / "model.safetensors").exists():
        raise UsageError(
            "The folder holds a model already, and it is not overwritten.",
            str(options.out),
            "Choose another folder; --start begins from an earlier model.",
        )
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    semantic = options.stage == "code" and options.semantic_weight > 0
    groups, files = corpus.load(options.audio, options.hours, semantic)
    count = 64 // len(groups) + 1
    held_out = [group[:count] for group in groups]
    groups = [group[count:] for group in groups]
    print(f"{' + '.join(str(len(group)) for group in groups)} recordings", flush=True)
    model = Trainee(options.speaker_width, _tokenizer_settings(options))
    alone = options.start is not None and _begin_from(model, options.start)
    if options.decoder:
        _take_decoder(model, options.decoder)
    train(model, groups, held_out, options, hash_files(files), READER_STEPS if alone else 0)
    return 0


def _tokenizer_settings(options: TrainOptions) -> FSQCodecTokenizer.Config:
    """The settings of the run to start from, with the changes of --tokenizer."""
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
    """Load the tensors that fit -> names that the model lacks now, and names that do not fit."""
    state = model.state_dict()
    unfit = [n for n, t in tensors.items() if n not in state or state[n].shape != t.shape]
    fitting = {name: tensor for name, tensor in tensors.items() if name not in unfit}
    missing = model.load_state_dict(fitting, strict=False).missing_keys
    return [name for name in missing if name not in unfit], unfit


def _begin_from(model: Trainee, file: Path) -> bool:
    """Load the weights of an earlier stage; one of a single voice lacks the speaker's.

    A tokenizer that has grown begins as it was: its new blocks add nothing yet. A codec that was
    exported lacks the readers, which begin anew: the result says whether that is so.
    """
    missing, unfit = _load(model, read_tensors(file))
    new = ("decoder.listener.", "decoder.modulation.", "decoder.voice", "tokenizer.burst")
    new += READERS
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
    return any(name.startswith("reader.") for name in missing)


def _take_decoder(model: Trainee, file: Path) -> None:
    """Load the decoder of another run in place of this one's.

    It fits the other run's code: of use where this run's code grew out of that. A decoder of a
    single voice begins without any modulation.
    """
    tensors = {n: t for n, t in read_tensors(file).items() if n.startswith("decoder.")}
    missing, unfit = _load(model, tensors)
    of_speaker = ("decoder.listener.", "decoder.modulation.", "decoder.voice")
    lacking = [n for n in missing if n.startswith("decoder.") and not n.startswith(of_speaker)]
    if lacking or unfit or not tensors:
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
    others = [p for p in trained if id(p) not in apart]
    optimizers = [torch.optim.AdamW(others, learning_rate, betas=(0.8, 0.99), fused=True)]
    if matrices:
        fast = multiplies_bfloat16_faster(matrices[0].device)
        kind = torch.optim.Muon if fast else Float32Muon
        optimizers.append(
            kind(matrices, muon * learning_rate, 0.01, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def train(
    model: Trainee,
    groups: list[list[corpus.Recording]],
    held_out: list[list[corpus.Recording]],
    options: TrainOptions,
    data: str,
    reader_steps: int = 0,
) -> None:
    """Train for ``options.steps`` or ``minutes``; the learning rate falls until the end.

    In the first ``reader_steps`` steps only the readers learn.
    """
    if options.stage == "code":
        trained, measure = list(model.parameters()), LogMel(SAMPLE_RATE, 1024, 240, 80, 11_000.0)
        step = partial(
            step_code,
            phoneme_weight=options.phoneme_weight,
            semantic_weight=options.semantic_weight,
        )
    else:
        trained, measure, step = list(model.decoder.parameters()), Spectra(), step_sound
    optimizers = make_optimizers(trained, options.learning_rate, options.muon)
    crops = corpus.Crops(groups, CROP, np.random.default_rng(options.seed), options.stretched)
    held_out_batch = corpus.Crops(held_out, CROP, np.random.default_rng(0)).batch(32)
    begin, count, saved = time.time(), 0, time.time()
    log = (options.out / "log.jsonl").open("a")

    def progress() -> float:
        """Share of the training that is over, 0 to 1."""
        if options.steps:
            return count / options.steps
        return (time.time() - begin) / 60 / options.minutes

    while (share := progress()) < 1.0:
        factor = min(1.0, (count + 1) / 100) * (1 - share) ** 0.5
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * optimizer.defaults["lr"]
        losses = step(model, measure, crops.batch(options.batch))
        loss = torch.stack(list(losses.values())).sum()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if count < reader_steps:
            for name, parameter in model.named_parameters():
                if not name.startswith(READERS):
                    parameter.grad = None
        norm = nn.utils.clip_grad_norm_(trained, 5.0)
        if not torch.isfinite(norm):
            print(f"step {count}: the gradient is not finite, skipped", flush=True)
            continue
        for optimizer in optimizers:
            optimizer.step()
        count += 1
        if count % 100 == 0:
            with torch.no_grad():
                measured = step(model, measure, held_out_batch)
            speed = count * options.batch * CROP / CODE_RATE / (time.time() - begin)
            entry = {
                "step": count,
                "train": {k: round(float(v.detach()), 4) for k, v in losses.items()},
                "held_out": {k: round(float(v), 4) for k, v in measured.items()},
                "audio_per_second": round(speed, 1),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
            print(entry, flush=True)
        if time.time() - saved > 120:
            save(model, options, count, data)
            saved = time.time()
    save(model, options, count, data)


def _stages_until(start: Path) -> list[dict]:
    """The stages behind the weights to start from: of a run, or of a codec that was exported."""
    run, exported = start.with_name("config.json"), start.with_name("provenance.json")
    if run.exists():
        return json.loads(run.read_text()).get("stages", [])
    if exported.exists():
        return json.loads(exported.read_text()).get("notes", {}).get("stages", [])
    return []


def save(model: Trainee, options: TrainOptions, count: int, data: str) -> None:
    """Write all weights and settings, so that the next stage can start from them.

    ``data`` is the hash of the audio data.
    """
    path = options.out / "model.safetensors"
    notes = {"stage": options.stage, "steps": str(count), "seed": str(options.seed)}
    with replacing(path) as temporary:
        save_file(model.state_dict(), temporary, metadata=notes)
    stages = _stages_until(options.start) if options.start else []
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
