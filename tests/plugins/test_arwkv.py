"""The arwkv backbone beyond the contract: what it takes over from a Transformer, and refuses."""

import pytest
import torch

from wishbone.core.contract.errors import ConfigError
from wishbone.core.testing import trained_looking_
from wishbone.plugins.arwkv.backbone import ARWKV
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.transformer.backbone import Transformer

SHAPE = {"width": 32, "layers": 2, "ffn_width": 48}


def student(**changes):
    return ARWKV(ARWKV.Config(**SHAPE | {"head_size": 16} | changes))


def teacher(**changes):
    config = Transformer.Config(**SHAPE | {"heads": 4, "kv_heads": 2} | changes)
    return trained_looking_(Transformer(config), 1)


def test_everything_but_attention_becomes_the_teachers():
    arwkv, transformer = trained_looking_(student(), 2), teacher()
    arwkv.inherit(transformer)
    tensors, source = arwkv.state_dict(), transformer.state_dict()
    shared = [name for name in source if ".attention." not in name]
    assert len(shared) == 2 * 4 + 1 and tensors.keys() >= set(shared)
    assert all(torch.equal(tensors[name], source[name]) for name in shared)
    # the same where attention says nothing: what is left of a block is the teacher's
    for block in arwkv.blocks:
        torch.nn.init.zeros_(block.time_mix.output.weight)
    for block in transformer.blocks:
        torch.nn.init.zeros_(block.attention.output.weight)
    x = torch.randn(2, 5, 32)
    assert torch.equal(arwkv(x)[0], transformer(x)[0])


def test_time_mixing_starts_from_the_projections_of_attention():
    arwkv, transformer = student(), teacher()
    arwkv.inherit(transformer)
    x = torch.randn(7, 32)
    for block, source in zip(arwkv.blocks, transformer.blocks, strict=True):
        time, attention = block.time_mix, source.attention
        attention.qkv.bias.data.zero_()
        q, k, v = attention.qkv(x).split((32, 16, 16), dim=-1)
        torch.testing.assert_close(time.receptance(x), q)
        # heads 0 and 1 read the first key and value, 2 and 3 the second
        for actual, shared in ((time.key(x), k), (time.value(x), v)):
            torch.testing.assert_close(
                actual, shared.view(7, 2, 1, 8).expand(-1, -1, 2, -1).flatten(1)
            )
        assert torch.equal(time.output.weight, attention.output.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 64}, "width 32, the Transformer's 64"), ({"layers": 3}, "layers 2"),
     ({"ffn_width": 64}, "ffn_width 48"), ({"norm_eps": 1e-5}, "norm_eps")],
)  # fmt: skip
def test_a_transformer_of_another_shape_is_refused(change, message):
    arwkv = student()
    before = {name: tensor.clone() for name, tensor in arwkv.state_dict().items()}
    with pytest.raises(ConfigError, match=message) as caught:
        arwkv.inherit(teacher(**change))
    assert caught.value.where and caught.value.do
    assert all(torch.equal(tensor, before[name]) for name, tensor in arwkv.state_dict().items())


def test_another_backbone_gives_what_has_the_same_name_and_shape():
    arwkv, other = student(), trained_looking_(RWKV7(RWKV7.Config(32, 2, head_size=16)), 3)
    feed_forward = arwkv.blocks[0].ffn.gate_up.weight.clone()
    arwkv.inherit(other)
    assert torch.equal(arwkv.blocks[1].time_mix.w0, other.blocks[1].time_mix.w0)
    assert torch.equal(arwkv.blocks[0].ffn.gate_up.weight, feed_forward)


def test_the_state_is_smaller_than_an_rwkv7s_by_what_channel_mixing_remembers():
    arwkv, other = student(), RWKV7(RWKV7.Config(32, 2, head_size=16))
    assert other.state_bytes(9) - arwkv.state_bytes(9) == 2 * 32 * 4
    assert arwkv.state_bytes(1) == arwkv.state_bytes(1000)


def test_a_trained_rwkv7_block_computes_the_same_time_mixing():
    """The mixers are those of rwkv7: with the same weights the same answer to the same vectors."""
    arwkv, other = student(), trained_looking_(RWKV7(RWKV7.Config(32, 2, head_size=16)), 3)
    arwkv.blocks[1].time_mix.load_state_dict(other.blocks[1].time_mix.state_dict())
    captured = {}
    for name, backbone in (("mine", arwkv), ("other", other)):
        backbone.blocks[1].time_mix.register_forward_pre_hook(_give)
        backbone.blocks[1].time_mix.register_forward_hook(
            lambda _, __, answer, name=name: captured.update({name: answer[0]})
        )
        backbone(torch.zeros(1, 6, 32))
    assert torch.equal(captured["mine"], captured["other"])


def _give(module, arguments):
    h = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(4))
    arguments[2].shared["v_first"] = torch.ones(1, 6, 32)
    return (h, *arguments[1:])
