"""HiFT against golden data of the public reference, and its stream against the whole."""

import hashlib
import itertools
import math
import subprocess
import sys

import pytest
import torch
from cosyvoice2_reference import GOLDEN, TINY, counted_noise, melody
from safetensors.torch import load_file

from wishbone.core.contract.errors import CheckpointError
from wishbone.plugins.cosyvoice2.release.files import load_tensors
from wishbone.plugins.cosyvoice2.vocoder import names
from wishbone.plugins.cosyvoice2.vocoder.config import HiFTConfig
from wishbone.plugins.cosyvoice2.vocoder.layers import Memory
from wishbone.plugins.cosyvoice2.vocoder.model import HiFT

FRAME = 480
FILE = GOLDEN / "cosyvoice2_hift.safetensors"


def release():
    """The tensors of a small hift.pt, by the release's names."""
    tensors = load_file(FILE)
    return {k.removeprefix("weights."): v.float() for k, v in tensors.items() if "weights." in k}


def build():
    vocoder = HiFT(HiFTConfig(**TINY)).eval().requires_grad_(False)
    names.load(vocoder, release(), "hift.pt")
    return vocoder


@pytest.fixture(scope="module")
def vocoder():
    return build()


@pytest.fixture(scope="module")
def golden():
    return load_file(FILE)


def ended():
    memory = Memory()
    memory.last = True
    return memory


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def pushed(vocoder, mel, sizes, seed=3):
    """What a stream gives, push by push."""
    stream = vocoder.start(seeded(seed))
    return [*(stream.push(piece) for piece in mel.split(sizes, dim=1)), stream.finish()]


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def test_every_step_is_the_reference(vocoder, golden):
    """Tolerances are the reference's rounding: it adds the phase up in float32, we in float64."""
    mel = melody(golden["pitch"].shape[1])
    pitch = vocoder.pitch(mel, ended())
    assert largest(pitch, golden["pitch"].double()) < 1e-3
    assert (pitch > 10).sum() == 13 and (pitch <= 10).sum() == 3, "voiced and unvoiced frames"
    source = vocoder.source(golden["pitch"].double(), ended(), counted_noise())
    assert largest(source, golden["source"]) < 1e-4 < 0.05 < source.abs().max()
    assert largest(vocoder.filter(mel, golden["source"], ended()), golden["audio"]) < 2e-6
    audio = vocoder.advance(mel, ended(), counted_noise())
    assert largest(audio, golden["audio"]) < 2e-5 < 0.1 < audio.abs().max()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.stages[1].blocks[2].before_narrow[0].alpha.mul_(1.1),
        lambda v: v.stages[2].source.narrow[2].convolution.bias.add_(0.05),
        lambda v: v.stages[0].rise.bias.add_(0.05),
        lambda v: v.source.mix.weight.mul_(1.1),
    ],
)
def test_a_changed_weight_is_heard(golden, change):
    other = build()
    change(other)
    audio = other.advance(melody(golden["pitch"].shape[1]), ended(), counted_noise())
    assert largest(audio, golden["audio"]) > 1e-4


@pytest.mark.parametrize("sizes", [[1] * 43, [25, 18], [3, 0, 37, 1, 2], [43], [42, 1]])
def test_a_stream_is_the_whole(vocoder, sizes):
    mel = melody(43)
    complete = vocoder(mel, generator=seeded())[0]
    assert len(complete) == 43 * FRAME and 0.05 < complete.abs().max() < 0.9
    assert largest(torch.cat(pushed(vocoder, mel[0], sizes)), complete) < 1e-6


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 19, 20, 21])
def test_short_utterances(vocoder, frames):
    mel = melody(max(1, frames))[:, :, :frames]
    samples = torch.cat(pushed(vocoder, mel[0], [frames]))
    assert len(samples) == frames * FRAME and samples.isfinite().all()
    if frames:
        assert largest(samples, vocoder(mel, generator=seeded())[0]) < 1e-6


