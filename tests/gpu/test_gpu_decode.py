"""Decoding by CUDA graph: the numbers of the plain step, and what share of the memory's speed.

``decode_*`` figures: tokens per second of all streams, and the share of the time a step takes that
reading its weights and reading and writing its states would take at the bandwidth of a copy
measured in the same run. No figure can fail a test: cards differ. What issue 3 asks for on an H200
stands beside them as ``must``.
"""

import statistics

import pytest
import torch

from wishbone.core.model.state_batch import Pool
from wishbone.core.testing import trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.engines import cuda_graph as rwkv7_graph
from wishbone.plugins.transformer.backbone import Transformer

KINDS = [RWKV7, Transformer]
LARGE = {
    RWKV7: RWKV7.Config(width=1024, layers=24),
    Transformer: Transformer.Config(
        width=896, layers=24, heads=14, kv_heads=2, ffn_width=4864, rope_theta=1e6
    ),
}
"""About half a billion parameters: RWKV-7's of that size, and CosyVoice2's Qwen2."""
MUST = {1: 0.5, 32: 0.65, 256: 0.7}
CONTEXT = 500
"""Positions behind a stream of the Transformer: twenty seconds of CosyVoice2's codes."""


def error(ours, reference):
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def small(cls):
    torch.manual_seed(0)
    return trained_looking_(cls(cls.small_config()), 0).eval().requires_grad_(False).cuda()


def large(cls):
    """On the card from the start; random numbers of a size that stays finite."""
    with torch.device("meta"):
        model = cls(LARGE[cls])
    model = model.to_empty(device="cuda").bfloat16().eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.02)
    return model


def steps(model, x, state):
    """x [T, B, D] -> y [T, B, D]."""
    return torch.stack([model.step_(row[:, None], state)[:, 0] for row in x])


@pytest.mark.parametrize("batch", [1, 3, 5, 33])
@pytest.mark.parametrize("cls", KINDS)
@torch.inference_mode()
def test_a_replay_is_the_plain_step(cls, batch):
    model = small(cls)
    x = torch.randn(300, batch, model.width, device="cuda")
    expected = steps(model, x, model.init_state(batch))
    assert model.accelerate("graph") == "graph"
    state = model.init_state(batch)
    assert error(steps(model, x, state), expected) < 1e-4
    more = torch.randn(batch, 4, model.width, device="cuda")
    y, _ = model(more, state)
    plain = small(cls)
    reference = plain.init_state(batch)
    steps(plain, x, reference)
    assert error(y, plain(more, reference)[0]) < 1e-4


@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("cls", KINDS)
@torch.inference_mode()
def test_a_replay_with_matrices_in_bfloat16(cls, batch):
    model = small(cls)
    x = torch.randn(100, batch, model.width, device="cuda")
    expected = steps(model, x, model.init_state(batch))
    model.accelerate("graph", "bfloat16")
    state = model.init_state(batch, dtype=torch.bfloat16)
    assert 1e-4 < error(steps(model, x, state), expected) < 0.05


@pytest.mark.parametrize("cls", KINDS)
@torch.inference_mode()
def test_a_pool_of_replayed_streams(cls):
    model, plain = small(cls), small(cls)
    model.accelerate("graph")
    x = torch.randn(60, 4, model.width, device="cuda")
    expected = [steps(plain, x[:, n : n + 1], plain.init_state(1))[:, 0] for n in range(4)]
    pool, slots, outputs = Pool(model, 6), {}, {n: [] for n in range(4)}
    for tick in range(60):
        if tick % 12 == 0 and len(slots) < 4:
            slots[len(slots)] = pool.join()
        active = [n for n in slots if (tick + n) % 5] or list(slots)
        rows = torch.stack([x[len(outputs[n]), n] for n in active])
        for n, y in zip(active, pool.step([slots[n] for n in active], rows), strict=True):
            outputs[n].append(y)
    for n, ys in outputs.items():
        assert error(torch.stack(ys), expected[n][: len(ys)]) < 1e-4


@torch.inference_mode()
def test_a_state_in_bfloat16(figures):
    model = small(RWKV7)
    x = torch.randn(200, 8, model.width, device="cuda")
    expected = steps(model, x, model.init_state(8))
    model.accelerate("graph")
    pool = Pool(model, 8, narrow={".wkv": torch.bfloat16})
    slots = [pool.join() for _ in range(8)]
    y = torch.stack([pool.step(slots, row) for row in x])
    assert pool.state["blocks.0.wkv"].dtype == torch.bfloat16
    figures["decode_bf16_state_error"] = error(y, expected)
    assert 1e-5 < figures["decode_bf16_state_error"] < 0.05


