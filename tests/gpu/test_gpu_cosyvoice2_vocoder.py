"""CosyVoice2's vocoder on a GPU: the samples of the CPU, and a stream that is the whole."""

import time

import torch

from wishbone.core.testing import trained_looking_
from wishbone.plugins.cosyvoice2.vocoder.model import HiFT


def build():
    """The release's shape with weights that are heard and not clipped."""
    torch.manual_seed(0)
    vocoder = trained_looking_(HiFT(), 0).eval().requires_grad_(False)
    for stage in vocoder.stages:
        for block in (stage.source, *stage.blocks):
            for narrow in block.narrow:
                narrow.convolution.weight *= 0.2
    vocoder.pitch.out.bias += 120.0
    audio = []
    hook = vocoder.exit.register_forward_hook(lambda module, x, y: audio.append(y.std()))
    vocoder(torch.randn(1, 80, 5, generator=seeded()) - 4.0, generator=seeded())
    hook.remove()
    vocoder.exit.convolution.weight *= 0.5 / audio[0]
    vocoder.exit.convolution.bias[:9] -= 2.0
    return vocoder


def seeded():
    return torch.Generator().manual_seed(3)


def relative(a, b):
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


def test_vocoder_gives_the_samples_of_the_cpu(figures):
    vocoder, mel = build(), torch.randn(1, 80, 60, generator=seeded()) - 4.0
    expected = vocoder(mel, generator=seeded())
    vocoder.cuda()
    # convolutions round their inputs to 10 bits otherwise
    with torch.backends.cudnn.flags(allow_tf32=False):
        actual = vocoder(mel.cuda(), generator=seeded())
        stream = vocoder.start(seeded())
        pieces = [stream.push(x) for x in mel[0].cuda().split([25, 1, 34], dim=1)]
        streamed = torch.cat([*pieces, stream.finish()])
    figures["cosyvoice2_vocoder"] = relative(actual, expected)
    figures["cosyvoice2_vocoder_stream"] = relative(streamed, actual[0])
    assert 0.01 < expected.abs().max() < 0.99
    assert figures["cosyvoice2_vocoder"] < 1e-3 and figures["cosyvoice2_vocoder_stream"] < 1e-4


def test_vocoder_speed(figures):
    """Ten pushes of a second each; no bound, a figure."""
    vocoder = build().cuda()
    stream, mel = vocoder.start(seeded()), torch.randn(80, 50, device="cuda") - 4.0
    for _ in range(3):
        stream.push(mel)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        stream.push(mel)
    torch.cuda.synchronize()
    figures["cosyvoice2_vocoder_real_time_factor"] = (time.perf_counter() - start) / 10