def test_samples_come_as_early_as_the_network_allows(vocoder):
    stream, final = vocoder.start(seeded()), 0
    for count, frame in enumerate(melody(30)[0].split(1, dim=1), 1):
        final += len(stream.push(frame))
        assert final == vocoder.ready(count)
    # a sample that is out does not change with what comes later, and the next one does
    mel = melody(30)
    other = mel.clone()
    other[:, :, 25:] += 1.0
    first, second = (vocoder(x, generator=seeded())[0] for x in (mel, other))
    final = vocoder.ready(25)
    assert torch.equal(first[:final], second[:final])
    # rounding swallows what random weights say at the far end of the network's reach
    assert largest(first[: final + 12 * FRAME], second[: final + 12 * FRAME]) > 1e-6


def test_the_release_waits_for_395_milliseconds():
    vocoder = HiFT()
    waits = 100 * FRAME - vocoder.ready(100)
    assert waits / vocoder.sample_rate == 0.395
    assert vocoder.lookahead == math.ceil(waits / FRAME) == 20
    # 20,821,295 numbers in hift.pt, 82 layers of which have lengths of their own
    norms = [m for n, m in vocoder.named_modules() if hasattr(m, "weight") and m.weight.ndim == 3]
    lengths = sum(m.weight.shape[0] for m in norms) - 256 - 128 - 64
    assert sum(p.numel() for p in vocoder.parameters()) + lengths == 20_821_295


def joins(parts):
    """Where one push ends and the next begins; empty pushes make none."""
    places = itertools.accumulate(len(part) for part in parts)
    return sorted({place for place in places if 0 < place < sum(map(len, parts))})


def worst_step(samples, places):
    """Largest step between neighbouring samples at joins, over the largest anywhere else."""
    steps = samples.diff().abs()
    at = torch.zeros(len(steps), dtype=torch.bool)
    at[[place - 1 for place in places]] = True
    return (steps[at].max() / steps[~at].max()).item()


def level_change(samples, complete, places, around=480):
    """Largest change of loudness at joins against the whole, in dB over 20 ms on each side."""
    changes = []
    for place in places:
        cut = slice(max(0, place - around), place + around)
        changes.append(20 * math.log10(samples[cut].norm() / complete[cut].norm()))
    return max(map(abs, changes))


def test_no_seam_and_no_level_jump(vocoder):
    mel = melody(64)
    complete = vocoder(mel, generator=seeded())[0]
    parts = pushed(vocoder, mel[0], [25, 8, 8, 8, 8, 7])
    samples, places = torch.cat(parts), joins(parts)
    assert len(places) == 6
    assert worst_step(samples, places) <= 1.0
    assert level_change(samples, complete, places) < 1e-4


def test_seams_and_level_jumps_are_seen(vocoder):
    """Controls: chunks on their own, and upstream's Hamming halves, which sum to 1.08."""
    mel = melody(64)
    complete = vocoder(mel, generator=seeded())[0]
    alone = [vocoder(x, generator=seeded())[0] for x in mel.split(16, dim=2)]
    places = joins(alone)
    assert level_change(torch.cat(alone), complete, places) > 0.1
    jumped = torch.cat([part + 0.2 * (i % 2) for i, part in enumerate(complete.split(16 * FRAME))])
    assert worst_step(jumped, places) > 1.0
    faded, window = complete.clone(), torch.hamming_window(2 * 3840, periodic=False)
    for place in places:
        cut = slice(place, place + 3840)
        faded[cut] = complete[cut] * window[:3840] + complete[cut] * window[3840:]
    inside = [place + 1920 for place in places]
    assert level_change(faded, complete, inside) == pytest.approx(0.67, abs=0.01)


def test_concurrent_streams_do_not_hear_each_other(vocoder):
    mel = melody(40)[0]
    alone = torch.cat(pushed(vocoder, mel, [10] * 4))
    one, two, parts = vocoder.start(seeded()), vocoder.start(seeded(9)), []
    for piece in mel.split(10, dim=1):
        parts.append(one.push(piece))
        two.push(piece.flip(0))
    assert torch.equal(alone, torch.cat([*parts, one.finish()]))
    assert not torch.equal(alone, torch.cat(pushed(vocoder, mel, [10] * 4, seed=9)))