@pytest.mark.parametrize("arm", ["quickstart-rwkv7", "quickstart-transformer"])
def test_a_server_says_what_the_pipeline_says(arm, figures):
    import wishbone
    from wishbone.core.speak import text_to_speech
    from wishbone.core.speak.server import Request, Server

    system = wishbone.load(arm, device="cuda")
    lines = [f"This is sentence {n} of the ones that are spoken together." for n in range(6)]
    alone = []
    for seed, line in enumerate(lines):
        record = []
        text_to_speech.say(system, line, seed=seed, record=record)
        alone.append([u.codes for u in record])
    system.model.backbone.accelerate("graph")
    together = [None] * len(lines)
    for reason in Server(system, 4).say(Request(line, seed=n) for n, line in enumerate(lines)):
        together[reason.number] = [u.codes for u in reason.utterances]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    figures[f"server_{arm}_same_utterances_of_6"] = same
    assert same >= 4


def copy_bandwidth():
    """Bytes per second read and written by a copy of 4 GiB."""
    source = torch.empty(1 << 30, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * timed(lambda: target.copy_(source), 10))


def timed(action, count, rounds=5):
    """Milliseconds of one ``action``, the median of some rounds of ``count``."""
    action()
    actual = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            action()
        end.record()
        torch.cuda.synchronize()
        actual.append(begin.elapsed_time(end) / count)
    return statistics.median(actual)


def measure(model, batch, state):
    """Milliseconds of a step at this batch, and the bytes it cannot do without."""
    x = torch.randn(batch, 1, model.width, device="cuda", dtype=torch.bfloat16)
    milliseconds = timed(lambda: model.step_(x, state), 50)
    return milliseconds, model._engine.static.bytes_per_step(batch, state)


def state_of(model, batch, narrow):
    state = model.init_state(batch)
    if "length" in state:
        shape = state["blocks.0.key"].shape
        for name in state:
            if name != "length":
                state[name] = torch.randn(
                    batch, shape[1], CONTEXT, shape[3], device="cuda", dtype=torch.bfloat16
                )
        state["length"].fill_(CONTEXT)
    elif narrow:
        for name in state:
            if name.endswith(".wkv"):
                state[name] = state[name].bfloat16()
    return state


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("kind", ["rwkv7", "rwkv7_bf16_state", "transformer"])
@torch.inference_mode()
def test_share_of_the_bandwidth_limit(kind, batch, figures):
    model = large(Transformer if kind == "transformer" else RWKV7)
    model.accelerate("graph")
    state = state_of(model, batch, kind == "rwkv7_bf16_state")
    milliseconds, needed = measure(model, batch, state)
    bandwidth = copy_bandwidth()
    figures["copy_bytes_per_second"] = bandwidth
    figures[f"decode_{kind}_{batch}"] = {
        "ms": milliseconds,
        "tokens_per_second": 1e3 * batch / milliseconds,
        "bytes": needed,
        "share_of_limit": 1e3 * needed / bandwidth / milliseconds,
        "must": MUST[batch],
        "context": CONTEXT if kind == "transformer" else "any",
    }
    assert milliseconds > 0


@torch.inference_mode()
def test_graph_against_plain_steps_and_late_against_early(figures):
    model = large(RWKV7)
    x = torch.randn(1, 1, model.width, device="cuda", dtype=torch.bfloat16)
    state = model.init_state(1)
    plain = timed(lambda: model.step_(x, state), 10, rounds=3)
    model.accelerate("graph")
    state = model.init_state(1)
    early = timed(lambda: model.step_(x, state), 50)
    for _ in range(8000):
        model.step_(x, state)
    late = timed(lambda: model.step_(x, state), 50)
    figures["decode_graph_over_plain"] = plain / early
    figures["decode_step_8000_over_10"] = early / late
    assert plain > early


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@torch.inference_mode()
def test_which_form_is_faster(batch, figures, monkeypatch):
    """Five kernels a block or eleven: ``kernels.wkv7.step.SMALL`` should lie between."""
    model = large(RWKV7)
    for name, most in (("few", batch), ("many", 0)):
        monkeypatch.setattr(rwkv7_graph, "SMALL", most)
        model.accelerate("graph")
        milliseconds, _ = measure(model, batch, model.init_state(batch))
        figures[f"decode_form_{name}_{batch}_ms"] = milliseconds
