"""Mixers with matrices for memory against code of other people, weights far from their start.

Each test needs the package it names (extra: oracles) and is skipped without it. fla is hidden while
transformers is imported, which would call its Triton kernels on a CPU; of fla only files that need
nothing else of it are read.
"""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracle_parts import LENGTH, WIDTH, built, inputs, like, run, worst
from torch.nn import functional as F

from wishbone.plugins.delta import gdn
from wishbone.plugins.delta.deltanet import DeltaNet
from wishbone.plugins.delta.gdn import GatedDeltaNet
from wishbone.plugins.delta.kda import KimiDeltaAttention
from wishbone.plugins.gla.mixer import GatedLinearAttention
from wishbone.plugins.linear_attention.mixer import LinearAttention
from wishbone.plugins.mamba2.mixer import Mamba2
from wishbone.plugins.retnet import mixer as retnet
from wishbone.plugins.unimatrix.mixer import UniMatrix
from wishbone.plugins.xlstm.mlstm import MLSTM

HIDDEN = ("fla", "mamba_ssm", "causal_conv1d")


def naive(name):
    """A module fla.ops.NAME.naive, read as a file of its own."""
    pytest.importorskip("einops", reason="needs einops")
    spec = importlib.util.find_spec("fla")
    if spec is None:
        pytest.skip("needs fla-core")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / "ops" / name / "naive.py"
        if path.is_file():
            spec = importlib.util.spec_from_file_location(f"naive_{name}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    pytest.skip(f"needs a fla-core with ops/{name}/naive.py")


def modeling(name, monkeypatch):
    """transformers and its module of a model, which sees none of ``HIDDEN``."""
    for package in HIDDEN:
        monkeypatch.setitem(sys.modules, package, None)
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    return transformers, pytest.importorskip(f"transformers.models.{name}.modeling_{name}")


def heads(x, count):
    return x.unflatten(-1, (count, -1))


@torch.no_grad()
def test_linear_attention_is_that_of_fla():
    form = naive("linear_attn").naive_recurrent_linear_attn
    mixer, x = built(LinearAttention), inputs()
    q, k, v = (heads(z, 3) for z in mixer.qkv(x).chunk(3, -1))
    expected, _ = form(F.elu(q) + 1, F.elu(k) + 1, v, normalize=True)
    assert worst(run(mixer, x), mixer.output(expected.flatten(2))) < 1e-5
    expected, _ = form(F.elu(q) + 1, F.elu(k) + 1, v)
    assert worst(run(mixer, x), mixer.output(expected.flatten(2))) > 0.5


@torch.no_grad()
def test_retention_is_that_of_fla(monkeypatch):
    mixer, x = built(retnet.Retention), inputs()
    form = naive("retention").naive_retention
    _, llama = modeling("llama", monkeypatch)
    q, k, v = (heads(z, 3).transpose(1, 2) for z in mixer.qkv(x).split(mixer.sizes, -1))
    turned = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    angles = torch.cat([turned, turned], -1)[None]
    q, k = llama.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    y = form(q, k, v).transpose(1, 2)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    expected = mixer.output(y.flatten(2) * F.silu(mixer.gate(x)))
    assert worst(run(mixer, x), expected) < 5e-5
    monkeypatch.setattr(retnet, "BASE", 9000.0)
    assert worst(run(mixer, x), expected) > 1e-2


@torch.no_grad()
def test_gla_is_that_of_fla():
    form = naive("gla").naive_recurrent_gla
    settings = GatedLinearAttention.Config(head_size=16)
    mixer, x = built(GatedLinearAttention, settings, spread=0.5), inputs()
    q, k, v = (heads(z, 3) for z in mixer.qkv(x).split(mixer.sizes, -1))
    g = heads(F.logsigmoid(mixer.decay_up(mixer.decay_down(x))) / 16, 3)
    y, _ = form(q, k, v, g)
    y = F.rms_norm(y, (16,), mixer.norm.weight, 1e-5).flatten(2) * F.silu(mixer.gate(x))
    assert worst(run(mixer, x), mixer.output(y)) < 5e-5
    y, _ = form(q, k, v, g * 16)
    y = F.rms_norm(y, (16,), mixer.norm.weight, 1e-5).flatten(2) * F.silu(mixer.gate(x))
    assert worst(run(mixer, x), mixer.output(y)) > 1e-2


@torch.no_grad()
def test_deltanet_is_that_of_fla():
    form = naive("delta_rule").delta_rule_recurrence
    mixer, x = built(DeltaNet), inputs()
    q, k, v = mixer.qkv(x).split(mixer.sizes, -1)
    joined = F.pad(torch.cat([q, k, v], -1).mT, (3, 0))
    parts = F.silu(F.conv1d(joined, mixer.conv.weight[:, None], groups=144)).mT.chunk(3, -1)
    q, k, v = (heads(z, 4).transpose(1, 2) for z in parts)
    q, k = (z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt() for z in (q, k))
    y, _ = form(q, k, v, torch.sigmoid(mixer.rate(x)).transpose(1, 2))
    y = F.rms_norm(y.transpose(1, 2), (12,), mixer.norm.weight, 1e-5).flatten(2)
    assert worst(run(mixer, x), mixer.output(y)) < 5e-5


@torch.no_grad()
def test_gated_deltanet_is_that_of_qwen3_next(monkeypatch):
    transformers, module = modeling("qwen3_next", monkeypatch)
    settings = GatedDeltaNet.Config(head_size=24, value_heads=4, value_size=20)
    mixer, x = built(GatedDeltaNet, settings, spread=0.2), inputs()
    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=24, linear_value_head_dim=20, rms_norm_eps=1e-6,
        num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    oracle = module.Qwen3NextGatedDeltaNet(config, 0).eval()
    q, k, v = mixer.qkv.weight.split(mixer.sizes)
    parts = [z.view(2, -1, WIDTH) for z in (q, k, v, mixer.gate.weight)]
    oracle.in_proj_qkvz.weight = like(torch.cat(parts, 1).flatten(0, 1))
    rates = [z.view(2, -1, WIDTH) for z in (mixer.rate.weight, mixer.step_size.weight)]
    oracle.in_proj_ba.weight = like(torch.cat(rates, 1).flatten(0, 1))
    oracle.conv1d.weight = like(mixer.conv.weight[:, None])
    oracle.A_log, oracle.dt_bias = like(mixer.a_log), like(mixer.dt_bias)
    oracle.norm.weight, oracle.out_proj.weight = mixer.norm.weight, mixer.output.weight
    expected = oracle(x)
    assert worst(run(mixer, x), expected) < 1e-4
    # negative controls: a correction before the decay, and a gate that is left out
    monkeypatch.setattr(gdn.GatedDeltaNet, "gated", lambda self, y, x: y)
    assert worst(run(mixer, x), expected) > 1e-2
    monkeypatch.undo()
    monkeypatch.setattr(torch, "exp", torch.ones_like)
    assert worst(run(mixer, x), expected) > 1e-2


@torch.no_grad()
def test_kda_is_that_of_kimi_linear(monkeypatch):
    transformers, module = modeling("kimi_linear", monkeypatch)
    mixer, x = built(KimiDeltaAttention, spread=0.2), inputs()
    config = transformers.KimiLinearConfig(
        hidden_size=WIDTH, linear_num_heads=4, linear_head_dim=12, rms_norm_eps=1e-5,
        num_hidden_layers=1, layer_types=["linear_attention"], vocab_size=32, pad_token_id=0,
    )  # fmt: skip
    oracle = module.KimiLinearDeltaAttention(config, 0).eval()
    parts = mixer.qkv.weight.chunk(3)
    for theirs, mine in zip((oracle.q_proj, oracle.k_proj, oracle.v_proj), parts, strict=True):
        theirs.weight = like(mine)
    oracle.conv1d.weight = like(mixer.conv.weight[:, None])
    forget = oracle.forget_gate
    forget.f_a_proj.weight, forget.f_b_proj.weight = mixer.step_down.weight, mixer.step_up.weight
    forget.dt_bias, forget.A_log = like(mixer.dt_bias), like(mixer.a_log.view(1, 1, -1, 1))
    oracle.b_proj.weight = mixer.rate.weight
    oracle.g_a_proj.weight, oracle.g_b_proj.weight = mixer.gate_down.weight, mixer.gate_up.weight
    oracle.o_norm.weight, oracle.o_proj.weight = mixer.norm.weight, mixer.output.weight
    expected = oracle(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert worst(run(mixer, x), expected) < 1e-4
    mixer.eps = 1e-2
    assert worst(run(mixer, x), expected) > 1e-2


@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_mamba2_is_that_of_transformers(groups, monkeypatch):
    transformers, module = modeling("mamba2", monkeypatch)
    settings = Mamba2.Config(head_size=16, state=8, groups=groups)
    mixer, x = built(Mamba2, settings), inputs()
    config = transformers.Mamba2Config(
        hidden_size=WIDTH, num_heads=6, head_dim=16, state_size=8, n_groups=groups, expand=2,
        num_hidden_layers=1, vocab_size=8, chunk_size=32, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    oracle = module.Mamba2Mixer(config, 0).eval()
    oracle.in_proj.weight, oracle.out_proj.weight = mixer.in_proj.weight, mixer.out_proj.weight
    oracle.conv1d.weight, oracle.conv1d.bias = like(mixer.conv.weight[:, None]), mixer.conv.bias
    oracle.A_log, oracle.D = like(mixer.a_log), like(mixer.skip)
    oracle.dt_bias = like(mixer.dt_bias)
    oracle.norm.weight = mixer.norm
    assert worst(run(mixer, x), oracle(x)) < 1e-4
    mixer.skip += 0.1
    assert worst(run(mixer, x), oracle(x)) > 1e-2


@torch.no_grad()
def test_mlstm_is_that_of_xlstm():
    package = pytest.importorskip(
        "xlstm.xlstm_large.model", reason="needs xlstm and mlstm_kernels", exc_type=ImportError
    )
    mixer, x = built(MLSTM), inputs(128)  # two of its chunks
    config = package.mLSTMLayerConfig(
        embedding_dim=WIDTH, num_heads=3, use_bias=False, norm_eps=1e-6, qk_dim_factor=0.5,
        v_dim_factor=1.0, gate_soft_cap=15.0, weight_mode="single",
        mlstm_backend=package.mLSTMBackendConfig(
            chunkwise_kernel="chunkwise--native_autograd",
            sequence_kernel="native_sequence__native", step_kernel="native",
            mode="train", eps=1e-6,
        ),
    )  # fmt: skip
    oracle = package.mLSTMLayer(config).eval()
    q, k, v = mixer.qkv.weight.split(mixer.sizes)
    oracle.q.weight, oracle.k.weight, oracle.v.weight = like(q), like(k), like(v)
    oracle.ogate_preact.weight = mixer.output_gate.weight
    for layer, rows in ((oracle.igate_preact, slice(3)), (oracle.fgate_preact, slice(3, 6))):
        layer.weight, layer.bias = like(mixer.gates.weight[rows]), like(mixer.gates.bias[rows])
    oracle.multihead_norm.weight = like(mixer.norm)
    oracle.out_proj.weight = mixer.output.weight
    expected, _ = oracle(x)
    assert worst(run(mixer, x), expected) < 1e-4
    mixer.config.cap = 5.0
    assert worst(run(mixer, x), expected) > 1e-2


@torch.no_grad()
def test_unimatrix_core_is_its_loop():
    """The reference code's loop, written out: rows of S are those of k, and q meets those of v."""
    mixer, x = built(UniMatrix), inputs()
    q, k, v = (heads(z, 3) for z in torch.tanh(mixer.qkv(x)).chunk(3, -1))
    keep = torch.sigmoid(mixer.keep(x))[..., None, None]
    state, outputs = torch.zeros(2, 3, 16, 16), []
    for t in range(LENGTH):
        written = k[:, t, :, :, None] * v[:, t, :, None]
        state = keep[:, t] * state + (1 - keep[:, t]) * written
        outputs.append((state @ q[:, t, :, :, None])[..., 0])
    y = mixer.output(torch.stack(outputs, 1).flatten(2)) * torch.sigmoid(mixer.gate(x))
    assert worst(run(mixer, x), y) < 1e-5


@pytest.mark.parametrize("version", ["5", "6"])
def test_rwkv5_and_rwkv6_are_those_of_the_package_rwkv(version, tmp_path):
    """In a process of its own: the package reads its version from the environment at import."""
    pytest.importorskip("rwkv", reason="needs rwkv")
    script = Path(__file__).with_name("rwkv56_oracle.py")
    done = subprocess.run(
        [sys.executable, str(script), version, str(tmp_path / "model.pth")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    error, state_error, without_bonus = (float(x) for x in done.stdout.split()[-3:])
    assert error < 2e-5 and state_error < 5e-5
    assert without_bonus > 1e-2 and math.isfinite(without_bonus)
