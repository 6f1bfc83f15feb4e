"""PiSSA beside an untouched base: what begins equal, what stays equal, and what each row takes."""

import copy
import json

import pytest
import torch

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError, UnknownName
from wishbone.core.model.wrapper import build_base
from wishbone.core.system.loading import load_tensors
from wishbone.core.testing import check_class
from wishbone.core.testing.common import trained_looking_
from wishbone.plugins.pissa.backbone import MODE, SPEECH, TEXT, PiSSA
from wishbone.plugins.pissa.targets import find_targets, merged_state

RWKV7 = {"name": "rwkv7", "width": 32, "layers": 2, "head_size": 16, "ffn_width": 80}
TRANSFORMER = {
    "name": "transformer", "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_width": 48,
}  # fmt: skip
BASES = {"rwkv7": RWKV7, "transformer": TRANSFORMER}


def base_of(values, dtype=torch.float64):
    """A plain backbone that looks trained."""
    torch.manual_seed(0)
    return trained_looking_(build_base(values), 1).to(dtype).eval()


def around(base, values, train=True, **fields):
    """PiSSA begun on ``base``'s weights and, by default, changed as if it had been trained."""
    pissa = PiSSA(PiSSA.Config(base=values, **{"rank": 4, **fields}))
    load_tensors(pissa, base.state_dict())
    pissa.to(next(base.parameters()).dtype)
    if train:
        change(pissa)
    return pissa.eval()


@torch.no_grad()
def change(pissa):
    """What a training does, and no less."""
    for number, layer in enumerate(pissa.adapted.values()):
        torch.manual_seed(number)
        layer.A += 0.3 * torch.randn_like(layer.A)
        layer.B += 0.3 * torch.randn_like(layer.B)
    for tensor in pissa.own.values():
        tensor += 0.1 * torch.randn_like(tensor)


def x_of(batch=3, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 32, generator=generator, dtype=torch.float64)


def in_modes(pissa, *modes):
    return {**pissa.init_state(len(modes), dtype=torch.float64), MODE: torch.tensor(modes)}


@pytest.mark.parametrize("name", BASES)
def test_what_is_computed_at_first_is_what_the_base_computes(name):
    base = base_of(BASES[name])
    pissa = around(base, BASES[name], train=False)
    y, _ = base(x_of())
    output, state = pissa(x_of())
    assert (state[MODE] == SPEECH).all() and (output - y).abs().max() < 1e-12
    float32 = around(base.float(), BASES[name], train=False)
    y, _ = base.float()(x_of().float())
    assert (float32(x_of().float())[0] - y).abs().max() < 2e-5


def test_the_first_factors_are_principal_and_what_is_left_is_the_rest():
    pissa = around(base_of(RWKV7), RWKV7, train=False, rank=5)
    for layer in pissa.adapted.values():
        values = torch.linalg.svdvals(layer.weight)
        residual = torch.linalg.matrix_norm(layer.weight - layer.B @ layer.A, ord=2)
        assert residual.item() == pytest.approx(values[5].item(), rel=1e-5)
        assert torch.allclose(layer.B.mT @ layer.B, layer.A @ layer.A.mT, atol=1e-5)
    quick = around(base_of(RWKV7), RWKV7, train=False, rank=5, iterations=8)
    layer = next(iter(quick.adapted.values()))
    residual = torch.linalg.matrix_norm(layer.weight - layer.B @ layer.A, ord=2)
    assert residual < 1.1 * torch.linalg.svdvals(layer.weight)[5]


@pytest.mark.parametrize("name", BASES)
def test_only_the_factors_are_trained_and_as_many_as_the_formula_says(name):
    pissa = around(base_of(BASES[name]), BASES[name], train=False)
    names = {n for n, p in pissa.named_parameters() if p.requires_grad}
    assert names and all(n.endswith((".A", ".B")) for n in names)
    trained = sum(p.numel() for p in pissa.parameters() if p.requires_grad)
    assert trained == sum(4 * sum(m.weight.shape) for m in pissa.adapted.values())
    y, _ = pissa.train()(x_of())
    y.square().sum().backward()
    assert all((p.grad is not None and p.grad.any()) == p.requires_grad
               for p in pissa.parameters())  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_text_is_the_base_to_the_last_bit_whatever_was_trained(name):
    base = base_of(BASES[name], torch.float32)
    pissa, x = around(base, BASES[name]), x_of().float()
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 5:] = False
    for padding in (None, mask):
        y, after = base(x, mask=padding)
        output, state = pissa(x, pissa.init_state(3, mode="text"), mask=padding)
        assert torch.equal(output, y) and (state[MODE] == TEXT).all()
        assert all(torch.equal(state[name], after[name]) for name in after)
    with torch.no_grad():
        for step in range(3):
            expected = base.step_(x[:, step : step + 1], after)
            assert torch.equal(pissa.step_(x[:, step : step + 1], state), expected)
    assert MODE in state
    # and speech is another function, or nothing above would mean anything
    assert (pissa(x)[0] - y).abs().max() > 0.01


