"""Mixers with vectors for memory against code of other people, weights far from their start.

Each test needs the package it names (extra: oracles) and is skipped without it.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_parts import LENGTH, WIDTH, built, inputs, like, run, worst
from torch import nn
from torch.nn import functional as F

from wishbone.core.contract.stack.mixer import Call
from wishbone.plugins.deep_embed.ffn import OF_TABLE, DeepEmbed
from wishbone.plugins.experts.ffn import Experts
from wishbone.plugins.gated_cells.mixer import GRU, LSTM
from wishbone.plugins.hyena.filter import LongFilter
from wishbone.plugins.hyena.mixer import Hyena
from wishbone.plugins.mamba1.mixer import Mamba
from wishbone.plugins.means.aaren import Aaren
from wishbone.plugins.means.aft import AFT
from wishbone.plugins.mingru.mixer import MinGRU, MinLSTM
from wishbone.plugins.pattention.ffn import Pattention, grown
from wishbone.plugins.rosa.match import next_match
from wishbone.plugins.s4d.mixer import S4D
from wishbone.plugins.window.mixer import Window


@pytest.mark.parametrize("key, ours", [("minGRU", MinGRU), ("minLSTM", MinLSTM)])
@torch.no_grad()
def test_min_rnn_is_that_of_min_gru_pytorch(key, ours):
    package = pytest.importorskip(f"minGRU_pytorch.{key}", reason="needs minGRU-pytorch")
    mixer, x = built(ours, ours.Config()), inputs()
    oracle = getattr(package, key)(WIDTH, expansion_factor=1.5)
    first = oracle.to_hidden_and_gate if key == "minGRU" else oracle.to_hidden_and_f_i_gate
    first.weight, oracle.to_out.weight = mixer.inputs.weight, mixer.output.weight
    # its scan of logarithms is the less exact of the two
    assert worst(run(mixer, x), oracle(x)) < 3e-5
    assert worst(run(mixer.double(), x.double()), oracle.double()(x.double())) < 1e-12


@pytest.mark.parametrize("ours, cell", [(LSTM, nn.LSTMCell), (GRU, nn.GRUCell)])
@torch.no_grad()
def test_gated_cells_are_torchs_one_by_one(ours, cell):
    mixer, x = built(ours, ours.Config()), inputs()
    oracle = cell(WIDTH, WIDTH)
    oracle.load_state_dict({k.removesuffix("_l0"): v for k, v in mixer.cells.state_dict().items()})
    state, outputs = None, []
    for position in x.unbind(1):
        state = oracle(position, state)
        outputs.append(state[0] if ours is LSTM else state)
    assert worst(run(mixer, x), mixer.output(torch.stack(outputs, 1))) < 5e-6


@torch.no_grad()
def test_aft_simple_is_that_of_aft_pytorch():
    """Which is not causal, so every prefix is a call of its own, and its last position counts."""
    package = pytest.importorskip("aft_pytorch", reason="needs aft-pytorch")
    mixer, x = built(AFT, AFT.Config()), inputs()
    oracle = package.AFTFull(LENGTH, WIDTH, WIDTH)
    pairs = (oracle.to_q, mixer.query), (oracle.to_k, mixer.key), (oracle.to_v, mixer.value)
    for theirs, mine in (*pairs, (oracle.project, mixer.output)):
        theirs.weight, theirs.bias = mine.weight, like(torch.zeros(WIDTH))
    oracle.wbias.zero_()
    expected = torch.stack([oracle(x[:, :t])[:, -1] for t in range(1, LENGTH + 1)], 1)
    assert worst(run(mixer, x), expected) < 5e-6


@torch.no_grad()
def test_aaren_is_attention_with_one_query():
    mixer, x = built(Aaren, Aaren.Config()), inputs()
    heads = (mixer.heads, mixer.size)
    keys, values = (f(x).unflatten(-1, heads).transpose(1, 2) for f in (mixer.key, mixer.value))
    queries = mixer.query[None, :, None].expand(len(x), -1, LENGTH, -1)
    y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    assert worst(run(mixer, x), mixer.output(y.transpose(1, 2).flatten(2))) < 5e-6


def mamba_oracle(mixer, config):
    modeling = pytest.importorskip(
        "transformers.models.mamba.modeling_mamba", reason="needs transformers"
    )
    oracle = modeling.MambaMixer(config, 0)
    oracle.in_proj.weight, oracle.x_proj.weight = mixer.in_proj.weight, mixer.x_proj.weight
    oracle.conv1d.weight = like(mixer.convolution[:, None])
    oracle.conv1d.bias, oracle.D = mixer.convolution_bias, mixer.skip
    oracle.dt_proj.load_state_dict(mixer.dt_proj.state_dict())
    oracle.A_log, oracle.out_proj.weight = mixer.a_log, mixer.out_proj.weight
    return oracle.eval()


@torch.no_grad()
def test_mamba_is_that_of_transformers():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    mixer, x = built(Mamba, Mamba.Config(), spread=0.1), inputs()
    config = transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=1, vocab_size=8)
    oracle = mamba_oracle(mixer, config)
    assert worst(run(mixer, x), oracle(x)) < 5e-6
    mixer.skip.zero_()  # negative control: shared with the oracle, so it must be changed apart
    oracle.D = like(torch.ones_like(mixer.skip))
    assert worst(run(mixer, x), oracle(x)) > 1e-2


@torch.no_grad()
def test_window_is_mistrals_attention():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    modeling = pytest.importorskip("transformers.models.mistral.modeling_mistral")
    settings = Window.Config(window=40, heads=4, kv_heads=2)
    mixer, x = built(Window, settings, spread=0.2), inputs()
    config = transformers.MistralConfig(
        hidden_size=WIDTH, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        sliding_window=40, rope_theta=10000.0, attn_implementation="eager",
    )  # fmt: skip
    oracle = modeling.MistralAttention(config, 0).eval()
    parts = mixer.qkv.weight.split((48, 24, 24))
    layers = oracle.q_proj, oracle.k_proj, oracle.v_proj
    for theirs, mine in zip(layers, parts, strict=True):
        theirs.weight = like(mine)
    oracle.o_proj.weight = mixer.output.weight
    at = torch.arange(LENGTH)
    lag = at[:, None] - at
    mask = torch.where((lag >= 0) & (lag < 40), 0.0, float("-inf")).expand(2, 1, -1, -1)
    angles = modeling.MistralRotaryEmbedding(config)(x, at[None])
    expected = oracle(x, angles, mask)[0]
    assert worst(run(mixer, x), expected) < 2e-5
    one_more = torch.where((lag >= 0) & (lag <= 40), 0.0, float("-inf")).expand(2, 1, -1, -1)
    assert worst(run(mixer, x), oracle(x, angles, one_more)[0]) > 1e-4


@torch.no_grad()
def test_s4d_is_its_kernel_written_out():
    """Equations of state-spaces/s4, models/s4/s4d.py, in numpy: a Vandermonde sum, then FFT."""
    mixer, x = built(S4D, S4D.Config(), spread=0.1), inputs()
    values = {name: p.double().numpy() for name, p in mixer.named_parameters()}
    dt, c = np.exp(values["dt_log"]), values["c"][..., 0] + 1j * values["c"][..., 1]
    a = -np.exp(values["a_log"]) + 1j * values["frequency"]
    scaled = a * dt[:, None]
    powers = np.exp(scaled[..., None] * np.arange(LENGTH))
    kernel = 2 * np.einsum("hn,hnl->hl", c * (np.exp(scaled) - 1) / a, powers).real
    u = x.double().numpy().transpose(0, 2, 1)
    size = 2 * LENGTH
    y = np.fft.irfft(np.fft.rfft(kernel, size) * np.fft.rfft(u, size), size)[..., :LENGTH]
    y = torch.from_numpy(y + u * values["skip"][:, None]).transpose(1, 2)
    expected = F.glu(mixer.double().output(F.gelu(y)), -1)
    assert worst(run(mixer.float(), x), expected) < 2e-5


@torch.no_grad()
def test_hyena_is_its_convolution_written_out():
    """Equations of HazyResearch/safari, standalone_hyena.py, in numpy: no FFT, sum by sum."""
    mixer, x = built(Hyena, Hyena.Config(longest=LENGTH), spread=0.1), inputs()
    h = safari_taps(mixer.filter, LENGTH)
    u = mixer.double().in_proj(x.double())
    short = F.conv1d(
        u.mT, mixer.convolution[:, None], mixer.convolution_bias, padding=2, groups=144
    )
    q, k, v = short[..., :LENGTH].mT.numpy().transpose(2, 0, 1).reshape(3, WIDTH, 2, LENGTH)
    product = k * v
    y = np.stack(
        [(h[t::-1] * product[..., : t + 1].transpose(1, 2, 0)).sum(1) for t in range(LENGTH)]
    )
    y = y.transpose(2, 1, 0) + mixer.skip.numpy()[:, None, None] * product
    expected = mixer.out_proj(torch.from_numpy((q * y).transpose(1, 2, 0)))
    assert worst(run(mixer.float(), x), expected) < 1e-5


def safari_taps(network: LongFilter, length):
    """Taps [L, D] by safari's PositionalEmbedding, Sin and ExponentialModulation."""
    time = np.linspace(0, 1, length)[:, None]
    w = 2 * math.pi * np.linspace(0, length - 1, length)[:, None] / length
    z = np.exp(-1j * np.linspace(1e-4, network.bands - 1, network.bands) * w)
    h = np.concatenate([time, z.real, z.imag], -1)
    weights = {name: p.double().numpy() for name, p in network.named_parameters()}
    for i in range(3):
        h = h @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
        h = np.sin(weights["frequency"] * h)
    h = h @ weights["last.weight"].T
    deltas = np.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, h.shape[1])
    return h * np.exp(-time * np.abs(deltas))