def test_the_global_generator_is_left_alone(vocoder):
    before = torch.get_rng_state()
    pushed(vocoder, melody(22)[0], [22])
    assert torch.equal(before, torch.get_rng_state())


def fingerprint():
    """Of what one seed says, for this process and another one."""
    samples = torch.cat(pushed(build(), melody(24)[0], [5, 19]))
    return hashlib.sha256(samples.numpy().tobytes()).hexdigest()


def test_the_same_seed_says_the_same_in_a_new_process():
    code = "import test_cosyvoice2_vocoder as here; print(here.fingerprint())"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=GOLDEN.parent, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == fingerprint()


def test_a_stream_remembers_the_same_amount_however_long_it_is(vocoder):
    def held(frames):
        stream = vocoder.start(seeded())
        for piece in melody(frames)[0].split(10, dim=1):
            stream.push(piece)
        return sum(x.untyped_storage().nbytes() for x in stream._memory._stored.values())

    assert held(30) == held(60) < 200_000


def test_a_finished_stream_refuses_more(vocoder):
    stream = vocoder.start(seeded())
    stream.finish()
    for call in (lambda: stream.push(melody(1)[0]), stream.finish):
        with pytest.raises(RuntimeError, match="finished"):
            call()


def test_everything_is_made_on_the_device_of_the_weights():
    """The meta device stands in for a GPU: it, too, refuses to mix with the CPU."""
    parts = pushed(build().to("meta"), melody(25)[0].to("meta"), [0, 12, 13])
    assert all(part.device.type == "meta" for part in parts)
    assert sum(map(len, parts)) == 25 * FRAME


def test_all_328_names_are_used(vocoder):
    tensors = release()
    assert len(tensors) == 328
    folded = names.fold(tensors)
    assert len(folded) == 246 == len(vocoder.state_dict())


def test_names_of_older_files_and_of_training(tmp_path):
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in release().items()
    }
    torch.save({f"generator.{name}": tensor for name, tensor in old.items()}, tmp_path / "hift.pt")
    vocoder = HiFT(HiFTConfig(**TINY))
    names.load(vocoder, load_tensors(tmp_path / "hift.pt", "vocoder"), "hift.pt")
    expected = build().state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in vocoder.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_post.bias"), "conv_post.bias"),
        (lambda t: t.pop("ups.1.parametrizations.weight.original0"), "ups.1 has only"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({"conv_pre.bias": torch.zeros(3)}), r"entry.convolution.bias \(file"),
        (
            lambda t: t.update({"conv_pre.parametrizations.weight.original0": torch.ones(3, 1, 1)}),
            r"conv_pre has \[3, 1, 1\] lengths",
        ),
        (
            lambda t: t.update({"resblocks.9.activations1.0.alpha": torch.ones(2)}),
            "resblocks.9.activations1.0.alpha",
        ),
    ],
)
def test_files_that_are_not_this_vocoder(change, message):
    tensors, vocoder = release(), HiFT(HiFTConfig(**TINY))
    before = {name: tensor.clone() for name, tensor in vocoder.state_dict().items()}
    change(tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        names.load(vocoder, tensors, "some/hift.pt")
    assert caught.value.where == "some/hift.pt" and caught.value.do
    assert all(torch.equal(before[name], t) for name, t in vocoder.state_dict().items())


def test_shapes_that_cannot_be():
    with pytest.raises(ValueError, match="cannot raise the rate"):
        HiFT(HiFTConfig(**TINY, rise_kernels=[15, 11, 7]))
    with pytest.raises(ValueError, match="no middle"):
        HiFT(HiFTConfig(**TINY, rates=[3, 5, 3], rise_kernels=[5, 11, 7], hop=1))
