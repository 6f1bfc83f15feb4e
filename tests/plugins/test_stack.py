"""The stack: patterns of blocks in YAML, what halves leave for each other, padding, presets."""

import pytest
import torch
from torch import nn

from wishbone.core.config.blocks import parse_blocks
from wishbone.core.config.compose import dump
from wishbone.core.config.schema import filled
from wishbone.core.contract.errors import CapabilityError, ConfigError, UnknownName
from wishbone.core.contract.stack.mixer import Mixer
from wishbone.core.system.spec import parse, read, require
from wishbone.core.testing import check_class, trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.layers import ChannelMix, TimeMix
from wishbone.plugins.stack.backbone import Stack
from wishbone.plugins.transformer.layers import Attention

ATTENTION = {"name": "attention", "heads": 4, "kv_heads": 2}
RWKV = {"name": "rwkv7", "head_size": 16}
SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2}
head: {name: linear}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
backbone:
  name: stack
  width: 48
"""


def stack(**fields):
    return trained_looking_(Stack(Stack.Config(width=48, **fields)), 1).eval()


def system(tmp_path, lines):
    path = tmp_path / "system.yaml"
    path.write_text(SYSTEM + lines)
    return path


# syntax


def test_a_pattern_with_everything_left_out_is_the_stacks(tmp_path):
    lines = (
        "  ffn: {name: swiglu, ratio: 2}\n"
        "  blocks:\n"
        "    - {mixer: {name: rwkv7, head_size: 16}, times: 2}\n"
        "    - {ffn: none}\n"
        "    - {mixer: [attention, attention], ffn: rwkv7_channel_mix}\n"
        "  repeat: 2\n"
    )
    config = read(system(tmp_path, lines))
    row = parse_blocks(parse(config).slots["backbone"].config)
    assert [[slot.name for slot in block.mixer] for block in row] == 2 * [
        ["rwkv7"], ["rwkv7"], ["attention"], ["attention", "attention"],
    ]  # fmt: skip
    assert [[slot.name for slot in block.ffn] for block in row] == 2 * [
        ["swiglu"], ["swiglu"], [], ["rwkv7_channel_mix"],
    ]  # fmt: skip
    # what is saved has every field, and says the same when it is read again
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump(config))
    assert read(saved) == config
    assert config["backbone"]["blocks"][0]["mixer"]["decay_rank"] == 0
    assert config["backbone"]["mixer"]["name"] == "attention"


def test_a_word_on_the_command_line_swaps_the_mixer(tmp_path):
    path = system(tmp_path, "  mixer: {name: rwkv7, head_size: 16}\n")
    assert read(path)["backbone"]["mixer"]["head_size"] == 16
    assert read(path, ["backbone.mixer=attention"])["backbone"]["mixer"]["heads"] == 4


@pytest.mark.parametrize(
    ("lines", "error", "message", "line"),
    [
        ("  mixer: {name: attention, head: 2}\n", ConfigError, "'head' is not a key of", 9),
        ("  blocks:\n    - {mixer: {name: rwkv7, head_sise: 2}}\n", ConfigError, "head_sise", 10),
        ("  blocks:\n    - ffn: none\n      mixr: rwkv7\n", ConfigError, "mixr", 11),
        ("  blocks: [rwkv7]\n", ConfigError, "'rwkv7' is not a mapping", 9),
        ("  blocks:\n    - mixer: [attention, rwkv77]\n", UnknownName, "rwkv77", 10),
        ("  ffn: attention\n", UnknownName, "No ffn is named 'attention'", 9),
        ("  mixer: {name: rwkv7, weights: x}\n", ConfigError, "no weights of its own", 9),
        ("  blocks:\n    - {times: 0}\n", ConfigError, "times: 0 is outside", 10),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, lines, error, message, line):
    with pytest.raises(error, match=message) as caught:
        read(system(tmp_path, lines))
    assert f"system.yaml:{line}" in caught.value.where
    assert caught.value.do


def test_the_nearest_name_is_offered(tmp_path):
    with pytest.raises(UnknownName) as caught:
        read(system(tmp_path, "  mixer: atention\n"))
    assert "Did you mean 'attention'?" in caught.value.do


def test_a_block_needs_a_half():
    with pytest.raises(ConfigError, match="neither a mixer nor"):
        Stack(Stack.Config(width=48, mixer="none", ffn="none"))


def test_heads_that_do_not_fill_the_width_are_refused():
    with pytest.raises(ConfigError, match="not a multiple of head size 32"):
        Stack(Stack.Config(width=48, mixer={"name": "rwkv7", "head_size": 32}))


# what it builds


def test_state_names_carry_block_and_part():
    model = stack(blocks=[{"mixer": RWKV}, {"mixer": [ATTENTION, RWKV], "ffn": "none"}])
    assert list(model.init_state(1)) == [
        "length", "blocks.0.wkv", "blocks.0.time_shift",
        "blocks.1.0.key", "blocks.1.0.value", "blocks.1.1.wkv", "blocks.1.1.time_shift",
    ]  # fmt: skip


def test_depths_that_share_weights_remember_apart():
    model = stack(layers=3, mixer=RWKV, ffn="rwkv7_channel_mix", share=True)
    assert len(model.blocks) == 1 and not model.mixers()
    assert Stack.count_parameters(model.config) == sum(p.numel() for p in model.parameters())
    _, state = model(torch.randn(1, 5, 48))
    assert not torch.equal(state["blocks.0.wkv"], state["blocks.2.wkv"])
    pattern = [{"mixer": RWKV, "times": 2}, {"mixer": ATTENTION}]
    assert len(stack(blocks=pattern, repeat=2, share=True).blocks) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": 3, "mixer": RWKV, "share": True},
        {"blocks": [{"mixer": [ATTENTION, RWKV], "ffn": ["swiglu", "rwkv7_channel_mix"]}]},
        {"blocks": [{"mixer": ATTENTION}, {"mixer": "none"}, {"mixer": RWKV, "ffn": "none"}]},
    ],
    ids=["shared", "parallel", "pattern"],
)
def test_every_pattern_keeps_the_contract_of_backbones(fields):
    results = check_class("backbone", Stack, Stack.Config(width=48, ffn_width=80, **fields))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_capabilities_are_those_of_the_blocks(tmp_path):
    constant = system(tmp_path, "  mixer: {name: rwkv7, head_size: 16}\n")
    require(read(constant), "an endless text", "constant_state")
    with pytest.raises(CapabilityError, match="'stack' does not promise it"):
        require(read(constant, ["backbone.mixer=attention"]), "an endless text", "constant_state")
    wrapped = {"name": "peft", "base": {"name": "stack", "width": 48, "mixer": RWKV}}
    require({"backbone": wrapped}, "an endless text", "constant_state")


def test_ffn_width_is_that_of_parts_that_name_none():
    model = stack(layers=1, mixer="none", ffn=["swiglu", {"name": "swiglu", "width": 32}],
                  ffn_width=80)  # fmt: skip
    assert [half.down.in_features for half in model.blocks[0].ffn.halves] == [80, 32]


@pytest.mark.parametrize(
    ("ffn", "inner"),
    [({"name": "rwkv7_channel_mix", "width": 32}, 32), ("rwkv7_channel_mix", 80)],
)
def test_channel_mixing_has_its_own_width_or_the_stacks(ffn, inner):
    model = stack(layers=1, mixer="none", ffn=ffn, ffn_width=80)
    assert model.blocks[0].ffn.key.weight.shape == (inner, 48)


def test_a_mixer_by_its_name_alone_has_the_heads_and_ranks_of_rwkv_lm():
    model = trained_looking_(Stack(Stack.Config(width=128, layers=2, mixer="rwkv7")), 1)
    assert model.init_state(1)["blocks.0.wkv"].shape == (1, 2, 64, 64)
    mixer = model.blocks[1].mixer
    ranks = [matrix.shape[1] for matrix in (mixer.w1, mixer.a1, mixer.v1, mixer.g1)]
    assert ranks == [32, 32, 32, 64] and mixer.eps == 64e-5


def test_decay_is_for_weights_of_linear_layers_alone():
    model = stack(layers=1, mixer=RWKV)
    decayed, plain, fast = (group["params"] for group in model.parameter_groups(1e-3, 0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert {names[id(p)] for p in decayed} == linear
    assert [names[id(p)] for p in fast] == ["blocks.0.mixer.w0"]
    assert "blocks.0.mixer.w1" in {names[id(p)] for p in plain}


class TwiceTheShift(ChannelMix):
    """Remembers by a name that the mixer of its block has, too."""

    def init_state(self, batch, device, dtype):
        return {"time_shift": super().init_state(batch, device, dtype)["channel_shift"]}


class Reads(Mixer):
    Config = ChannelMix.Config
    reads = ("v_first",)

    def forward(self, x, state, call):
        return x * call.shared["v_first"], state


def test_two_memories_of_one_name_are_refused():
    other = filled("ffn", TwiceTheShift, ChannelMix.Config())
    with pytest.raises(ConfigError, match="remember something by the name 'time_shift'"):
        stack(layers=1, mixer=RWKV, ffn=other)


def test_what_is_read_must_have_been_left():
    reader = filled("ffn", Reads, ChannelMix.Config())
    with pytest.raises(ConfigError, match="reads 'v_first', and no half before it"):
        stack(blocks=[{"mixer": ATTENTION, "ffn": reader}, {"mixer": RWKV}])
    stack(blocks=[{"mixer": RWKV}, {"mixer": ATTENTION, "ffn": reader}])


def test_the_first_of_these_halves_is_the_one_without_a_share_of_its_value():
    model = stack(blocks=[{"mixer": ATTENTION}, {"mixer": RWKV, "times": 2}])
    first, second = (block.mixer for block in list(model.blocks)[1:])
    assert isinstance(first, TimeMix) and isinstance(model.blocks[0].mixer, Attention)
    assert not hasattr(first, "v0") and hasattr(second, "v0")


# padding, and presets


@torch.no_grad()
@pytest.mark.parametrize("mixer", [RWKV, ATTENTION], ids=["rwkv7", "attention"])
def test_where_padding_stands_changes_not_a_bit(mixer):
    model, x = stack(layers=2, mixer=mixer), torch.randn(1, 9, 48)
    places = torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [0, 2, 3, 7, 8]])
    mask = torch.zeros(3, 9, dtype=torch.bool).scatter(1, places, True)
    padded = torch.full((3, 9, 48), float("nan"))
    padded[mask] = x[:, :5].expand(3, -1, -1).reshape(-1, 48)
    y, state = model(padded, mask=mask)
    assert not y[~mask].any()
    rows = y[mask].view(3, 5, 48)
    for row in (1, 2):
        assert torch.equal(rows[0], rows[row])
        assert all(torch.equal(part[0], part[row]) for part in state.values())


@torch.no_grad()
def test_rwkv7_is_its_halves_in_a_stack_with_layer_norms():
    """The preset adds norms and names: by hand, block by block, the same to the last bit."""
    model = trained_looking_(RWKV7(RWKV7.Config(48, 2, head_size=16)), 2).eval()
    plain = stack(layers=2, mixer=RWKV, ffn="rwkv7_channel_mix")
    for ours, theirs in zip(plain.blocks, model.blocks, strict=True):
        ours.mixer.load_state_dict(theirs.time_mix.state_dict())
        ours.ffn.load_state_dict(theirs.channel_mix.state_dict())
        ours.norm_mixer, ours.norm_ffn = theirs.norm_time, theirs.norm_channel
    plain.norm_in, plain.norm_out = model.norm_in, model.norm_out
    x = torch.randn(2, 40, 48)
    y, state = model(x)
    expected, expected_state = plain(x)
    assert torch.equal(y, expected)
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
