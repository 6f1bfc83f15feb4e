"""Convert a ``.pth`` of RWKV-4, 5.2 or 6, and compare the stack with the package ``rwkv``.

Prints the largest difference of logits, that after a config without the first norm (a control), and
how many tensors came back from the way there and back with other bits.
"""

import os
import sys
from pathlib import Path

os.environ["RWKV_JIT_ON"], os.environ["RWKV_CUDA_ON"], os.environ["RWKV_V7_ON"] = "0", "0", "0"
sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
sys.path.insert(0, str(Path(__file__).parent))

import rwkv4_oracle  # noqa: E402
import rwkv56_oracle  # noqa: E402
import torch  # noqa: E402

from wishbone.core.registry.loader import registry  # noqa: E402


def stack(converted, **changes):
    """The backbone that a conversion describes, with its weights."""
    cls = registry().get("backbone", converted.config["name"])
    values = {k: v for k, v in converted.config.items() if k != "name"} | changes
    backbone = cls(cls.Config(**values)).eval()
    backbone.load_state_dict(converted.tensors, strict=not changes)
    return backbone


@torch.no_grad()
def logits(backbone, tables, tokens):
    """[T] -> [T, V]."""
    y, _ = backbone(tables["tables.embedding"][tokens][None])  # [1, T, D]
    return (y @ tables["tables.head"].T)[0]


def main():
    """Print the three figures."""
    from rwkv.model import RWKV

    version, path = sys.argv[1], Path(sys.argv[2])
    oracle = rwkv4_oracle if version == "4" else rwkv56_oracle
    model = oracle.weights() if version == "4" else oracle.weights(int(version))
    torch.save(model, path)
    converter = registry().get("converter", f"rwkv{version}")()
    converted = converter.read(path)
    tokens = torch.randint(
        len(model["emb.weight"]), (90,), generator=torch.Generator().manual_seed(1)
    )
    answer = logits(stack(converted), converted.tables, tokens)
    other = logits(stack(converted, norm_in=False), converted.tables, tokens)
    official = RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")
    expected, _ = official.forward(tokens.tolist(), None, full_output=True)
    back = path.with_name("back.pth")
    converter.write(converted.tensors | converted.tables, converted.config, back)
    again = torch.load(back, weights_only=True)
    changed = [n for n in model if n not in again or not torch.equal(model[n], again[n])]
    extra = sorted(again.keys() - model.keys())
    print((answer - expected).abs().max().item(), (other - expected).abs().max().item())
    print(len(changed) + len(extra), *changed, *extra)


if __name__ == "__main__":
    main()