@pytest.mark.parametrize("name", BASES)
def test_rows_of_both_modes_share_a_batch(name):
    base = base_of(BASES[name], torch.float32)
    pissa, x = around(base, BASES[name]), x_of(4).float()
    modes = (TEXT, SPEECH, SPEECH, TEXT)
    mixed, state = pissa(x, {**pissa.init_state(4), MODE: torch.tensor(modes)})
    plain, _ = base(x)
    speech, after = pissa(x, pissa.init_state(4, mode="speech"))
    for row, mode in enumerate(modes):
        if mode == TEXT:
            assert torch.equal(mixed[row], plain[row])
        else:
            assert torch.allclose(mixed[row], speech[row], atol=1e-5)
            assert not torch.allclose(mixed[row], plain[row], atol=1e-2)
    # rows alone, and what was remembered, go on by themselves
    order = torch.tensor([2, 0])
    picked = {n: t.index_select(0, order) for n, t in state.items()}
    more = x_of(2, 4, seed=3).float()
    y, _ = pissa(more, picked)
    single = {n: t[2:3] for n, t in after.items()}
    assert torch.allclose(y[0], pissa(more[:1], single)[0][0], atol=1e-5)
    with torch.no_grad():
        stepped = {n: t.clone() for n, t in picked.items()}
        first = pissa.step_(more[:, :1], stepped)
    assert torch.allclose(first, y[:, :1], atol=1e-5)


def test_a_row_that_took_the_wrong_mode_would_be_seen():
    base = base_of(RWKV7, torch.float32)
    pissa, x = around(base, RWKV7), x_of().float()
    pissa._routed = lambda one, mode: pytest.MonkeyPatch.context()
    assert not torch.equal(pissa(x, pissa.init_state(3, mode="text"))[0], base(x)[0])


@pytest.mark.parametrize("name", BASES)
def test_merged_equals_unmerged(name):
    base = base_of(BASES[name])
    pissa, x = around(base, BASES[name]), x_of()
    y, _ = pissa(x)
    merged = pissa.copied(merge=True)
    assert (merged(x)[0] - y).abs().max() < 1e-10
    assert type(merged) is type(base) and torch.equal(pissa.copied(merge=False)(x)[0], base(x)[0])
    names = merged_state({f"backbone.{n}": t for n, t in pissa.state_dict().items()})
    again = build_base(BASES[name]).double().eval()
    load_tensors(again, {n.removeprefix("backbone.base."): t for n, t in names.items()})
    assert (again(x)[0] - y).abs().max() < 1e-10
    # the difference has twice the rank and no more
    layer = next(iter(pissa.adapted.values()))
    values = torch.linalg.svdvals(layer.difference())
    assert values[7] > 1e-6 and values[8:].max() < 1e-10


def test_unadapted_weights_are_in_memory_once():
    pissa = around(base_of(RWKV7), RWKV7)
    text, speech = pissa.copied(merge=False), pissa.copied(merge=True)
    for copied, shared in ((text, True), (speech, False)):
        assert copied.blocks[0].time_mix.key.weight is pissa.base.blocks[0].time_mix.key.weight
        ours, original = (m.blocks[0].channel_mix.key.weight for m in (copied, pissa.base))
        assert (ours.data_ptr() == original.data_ptr()) == shared
    assert pissa.plain().base is pissa


def test_an_engine_serves_each_mode_its_own_weights():
    base = base_of(RWKV7, torch.float32)
    pissa, x = around(base, RWKV7), x_of().float()
    if (used := pissa.accelerate("auto")) == "eager":
        pytest.skip("needs a C++ compiler: install g++ or clang++")
    assert base.accelerate(used) == used
    eager = copy.deepcopy(pissa)
    assert eager._fast is None
    with torch.inference_mode():
        for mode in ("text", "speech"):
            state, other = pissa.init_state(3, mode=mode), eager.init_state(3, mode=mode)
            plain = base.init_state(3)
            for step in range(3):
                position = x[:, step : step + 1]
                y = pissa.step_(position, state)
                assert torch.allclose(y, eager.step_(position, other), atol=1e-5)
                if mode == "text":
                    assert torch.equal(y, base.step_(position, plain))
        both = in_modes(pissa, TEXT, SPEECH, TEXT)
        both = {n: t.float() if t.is_floating_point() else t for n, t in both.items()}
        y = pissa.step_(x[:, :1], both)
        assert torch.allclose(y[1], eager.step_(x[:, :1], eager.init_state(3))[1], atol=1e-5)
    assert pissa.accelerate("eager") == "eager" and pissa._fast is None


