"""The flow of CosyVoice2: the reference's numbers, and a stream that is the whole, step by step."""

import hashlib
import importlib.util
from functools import partial

import pytest
import torch
from cosyvoice2_flow_reference import CHUNK, TINY, flow, formula, inputs, run
from cosyvoice2_reference import GOLDEN, folder
from safetensors.torch import load_file

from wishbone.core.contract.errors import UsageError
from wishbone.core.system.loading import load_tensors
from wishbone.core.weights.tensor_files import translate
from wishbone.plugins.cosyvoice2 import packed
from wishbone.plugins.cosyvoice2.flow import model as flow_module
from wishbone.plugins.cosyvoice2.flow.encoder import by_distance, distances
from wishbone.plugins.cosyvoice2.flow.memory import Memory, Rows, chunk_mask
from wishbone.plugins.cosyvoice2.flow.model import Conditions, Flow, FlowShape, times
from wishbone.plugins.cosyvoice2.flow.names import FLOW_NAMES
from wishbone.plugins.cosyvoice2.flow.noise import Noise, Noises
from wishbone.plugins.cosyvoice2.flow.stream import Cutting, FlowPrompt, FlowStream, WholeFlow

RELEASED = {ours: upstream for upstream, ours in FLOW_NAMES.items()}
NAMES = "7269448b641b8662b87503783930eaaa3fdfd097ffcd2d4c30442ad8a77e25c2"
"""Digest of the names and shapes in flow.pt as published, sorted, one a line."""
EXACT = 2e-5
"""Largest difference of mels of size 4: float32, summed in another order through ten steps."""


def made(shape):
    """A flow whose weights follow ``formula`` by their names in the release."""
    flow = Flow(shape).eval()
    upstream = {n: formula(n, t.shape) for n, t in translate(flow.state_dict(), RELEASED).items()}
    load_tensors(flow, translate(upstream, FLOW_NAMES))
    return flow.requires_grad_(False)


@pytest.fixture(scope="module")
def tiny():
    return made(FlowShape(**TINY))


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "cosyvoice2_flow.safetensors")


def conditions_of(flow, encoded, mel, speaker):
    prompt_mel = torch.zeros_like(encoded)
    prompt_mel[: len(mel)] = mel
    return Conditions(encoded, flow.speaker_of(speaker), prompt_mel)


def walk(flow):
    """Wanted mel and every step of the golden case under the chunk mask, all at once."""
    codes, mel, speaker, noise = inputs()
    sees = chunk_mask(len(codes), CHUNK), chunk_mask(2 * len(codes), 2 * CHUNK)
    encoded = flow.encode(codes, codes[:0], sees)
    path = flow.path(noise, conditions_of(flow, encoded, mel, speaker), sees[1])
    return encoded, torch.stack([noise, *path])


def test_every_name_of_the_release_is_known():
    with torch.device("meta"):
        upstream = translate(Flow().state_dict(), RELEASED)
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in upstream.items())
    assert len(lines) == 1121
    assert sum(tensor.numel() for tensor in upstream.values()) == 112_549_360
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES


def test_the_reference_walks_the_same_way(tiny, golden):
    encoded, path = walk(tiny)
    assert (encoded - golden["wanted"]).abs().max() < EXACT
    assert path.shape == golden["steps"].shape and len(path) == 11
    for step, (ours, upstream) in enumerate(zip(path, golden["steps"], strict=True)):
        assert (ours - upstream).abs().max() < EXACT, f"step {step}"


def test_the_reference_sees_everything_where_it_does_not_stream(tiny, golden):
    codes, mel, speaker, noise = inputs()
    complete = tiny.solve_all(codes, mel, speaker, noise)
    assert (tiny.encode(codes, codes[:0]) - golden["wanted_full"]).abs().max() < EXACT
    assert (complete - golden["mel_full"]).abs().max() < EXACT
    assert (complete - golden["steps"][-1]).abs().max() > 100 * EXACT


def _less_guidance(flow, patch):
    patch.setattr(flow_module, "GUIDANCE", 0.69)


def _even_times(flow, patch):
    patch.setattr(flow_module, "times", lambda steps: [k / steps for k in range(steps + 1)])


def _approximate_gelu(flow, patch):
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    patch.setitem(packed.ACTIVATIONS, "gelu", ("gelu", "tanh", gelu))


def _loud_speaker(flow, patch):
    patch.setattr(flow, "speaker_of", flow.speaker.forward)


SPOILT = [_less_guidance, _even_times, _approximate_gelu, _loud_speaker]


@pytest.mark.parametrize("spoil", SPOILT)
def test_the_golden_numbers_notice(tiny, golden, monkeypatch, spoil):
    spoil(tiny, monkeypatch)
    assert (walk(tiny)[1][-1] - golden["steps"][-1]).abs().max() > 10 * EXACT