def rosa(q, k, v):
    """Answers [B, T, C] of bits [B, T, C], position by position; -1 for no match."""
    batch, length, channels = q.shape
    match = torch.zeros(batch, length, channels, dtype=torch.int32)
    start, answers = torch.zeros(batch, dtype=torch.int64), []
    for t in range(length):
        match, source, hit = next_match(match, q[:, t], k, start, t)
        answer = v.gather(1, source[:, None].clamp_max(length - 1))[:, 0]
        answers.append(torch.where(hit, answer, -1))
    return torch.stack(answers, 1)


def bits(*shape, seed=0):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))


def test_rosa_is_that_of_rosa_torch():
    package = pytest.importorskip("rosa", reason="needs rosa-torch")
    x = bits(4, 60, 10)
    answers, *_ = package.reference_rosa(x.transpose(1, 2).flatten(0, 1))
    assert torch.equal(rosa(x, x, x).transpose(1, 2).flatten(0, 1), answers)


def test_rosa_with_bits_of_its_own_is_the_definition():
    """q, k and v that differ, by trying every earlier place from the latest on."""
    q, k, v = (bits(2, 40, 5, seed=seed) for seed in (1, 2, 3))
    answers = rosa(q, k, v)
    for b, c in np.ndindex(2, 5):
        for t in range(40):
            best, answer = 0, -1
            for j in range(t - 1, -1, -1):
                length = 0
                while length <= j and q[b, t - length, c] == k[b, j - length, c]:
                    length += 1
                if length > best:
                    best, answer = length, int(v[b, j + 1, c])
            assert answers[b, t, c] == answer


