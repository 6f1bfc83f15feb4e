"""CosyVoice2's decoder on a GPU against itself on a CPU, and how long a second of audio takes."""

import time

import pytest
import torch

from wishbone.core.testing import trained_looking_
from wishbone.plugins.cosyvoice2.decoder import CosyVoice2Decoder
from wishbone.plugins.cosyvoice2.flow.noise import Noises
from wishbone.plugins.cosyvoice2.flow.stream import Cutting, FlowPrompt, FlowStream


@pytest.fixture
def exact(monkeypatch):
    """Without TF32, which rounds to ten bits."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def made(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = CosyVoice2Decoder(config).eval().requires_grad_(False)
    trained_looking_(decoder.flow, 1)
    return decoder


def test_flow_and_vocoder_give_the_numbers_of_the_cpu(exact, figures):
    decoder = made(CosyVoice2Decoder.small_config())
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 6561, (23, 1), generator=generator)
    prompt = {"codes": codes[:9], "mel": torch.randn(18, 80, generator=generator)}
    actual = []
    for device in ("cpu", "cuda"):
        stream = decoder.to(device).start(seed=3, speaker=torch.ones(8), prompt=prompt)
        parts = [stream.push(part) for part in codes.to(device).split(6)]
        actual.append(torch.cat([*parts, stream.finish()]).cpu())
    error = float((actual[0] - actual[1]).abs().max())
    figures["cosyvoice2_decoder_difference"] = error
    assert error < 1e-3


def test_a_chunk_costs_the_same_however_long_the_speech(figures):
    """Full size, random weights: seconds for each second of 20, with ten seconds seen behind."""
    flow = made(CosyVoice2Decoder.Config()).flow.cuda()
    codes = torch.randint(0, 6561, (525,), generator=torch.Generator().manual_seed(2))
    stream = FlowStream(flow, Cutting(left_chunks=10), FlowPrompt(), Noises(80, 1))
    spent = []
    for piece in (codes[:28], *codes[28:].split(25)):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        stream.push(piece.cuda())
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - begin)
    figures["cosyvoice2_flow_seconds_per_second"] = spent
    figures["cosyvoice2_flow_memory_bytes"] = 4 * stream.past.numbers()
    assert sum(spent[-4:]) < 2 * sum(spent[11:15])