def test_times_are_upstream_s():
    assert times(10)[0] == 0.0 and times(10)[10] == pytest.approx(1.0)
    assert times(10)[5] == pytest.approx(1 - 2**-0.5)


def noise_of(prompt, spoken, seed=5):
    noises = Noises(80, seed)
    return torch.cat([noises.under(2 * prompt), noises.take(2 * spoken)])


def spoken(flow, cutting, codes, prompt, mel, speaker, pieces, past=None):
    """Mel of the codes after the prompt, pushed in pieces."""
    voice = FlowPrompt(codes[:prompt], mel, speaker)
    stream = FlowStream(flow, cutting, voice, Noises(80, 5), past)
    return torch.cat([*(stream.push(p) for p in codes[prompt:].split(pieces)), stream.finish()])


def case(codes=23, prompt=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 6561, (codes,), generator=generator),
        torch.randn(2 * prompt, 80, generator=generator),
        torch.randn(TINY["speaker"], generator=generator),
    )


def random_split(total, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = []
    while sum(sizes) < total:
        remaining = total - sum(sizes)
        sizes.append(min(remaining, int(torch.randint(0, 7, (), generator=generator))))
    return sizes


@pytest.mark.parametrize(
    ("prompt", "chunks"), [(0, -1), (3, -1), (7, 1), (11, 0), (12, 2), (8, -1)]
)
def test_a_stream_is_the_whole_under_the_mask(tiny, prompt, chunks):
    codes, mel, speaker = case(prompt=prompt)
    cutting = Cutting(4, chunks, steps=4)
    noise = noise_of(prompt, 23 - prompt)
    complete = tiny.solve_all(codes, mel, speaker, noise, 4, chunks, steps=4)[2 * prompt :]
    for seed in range(3):
        pieces = random_split(23 - prompt, seed)
        result = spoken(tiny, cutting, codes, prompt, mel, speaker, pieces)
        assert result.shape == complete.shape
        assert (result - complete).abs().max() < EXACT
    full = tiny.solve_all(codes, mel, speaker, noise, steps=4)[2 * prompt :]
    assert (result - full).abs().max() > 100 * EXACT


def test_however_codes_arrive_the_bits_are_the_same(tiny):
    codes, mel, speaker = case()
    first, *others = (
        spoken(tiny, Cutting(4, steps=3), codes, 7, mel, speaker, pieces)
        for pieces in ([16], [1] * 16, [0, 5, 11], random_split(16, 9))
    )
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("prompt", [0, 6])
def test_first_chunks_of_other_sizes(tiny, prompt):
    codes, mel, speaker = case(prompt=prompt)
    cutting = Cutting(4, first=(2, 3, 5), steps=3)
    # a prompt of 6 holds one chunk of 4; the other two codes join the first spoken ones
    ends = [*([4] if prompt else []), *(prompt + n for n in (2, 5, 10, 15, 20)), 23]
    ends = sorted({min(end, 23) for end in ends})
    at = torch.bucketize(torch.arange(23), torch.tensor(ends), right=True)
    sees = torch.arange(23)[None, :] < torch.tensor(ends)[at][:, None]
    fine = sees.repeat_interleave(2, 0).repeat_interleave(2, 1)
    encoded = tiny.encode(codes, codes[:0], (sees, fine))
    noise = noise_of(prompt, 23 - prompt)
    conditions = conditions_of(tiny, encoded, mel, speaker)
    complete = tiny.solve(noise, conditions, fine, steps=3)[2 * prompt :]
    result = spoken(tiny, cutting, codes, prompt, mel, speaker, [1] * (23 - prompt))
    assert (result - complete).abs().max() < EXACT


def test_a_chunk_is_solved_as_soon_as_it_can_be(tiny):
    codes, mel, speaker = case()
    stream = FlowStream(
        tiny, Cutting(4, steps=1), FlowPrompt(codes[:7], mel, speaker), Noises(80, 0)
    )
    # one code completes the prompt's second chunk, three more are seen ahead
    assert stream.wants() == 4
    arrived, counts = 0, []
    for code in codes[7:].split(1):
        arrived += 1
        counts.append(len(stream.push(code)))
        if stream.wants() == 4:
            assert counts[-1]
    assert counts == [0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 8]
    assert len(stream.finish()) == 2 * 16 - sum(counts)


def test_each_step_from_memory_is_the_step_computed_again(tiny, golden):
    """The last chunk, every one of its ten steps, against what all chunks at once gave."""
    codes, mel, speaker, noise = inputs()
    encoded, path = walk(tiny)
    conditions = conditions_of(tiny, encoded, mel, speaker)
    memories = [Memory() for _ in range(10)]
    for begin in range(0, len(encoded), 2 * CHUNK):
        part = slice(begin, begin + 2 * CHUNK)
        now = Conditions(encoded[part], conditions.speaker, conditions.prompt_mel[part])
        walked = list(tiny.path(noise[part], now, memories=memories))
        for step, frames in enumerate(walked):
            assert (frames - path[step + 1][part]).abs().max() < EXACT, f"step {step}"
            assert (frames - golden["steps"][step + 1][part]).abs().max() < EXACT
    forgotten = list(tiny.path(noise[part], now))
    assert (forgotten[0] - path[1][part]).abs().max() > 10 * EXACT


def watch(flow, monkeypatch):
    """Records of every call of the estimator: frames, and positions its attention remembered."""
    calls, estimate = [], flow.estimator.forward

    def counted(x, t, sees=None, memory=None):
        held = memory.past(flow.estimator.middle[0].blocks[0]) if memory else 0
        calls.append((x.shape[1], held))
        return estimate(x, t, sees, memory)

    monkeypatch.setattr(flow.estimator, "forward", counted)
    return calls


def test_nothing_is_computed_twice_and_a_chunk_costs_what_the_last_one_did(tiny, monkeypatch):
    calls = watch(tiny, monkeypatch)
    codes, mel, speaker = case(codes=43)
    stream = FlowStream(
        tiny, Cutting(4, left_chunks=2, steps=2), FlowPrompt(codes[:7], mel), Noises(80, 0)
    )
    remembered = []
    for piece in codes[7:].split(1):
        if len(stream.push(piece)):
            remembered.append(stream.past.numbers())
    stream.finish()
    assert calls == [(8, 0)] * 2 + [(8, 8)] * 2 + [(8, 16)] * 16 + [(6, 16)] * 2
    assert sum(frames for frames, _ in calls) == 2 * 2 * 43
    # the third chunk fills the window, and nothing grows after that
    assert len(set(remembered[2:])) == 1 and len(remembered) > 6


def test_the_count_notices_recomputing(tiny, monkeypatch):
    """What upstream does: every chunk starts from the first code again."""
    calls = watch(tiny, monkeypatch)
    codes, mel, speaker = case(prompt=0)
    for end in (7, 11, 15, 19, 23):
        tiny.solve_all(codes[:end], mel, speaker, torch.zeros(2 * end, 80), 4, steps=2)
    assert [frames for frames, _ in calls[::2]] == [14, 22, 30, 38, 46]
    assert sum(frames for frames, _ in calls) > 3 * 2 * 2 * 23


def test_another_stream_in_between_changes_nothing(tiny):
    codes, mel, speaker = case()
    alone = spoken(tiny, Cutting(4, steps=3), codes, 7, mel, speaker, [5, 5, 6])
    voice = FlowPrompt(codes[:7], mel, speaker)
    first = FlowStream(tiny, Cutting(4, steps=3), voice, Noises(80, 5))
    second = FlowStream(tiny, Cutting(4, steps=3), voice, Noises(80, 6), first.past)
    parts, others = [], []
    for piece in codes[7:].split([5, 5, 6]):
        others.append(second.push(piece.flip(0)))
        parts.append(first.push(piece))
    second.finish()
    assert torch.equal(torch.cat([*parts, first.finish()]), alone)
    assert not torch.equal(parts[1], others[1])


def test_a_prompt_s_past_can_be_used_again(tiny, monkeypatch):
    codes, mel, speaker = case(prompt=12)
    cutting = Cutting(4, steps=2)
    voice = FlowPrompt(codes[:12], mel, speaker)
    past = FlowStream(tiny, cutting, voice, Noises(80, 1)).past
    # the third chunk of the prompt is still to be seen ahead of
    assert past.at == 8
    recomputed = spoken(tiny, cutting, codes, 12, mel, speaker, [11])
    calls = watch(tiny, monkeypatch)
    for _ in range(2):
        again = spoken(tiny, cutting, codes, 12, mel, speaker, [11], past.fork())
        assert torch.equal(again, recomputed)
    assert sum(frames for frames, _ in calls) == 2 * 2 * 2 * (23 - 8)


def test_noise_does_not_depend_on_how_it_is_taken():
    complete = Noise(80, 3).take(200)
    noise = Noise(80, 3)
    assert torch.equal(torch.cat([noise.take(n) for n in (1, 49, 0, 120, 30)]), complete)
    assert not torch.equal(Noise(80, 4).take(200), complete)
    before = torch.get_rng_state()
    Noise(80, 3).take(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_upstream_s_noise_is_the_one_it_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        upstream = torch.randn(1, 80, 15_000)[0].T
    noises = Noises(80, 7, upstream=True)
    assert torch.equal(torch.cat([noises.under(30), noises.take(70)]), upstream[:100])
    with pytest.raises(UsageError, match="300 seconds"):
        noises.take(15_000)


def test_waiting_for_the_end_sees_everything(tiny):
    codes, mel, speaker = case()
    stream = WholeFlow(tiny, FlowPrompt(codes[:7], mel, speaker), Noises(80, 5), 3)
    assert not len(stream.push(codes[7:9])) and not len(stream.push(codes[9:]))
    with torch.inference_mode():
        complete = tiny.solve_all(codes, mel, speaker, noise_of(7, 16), steps=3)[14:]
    assert torch.equal(stream.finish(), complete)


def test_nothing_spoken_is_no_mel(tiny):
    codes, mel, speaker = case()
    for cutting in (Cutting(4, steps=1), Cutting(4, first=(1,), steps=1)):
        stream = FlowStream(tiny, cutting, FlowPrompt(codes[:7], mel, speaker), Noises(80, 5))
        assert stream.finish().shape == (0, 80)


def test_rows_grow_slide_and_fork():
    rows, expected = Rows(), torch.zeros(1, 2, 0, 4)
    for count in (3, 1, 5, 2, 9):
        new = torch.randn(1, 2, count, 4)
        expected = torch.cat([expected[:, :, -6:], new], dim=2)
        assert torch.equal(rows.append(new, most=6), expected)
    fork, new = rows.fork(), torch.randn(1, 2, 4, 4)
    one, two = rows.append(new), fork.append(-new)
    assert torch.equal(one[:, :, :-4], two[:, :, :-4]) and torch.equal(one[:, :, -4:], new)
    assert rows.numbers() == fork.numbers() == one.numel()
    assert Rows().fork().append(new).shape == new.shape


def test_by_distance_puts_every_score_at_its_key():
    past, now = 4, 3
    scores = torch.arange(past + now - 1, -now, -1).expand(1, 1, now, -1).float()
    result = by_distance(scores, past + now)[0, 0]
    expected = torch.arange(past, past + now)[:, None] - torch.arange(past + now)
    assert torch.equal(result, expected.float())
    table = distances(past, now, 8, torch.zeros(1))
    assert torch.allclose(table[past + now - 1], torch.tensor([0.0, 1.0] * 4))
    assert torch.allclose(table[0, 0], torch.tensor(6.0).sin())


def test_a_mask_by_hand():
    mask = chunk_mask(5, 2, left_context=2).int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0],
                    [0, 0, 1, 1, 1]]  # fmt: skip


