"""Compare RWKV-5.2 or RWKV-6 of three blocks with the package ``rwkv``.

The blocks are put together here, from the mixers and LayerNorms, as RWKV-LM does. Prints the
largest differences of logits and of states, and that of logits without the bonus.
"""

import os
import sys

os.environ["RWKV_JIT_ON"], os.environ["RWKV_CUDA_ON"], os.environ["RWKV_V7_ON"] = "0", "0", "0"
sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from wishbone.core.contract.stack.mixer import Call, Place  # noqa: E402
from wishbone.plugins.rwkv56.channel_mix import ChannelMix5, ChannelMix6  # noqa: E402
from wishbone.plugins.rwkv56.five import RWKV5  # noqa: E402
from wishbone.plugins.rwkv56.six import RWKV6  # noqa: E402

HEADS, SIZE, LAYERS, VOCABULARY, LENGTH, FFN = 3, 16, 3, 50, 90, 96
WIDTH = HEADS * SIZE
random = torch.Generator().manual_seed(0)


def draw(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=random)


def weights(version):
    """A model under RWKV-LM's names, far from its start."""
    model = {"emb.weight": draw(VOCABULARY, WIDTH), "head.weight": draw(VOCABULARY, WIDTH) / 8}
    norms = ["ln_out", "blocks.0.ln0"]
    stem = "time_mix_" if version == 5 else "time_maa_"
    for i in range(LAYERS):
        norms += [f"blocks.{i}.ln1", f"blocks.{i}.ln2", f"blocks.{i}.att.ln_x"]
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in "kvrg" if version == 5 else "xwkvrg":
            model[f"{att}{stem}{name}"] = torch.rand(1, 1, WIDTH, generator=random)
        for name in "kr":
            model[f"{ffn}{stem}{name}"] = torch.rand(1, 1, WIDTH, generator=random)
        for name in ("key", "value", "receptance", "gate", "output"):
            model[f"{att}{name}.weight"] = draw(WIDTH, WIDTH) / 7
        if version == 5:
            model[f"{att}time_decay"] = draw(HEADS, SIZE)
        else:
            model[f"{att}time_decay"] = draw(1, 1, WIDTH)
            model[f"{att}time_maa_w1"] = draw(WIDTH, 5 * 32, scale=0.1)
            model[f"{att}time_maa_w2"] = draw(5, 32, WIDTH, scale=0.1)
            model[f"{att}time_decay_w1"] = draw(WIDTH, 64, scale=0.1)
            model[f"{att}time_decay_w2"] = draw(64, WIDTH, scale=0.1)
        model[f"{att}time_faaaa"] = draw(HEADS, SIZE)
        model[f"{ffn}key.weight"] = draw(FFN, WIDTH) / 7
        model[f"{ffn}value.weight"] = draw(WIDTH, FFN) / 14
        model[f"{ffn}receptance.weight"] = draw(WIDTH, WIDTH) / 7
    for norm in norms:
        model[f"{norm}.weight"] = 1 + draw(WIDTH, scale=0.1)
        model[f"{norm}.bias"] = draw(WIDTH, scale=0.1)
    return model


def half(cls, config, model, prefix, names, layer):
    """A mixer with the weights below ``prefix``."""
    mixer = cls(config, Place(WIDTH, layer, LAYERS))
    own = {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
    mix = torch.cat([own.pop(name).view(1, -1) for name in names])
    renamed = {
        "time_faaaa": "bonus", "time_maa_w1": "mix_down", "time_maa_w2": "mix_up",
        "time_decay_w1": "decay_down", "time_decay_w2": "decay_up",
    }  # fmt: skip
    own = {renamed.get(name, name): tensor for name, tensor in own.items()}
    if "time_decay" in own:
        own["time_decay"] = own["time_decay"].flatten()
    mixer.load_state_dict({"mix": mix, **own})
    return mixer


@torch.no_grad()
def ours(model, tokens, version, bonus=True):
    """Logits [T, V], and the states of all halves by block."""

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), model[f"{name}.weight"], model[f"{name}.bias"])

    stem, letters = ("time_mix_", "kvrg") if version == 5 else ("time_maa_", "xwkvrg")
    time, channel = (RWKV5, ChannelMix5) if version == 5 else (RWKV6, ChannelMix6)
    x = norm(model["emb.weight"][tokens][None], "blocks.0.ln0")
    states = []
    for i in range(LAYERS):
        for cls, kind, mixes, before, config in (
            (time, "att", letters, "ln1", time.Config(head_size=SIZE)),
            (channel, "ffn", "kr", "ln2", channel.Config(width=FFN)),
        ):
            names = [stem + letter for letter in mixes]
            mixer = half(cls, config, model, f"blocks.{i}.{kind}.", names, i)
            if kind == "att" and not bonus:
                mixer.bonus.zero_()
            state = mixer.init_state(1, x.device, x.dtype)
            y, state = mixer(norm(x, f"blocks.{i}.{before}"), state, Call())
            x = x + y
            states.append(state)
    return (norm(x, "ln_out") @ model["head.weight"].T)[0], states


def main():
    """Print the largest differences."""
    from rwkv.model import RWKV

    version = int(sys.argv[1])
    model = weights(version)
    torch.save(model, sys.argv[2])
    tokens = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
    logits, states = ours(model, tokens, version)
    oracle = RWKV(model=sys.argv[2].removesuffix(".pth"), strategy="cpu fp32")
    expected, after = oracle.forward(tokens.tolist(), None, full_output=True)
    error = (logits - expected).abs().max().item()
    state_error = 0.0
    for i in range(LAYERS):
        mixer, channel = states[2 * i], states[2 * i + 1]
        att_x, matrix, ffn_x = after[3 * i : 3 * i + 3]
        pairs = (
            (mixer["time_shift"][0], att_x), (channel["channel_shift"][0], ffn_x),
            (mixer["matrix"][0], matrix.mT),
        )  # fmt: skip
        state_error = max(state_error, *((a - b).abs().max().item() for a, b in pairs))
    without, _ = ours(model, tokens, version, bonus=False)
    print(error, state_error, (without - expected).abs().max().item())


if __name__ == "__main__":
    main()