def test_rwkv4_is_that_of_the_package_rwkv(tmp_path):
    """In a process of its own: the package reads its version from the environment at import."""
    pytest.importorskip("rwkv", reason="needs rwkv")
    script = Path(__file__).with_name("rwkv4_oracle.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model.pth")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    error, state_error = (float(x) for x in done.stdout.split()[-2:])
    assert error < 1e-5 and state_error < 5e-5


@torch.no_grad()
def test_experts_are_mixtrals():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    half, x = built(Experts, Experts.Config(experts=4, width=32), spread=0.2), inputs()
    config = transformers.MixtralConfig(
        hidden_size=WIDTH, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2
    )
    oracle = modeling.MixtralSparseMoeBlock(config).eval()
    oracle.gate.weight = half.router.weight
    oracle.experts.gate_up_proj = like(torch.stack([e.gate_up.weight for e in half.parts]))
    oracle.experts.down_proj = like(torch.stack([e.down.weight for e in half.parts]))
    call = Call()
    assert worst(half.train()(x, {}, call)[0], oracle(x)) < 5e-6
    logits = half.router(x).flatten(0, 1)
    penalty = modeling.load_balancing_loss_func((logits,), 4, 2)
    # transformers counts choices a position, so their shares add up to 2 where ours do to 1
    assert call.extra["balance"].item() == pytest.approx(0.01 * penalty.item() / 2, rel=1e-5)