needs_reference = pytest.mark.skipif(
    folder("WISHBONE_COSYVOICE") is None
    or any(importlib.util.find_spec(name) is None for name in ("einops", "diffusers")),
    reason="set WISHBONE_COSYVOICE to a checkout of FunAudioLLM/CosyVoice with Matcha-TTS in"
    " third_party, and install einops and diffusers==0.29.0",
)


@needs_reference
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("full_size", [False, True], ids=["tiny", "release"])
def test_against_the_reference_itself(full_size):
    """Offline, streaming mask and upstream's own hops, with its own noise."""
    shape, chunk, count, prompt = FlowShape(**TINY), 4, 19, 6
    if full_size:
        shape, chunk, count, prompt = FlowShape(), 25, 58, 20
    upstream, ours = flow(shape, chunk), made(shape)
    upstream.load_state_dict(translate(ours.state_dict(), RELEASED))
    codes, mel, _ = case(count, prompt)
    speaker = torch.randn(shape.speaker, generator=torch.Generator().manual_seed(3))
    noise = upstream.decoder.rand_noise[0].T
    steps = run(upstream, codes, mel, speaker)[1]
    scale = steps[-1].abs().max()
    stream = FlowStream(
        ours, Cutting(chunk), FlowPrompt(codes[:prompt], mel, speaker), Noises(80, 1, upstream=True)
    )
    end = chunk * (prompt // chunk + 1)
    pushed = torch.cat([stream.push(codes[prompt : end + 3]), stream.push(codes[end + 3 :])])
    streamed = torch.cat([pushed, stream.finish()])
    assert (streamed - steps[-1][2 * prompt :]).abs().max() < 1e-4 * scale
    hop = run(upstream, codes[: end + 3], mel, speaker, finalize=False)[1][-1]
    assert (streamed[: 2 * (end - prompt)] - hop[2 * prompt :]).abs().max() < 1e-4 * scale
    full = run(upstream, codes, mel, speaker, streaming=False)[1][-1]
    complete = ours.solve_all(codes, mel, speaker, noise[: 2 * count])
    assert (complete - full).abs().max() < 1e-4 * scale
    assert (streamed - full[2 * prompt :]).abs().max() > 20e-4 * scale
