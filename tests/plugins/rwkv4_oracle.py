"""Compare RWKV-4 of three blocks with the package ``rwkv``: prints both largest differences.

The blocks are put together here, from the mixers and LayerNorms, as RWKV-LM does; logits, and the
state after them, by sequence in the package and position by position there for the state.
"""

import os
import sys

os.environ["RWKV_JIT_ON"], os.environ["RWKV_CUDA_ON"], os.environ["RWKV_V7_ON"] = "0", "0", "0"
sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from wishbone.core.contract.stack.mixer import Call, Place  # noqa: E402
from wishbone.plugins.rwkv4.channel_mix import ChannelMix  # noqa: E402
from wishbone.plugins.rwkv4.time_mix import TimeMix  # noqa: E402

WIDTH, LAYERS, VOCABULARY, LENGTH = 64, 3, 50, 90


def weights():
    """A model under RWKV-LM's names, far from its start."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=random)

    model = {"emb.weight": draw(VOCABULARY, WIDTH), "head.weight": draw(VOCABULARY, WIDTH) / 8}
    norms = ["ln_out", "blocks.0.ln0"]
    for i in range(LAYERS):
        norms += [f"blocks.{i}.ln1", f"blocks.{i}.ln2"]
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ("k", "v", "r"):
            model[f"{att}time_mix_{name}"] = torch.rand(1, 1, WIDTH, generator=random)
        for name in ("k", "r"):
            model[f"{ffn}time_mix_{name}"] = torch.rand(1, 1, WIDTH, generator=random)
        for name in ("key", "value", "receptance", "output"):
            model[f"{att}{name}.weight"] = draw(WIDTH, WIDTH) / 8
        model[f"{att}key.weight"] *= 3
        model[f"{att}time_decay"] = draw(WIDTH) - 0.5
        model[f"{att}time_first"] = draw(WIDTH)
        model[f"{ffn}key.weight"] = draw(4 * WIDTH, WIDTH) / 8
        model[f"{ffn}value.weight"] = draw(WIDTH, 4 * WIDTH) / 16
        model[f"{ffn}receptance.weight"] = draw(WIDTH, WIDTH) / 8
    for norm in norms:
        model[f"{norm}.weight"] = 1 + draw(WIDTH, scale=0.1)
        model[f"{norm}.bias"] = draw(WIDTH, scale=0.1)
    return model


def half(cls, model, prefix, mixes, layer):
    """A mixer with the weights below ``prefix``."""
    mixer = cls(cls.Config(), Place(WIDTH, layer, LAYERS))
    own = {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
    mix = torch.cat([own.pop(f"time_mix_{name}").view(1, -1) for name in mixes])
    mixer.load_state_dict({"mix": mix, **own})
    return mixer


@torch.no_grad()
def ours(model, tokens):
    """Logits [T, V], and the states of all halves by block."""

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), model[f"{name}.weight"], model[f"{name}.bias"])

    x = norm(model["emb.weight"][tokens][None], "blocks.0.ln0")
    states = []
    for i in range(LAYERS):
        for cls, kind, mixes, before in (
            (TimeMix, "att", "kvr", "ln1"), (ChannelMix, "ffn", "kr", "ln2"),
        ):  # fmt: skip
            mixer = half(cls, model, f"blocks.{i}.{kind}.", mixes, i)
            state = mixer.init_state(1, x.device, x.dtype)
            y, state = mixer(norm(x, f"blocks.{i}.{before}"), state, Call())
            x = x + y
            states.append(state)
    return (norm(x, "ln_out") @ model["head.weight"].T)[0], states


def main():
    """Print the largest differences of logits and of states."""
    from rwkv.model import RWKV

    model = weights()
    torch.save(model, sys.argv[1])
    tokens = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
    logits, states = ours(model, tokens)
    oracle = RWKV(model=sys.argv[1].removesuffix(".pth"), strategy="cpu fp32")
    expected, after = oracle.forward(tokens.tolist(), None, full_output=True)
    error = (logits - expected).abs().max().item()
    state_error = 0.0
    for i in range(LAYERS):
        mixer, channel = states[2 * i], states[2 * i + 1]
        att_x, aa, bb, pp, ffn_x = after[5 * i : 5 * i + 5]
        pairs = (
            (mixer["time_shift"], att_x), (channel["channel_shift"], ffn_x),
            (mixer["mean"], aa / bb), (mixer["log_weight"], pp + bb.log()),
        )  # fmt: skip
        state_error = max(state_error, *((a[0] - b).abs().max().item() for a, b in pairs))
    print(error, state_error)


if __name__ == "__main__":
    main()
