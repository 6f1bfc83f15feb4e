"""Several adapters on one base, one for each request, and engines that must not lose them."""

import copy

import pytest
import torch

pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")

import peft
from peft_bases import BASES, adapted, answer, moved, plain, vectors

from wishbone.core.contract.errors import CapabilityError, ConfigError, UnknownName
from wishbone.plugins import engines
from wishbone.plugins.peft.backbone import ROWS
from wishbone.plugins.peft.files import write_adapter

NAMES = ("default", "calm", "wild", "base")


def several(arm, folder, method="lora", **fields):
    """A backbone with three adapters, and one backbone for each of them and for none."""
    base, alone = plain(arm), {"base": plain(arm)}
    for seed, name in enumerate(("default", "calm", "wild"), start=1):
        rank = 4 if name == "default" else 2 + seed
        alone[name] = adapted(base, arm, seed=seed, method=method, rank=rank)
        if name != "default":
            write_adapter(alone[name].learned(), folder / name)
    adapters = {name: {"weights": str(folder / name)} for name in ("calm", "wild")}
    model = adapted(base, arm, method=method, adapters=adapters, **fields)
    model.load_state_dict(alone["default"].state_dict())
    return model, alone


@pytest.fixture(params=BASES)
def arm(request):
    return request.param


def mixed(model, names):
    """A state whose rows go on with these adapters."""
    states = [model.choose_adapter(model.init_state(1), name) for name in names]
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}


@pytest.mark.parametrize("method", ["lora", "dora", "miss"])
def test_every_row_has_its_own_adapter(arm, method, tmp_path):
    model, alone = several(arm, tmp_path, method)
    x = vectors(model, batch=4)
    y = answer(model, x, mixed(model, NAMES))
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(y[row], answer(alone[name], x)[row], rtol=1e-4, atol=1e-5)
    # the control: they say different things
    assert len({round(y_row.sum().item(), 3) for y_row in answer(model, x)}) == 4
    assert (answer(alone["calm"], x) - answer(alone["wild"], x)).abs().max() > 1e-2


def test_nobody_disturbs_a_row(arm, tmp_path):
    """To the last bit: the same row beside others, whatever their adapters."""
    model, _ = several(arm, tmp_path)
    x = vectors(model, batch=4)
    rows = [
        answer(model, x, mixed(model, ("calm", *others)))[0]
        for others in (("calm",) * 3, ("wild", "base", "default"), ("base",) * 3)
    ]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])


def test_steps_are_calls_one_at_a_time(arm, tmp_path):
    model, _ = several(arm, tmp_path)
    x = vectors(model, batch=4)
    for names in (NAMES, ("wild",) * 4):
        state = mixed(model, names)
        start = {key: part.clone() for key, part in state.items()}
        with torch.no_grad():
            at_once, after = model(x, start)
        steps = [model.step_(position, state) for position in x.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(steps, 1), at_once, rtol=1e-4, atol=1e-5)
        assert torch.equal(state[ROWS], after[ROWS])
        assert torch.equal(state[ROWS], mixed(model, names)[ROWS])
    assert model.state_bytes(3) == model.base.state_bytes(3) + 8


def test_a_wish_that_cannot_be_granted(tmp_path):
    model, alone = several("rwkv7", tmp_path)
    with pytest.raises(UnknownName, match="no adapter 'clam'") as raised:
        model.choose_adapter(model.init_state(1), "clam")
    assert "calm" in raised.value.do
    with pytest.raises(CapabilityError, match="one adapter"):
        alone["calm"].choose_adapter(alone["calm"].init_state(1), "base")
    with pytest.raises(CapabilityError, match="has none"):
        alone["base"].choose_adapter(alone["base"].init_state(1), "calm")
    with pytest.raises(ConfigError, match="cannot be on one base"):
        adapted(plain("rwkv7"), "rwkv7", method="miss", adapters=model.config.adapters)


def test_adapters_from_folders_are_in_no_checkpoint(tmp_path):
    model, alone = several("rwkv7", tmp_path)
    assert model.state_dict().keys() == alone["default"].state_dict().keys()
    x, state = vectors(model, batch=1), model.choose_adapter(model.init_state(1), "calm")
    before = answer(model, x, state)
    model.load_state_dict(model.state_dict())
    assert torch.equal(answer(model, x, state), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".default." in name for name in trained)


def engine_of(backbone, weights="float32"):
    try:
        return backbone.accelerate("native", weights)
    except CapabilityError as error:
        pytest.skip(f"no C++ engine here: {error.what}")


def test_an_engine_speaks_with_the_adapter(arm, tmp_path):
    model, _ = several(arm, tmp_path)
    x = vectors(model, batch=1)
    state = model.init_state(1)
    expected = {n: answer(model, x, model.choose_adapter(state, n)) for n in NAMES}
    assert engine_of(model) == "native"
    for name in NAMES:
        start = model.choose_adapter(model.init_state(1), name)
        steps = [model.step_(position, start) for position in x.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(steps, 1), expected[name], rtol=1e-3, atol=1e-4)
        at_once = answer(model, x, model.choose_adapter(state, name))
        torch.testing.assert_close(at_once, expected[name], rtol=1e-3, atol=1e-4)
    assert model.accelerate("eager") == "eager"
    assert torch.equal(answer(model, x, state), expected["default"])
    # a copy begins without engines
    assert torch.equal(answer(copy.deepcopy(model), x, state), expected["default"])


def test_new_weights_undo_an_engine(tmp_path):
    model = adapted(plain("rwkv7"), "rwkv7", seed=1)
    other = adapted(plain("rwkv7"), "rwkv7", seed=2)
    engine_of(model)
    model.load_state_dict(other.state_dict())
    x = vectors(model)
    assert torch.equal(answer(model, x), answer(other, x))


def test_an_engine_refuses_layers_that_it_would_not_call(arm, monkeypatch):
    """Somebody puts adapters on a backbone by hand; the engine reads ``layer.weight``."""
    base = plain(arm)
    config = peft.LoraConfig(r=4, target_modules=list(adapted(base, arm).layers))
    by_hand = moved(peft.inject_adapter_in_model(config, base), 1)
    x = vectors(by_hand, batch=1)
    expected = answer(by_hand, x)
    with pytest.raises(CapabilityError, match="does more than its weight says"):
        by_hand.accelerate("native")
    assert by_hand.accelerate("auto") == "eager"
    with pytest.raises(CapabilityError, match="does more than its weight says"):
        by_hand.accelerate("auto", "int8")
    # the control: without the check the adapter is lost without a word
    monkeypatch.setattr(engines, "_not_plain", lambda part: "")
    engine_of(by_hand)
    state = by_hand.init_state(1)
    steps = [by_hand.step_(position, state) for position in x.split(1, dim=1)]
    stepped = torch.cat(steps, 1)
    assert (stepped - expected).abs().max() > 1e-2
    torch.testing.assert_close(stepped, answer(plain(arm), x), rtol=1e-3, atol=1e-4)


def test_a_quantised_base_stays_small_unless_an_engine_is_asked_for(arm):
    model = adapted(plain(arm), arm, seed=1, base_weights="nf4")
    x = vectors(model, batch=1)
    expected = answer(model, x)
    assert model.accelerate("auto") == "eager"
    engine_of(model)
    state = model.init_state(1)
    steps = [model.step_(position, state) for position in x.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-3, atol=1e-4)