def test_the_contract_holds_for_another_base_and_other_targets():
    config = PiSSA.Config(base=TRANSFORMER, rank=3, targets=["attention.qkv", "ffn.down"])
    results = check_class("backbone", PiSSA, config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_a_request_chooses_its_mode_by_name():
    pissa = around(base_of(RWKV7), RWKV7)
    state = pissa.init_state(2)
    assert (pissa.choose_adapter(state, "base")[MODE] == TEXT).all() and (state[MODE] == 0).all()
    with pytest.raises(UnknownName, match="no mode 'singing'"):
        pissa.choose_adapter(state, "singing")


def test_what_cannot_be_adapted_is_refused():
    base = base_of(RWKV7)
    base.caps = Caps()
    with pytest.raises(CapabilityError, match="PiSSA needs 'peft_targets', and RWKV7 does not"):
        find_targets(base, [])
    with pytest.raises(ConfigError, match="rank of 33 is more"):
        PiSSA(PiSSA.Config(base=RWKV7, rank=33))
    with pytest.raises(ConfigError, match="ends in gate"):
        PiSSA(PiSSA.Config(base=RWKV7, targets=["gate"]))
    with pytest.raises(ConfigError, match="no mode 'sing'"):
        PiSSA(PiSSA.Config(base=RWKV7, mode="sing"))
    with pytest.raises(ConfigError, match="'rank' is 0"):
        PiSSA(PiSSA.Config(base=RWKV7, rank=0))
    with pytest.raises(CheckpointError, match="missing"):
        around(base_of(TRANSFORMER), RWKV7)
    with pytest.raises(CheckpointError, match="another shape"):
        around(base_of(RWKV7 | {"ffn_width": 96}), RWKV7)


def test_a_lora_of_peft_comes_in_and_what_was_learned_goes_out(tmp_path):
    from wishbone.plugins.peft.files import write_adapter

    base = base_of(RWKV7)
    pissa, x = around(base, RWKV7), x_of()
    adapter = write_adapter(pissa.learned(), tmp_path / "lora")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (8, 8, "LORA")
    again = around(base, RWKV7, train=False, rank=8, start={"weights": str(adapter)})
    assert (again(x)[0] - pissa(x)[0]).abs().max() < 1e-5
    with pytest.raises(CheckpointError, match="rank 8, this configuration 4"):
        around(base, RWKV7, start={"weights": str(adapter)})


OWN = {"own": ["*"], "targets": ["output"]}
"""Everything else that lies beside the adapted layers is speech's own."""


@pytest.mark.parametrize("name", BASES)
def test_tensors_of_speechs_own_change_speech_and_no_text(name):
    base = base_of(BASES[name], torch.float32)
    untrained, x = around(base, BASES[name], train=False, **OWN), x_of(4).float()
    assert (untrained(x)[0] - base(x)[0]).abs().max() < 2e-5
    pissa = around(base, BASES[name], **OWN)
    plain, expected = base(x)
    text, after = pissa(x, pissa.init_state(4, mode="text"))
    assert torch.equal(text, plain) and all(torch.equal(after[n], expected[n]) for n in expected)
    speech, _ = pissa(x)
    assert (speech - plain).abs().max() > 0.01
    merged = pissa.copied(merge=True)
    assert torch.allclose(merged(x)[0], speech, atol=1e-5)
    names = merged_state({f"backbone.{n}": t for n, t in pissa.state_dict().items()})
    again = build_base(BASES[name]).eval()
    load_tensors(again, {n.removeprefix("backbone.base."): t for n, t in names.items()})
    assert torch.allclose(again(x)[0], speech, atol=1e-5)
    modes = (TEXT, SPEECH, SPEECH, TEXT)
    mixed, state = pissa(x, {**pissa.init_state(4), MODE: torch.tensor(modes)})
    for row, mode in enumerate(modes):
        assert torch.equal(mixed[row], (plain if mode == TEXT else speech)[row])
    with torch.no_grad():
        stepped = {n: t.clone() for n, t in state.items()}
        y = pissa.step_(x[:, :1], stepped)
    assert torch.allclose(y, pissa(x[:, :1], state)[0], atol=1e-5) and MODE in stepped


def test_tensors_of_speechs_own_are_trained_counted_and_kept_apart():
    base = base_of(RWKV7)
    pissa = around(base, RWKV7, train=False, **OWN)
    y, _ = pissa.train()(x_of())
    y.square().sum().backward()
    assert all(p.grad is not None for p in pissa.own.values())
    assert all(
        p.grad is None for n, p in pissa.base.named_parameters() if n[-2:] not in (".A", ".B")
    )
    assert sum(p.numel() for p in pissa.parameters()) == PiSSA.count_parameters(pissa.config)
    groups = pissa.parameter_groups(1e-3, 0.1)
    grouped = {id(p) for group in groups for p in group["params"]}
    assert grouped == {id(p) for p in pissa.parameters() if p.requires_grad}
    with pytest.raises(CapabilityError, match="cannot be shared out"):
        pissa.shardable()
    with pytest.raises(CapabilityError, match="a LoRA cannot hold"):
        pissa.learned()
    with pytest.raises(ConfigError, match="ends in gate"):
        PiSSA(PiSSA.Config(base=RWKV7, own=["gate"]))