@torch.no_grad()
def test_padding_is_in_no_balance():
    half, x = built(Experts, Experts.Config(experts=4, width=32)).train(), inputs()
    padded, alone = Call(torch.tensor([150, 20])), Call()
    half(x, {}, padded)
    rows = torch.cat([x[0], x[1, :20]])[None]
    half(rows, {}, alone)
    assert padded.extra["balance"].item() == pytest.approx(alone.extra["balance"].item(), rel=1e-6)


@torch.no_grad()
def test_pattention_is_token_formers_and_grows():
    part, x = built(Pattention, Pattention.Config(slots=40)).double(), inputs().double()
    scores = x @ part.keys.weight.T
    expected = F.gelu(scores / scores.norm(dim=-1, keepdim=True) * 40**0.5) @ part.values.weight.T
    y, _ = part(x, {}, Call())
    assert worst(y, expected) < 1e-13
    larger = grown(part, 60)
    assert worst(larger(x, {}, Call())[0], y) < 1e-13
    larger.tau = 60**0.5  # negative control: the square root of the new number
    assert worst(larger(x, {}, Call())[0], y) > 1e-2


def test_new_slots_learn():
    larger = grown(built(Pattention, Pattention.Config(slots=40)), 60)
    larger(inputs(), {}, Call())[0].square().sum().backward()
    assert larger.keys.weight.grad[40:].abs().min() > 0


@torch.no_grad()
def test_deep_embed_is_that_of_the_demo():
    """Equations of RWKV-LM, RWKV-v7/rwkv_v7a_demo.py (RWKV_x070_CMix_seq), position by position."""
    half, x = built(DeepEmbed, DeepEmbed.Config(rank=4, rows=64), spread=0.2), inputs(20)
    table, ids = torch.ones(2, 20, dtype=torch.int64), torch.randint(0, 60, (2, 20, 1))
    state = half.init_state(2, x.device, x.dtype)
    y, _ = half(x, state, Call(table=table, ids=ids))
    rows = (ids[..., 0] + OF_TABLE) % 64
    previous = torch.zeros(WIDTH)
    for t in range(20):
        k = x[0, t] + (previous - x[0, t]) * half.mix
        k = torch.relu(half.key.weight @ k) ** 2
        ss = (half.down.weight @ x[0, t]) @ half.table.weight[rows[0, t]].view(4, 4)
        k = k * (half.up.weight @ ss + half.up.bias)
        assert worst(y[0, t], half.value.weight @ k) < 1e-5
        previous = x[0, t]
