"""Weights of RWKV-7 as RWKV-LM and as fla (and rwkv7-hf) name them, in and out, to the last bit.

Both hold the same numbers: RWKV-LM stores vectors as [1, 1, C] and low-rank factors as
[in, rank]; fla stores low-rank factors transposed, as layers of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.weights.folders import read_folder
from wishbone.core.weights.foreign import check, write_pickle
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.rwkv7.backbone import RWKV7

MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
"""Rows of ``time_mix.mix``, in this order."""
SAME, VECTOR, FLAT, TURNED = "same", "[1, 1, C]", "[C]", "transposed"
"""Forms of a tensor in the other file; ours are [C] and [in, rank]."""

Rule = tuple[str, str, str, str, str]


def _rules() -> list[Rule]:
    rules: list[Rule] = []
    for ours, lm, fla in (
        ("norm_in", "blocks.0.ln0", "model.layers.0.pre_norm"),
        ("norm_out", "ln_out", "model.norm"),
        ("blocks.{}.norm_time", "blocks.{}.ln1", "model.layers.{}.attn_norm"),
        ("blocks.{}.norm_channel", "blocks.{}.ln2", "model.layers.{}.ffn_norm"),
        ("blocks.{}.time_mix.ln_x", "blocks.{}.att.ln_x", "model.layers.{}.attn.g_norm"),
    ):
        rules += [
            (f"{ours}.{p}", f"{lm}.{p}", SAME, f"{fla}.{p}", SAME) for p in ("weight", "bias")
        ]
    time = ("blocks.{}.time_mix.", "blocks.{}.att.", "model.layers.{}.attn.")
    for name in MIXES:
        rules.append((time[0] + name, time[1] + name, VECTOR, time[2] + name, VECTOR))
    for name in ("k_k", "k_a"):
        rules.append((time[0] + name, time[1] + name, VECTOR, time[2] + name, FLAT))
    rules.append((time[0] + "r_k", time[1] + "r_k", SAME, time[2] + "r_k", SAME))
    for letter in "wavg":
        lora = f"{time[2]}{letter}_lora.lora."
        if letter != "g":
            bias = f"{letter}0"
            rules.append((time[0] + bias, time[1] + bias, VECTOR, lora + "2.bias", FLAT))
        for half, place in (("1", "0"), ("2", "2")):
            name = letter + half
            rules.append((time[0] + name, time[1] + name, SAME, f"{lora}{place}.weight", TURNED))
    for ours, fla in (
        ("receptance", "r_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "o_proj"),
    ):  # fmt: skip
        lm = f"{time[1]}{ours}.weight"
        rules.append((f"{time[0]}{ours}.weight", lm, SAME, f"{time[2]}{fla}.weight", SAME))
    channel = ("blocks.{}.channel_mix.", "blocks.{}.ffn.", "model.layers.{}.ffn.")
    rules.append((channel[0] + "x_k", channel[1] + "x_k", VECTOR, channel[2] + "x_k", FLAT))
    for name in ("key.weight", "value.weight"):
        rules.append((channel[0] + name, channel[1] + name, SAME, channel[2] + name, SAME))
    rules.append(("tables.embedding", "emb.weight", SAME, "model.embeddings.weight", SAME))
    rules.append(("tables.head", "head.weight", SAME, "lm_head.weight", SAME))
    return rules


RULES = _rules()
"""(ours, RWKV-LM's name, its form there, fla's name, its form there); {} is the block."""
BROKEN = "Download the file again, whole, or make it again."
UNUSED = re.compile(r"blocks\.0\.time_mix\.v[012]")
"""Some RWKV-LM files have these; block 0 makes the value the others mix in and never reads them."""


class _Converter(Converter):
    """The part that the two kinds of file have in common."""

    slot = "backbone"
    column: int
    """Index of the foreign name in ``RULES``."""

    @classmethod
    def ours(cls, tensors: Mapping[str, Tensor], where: str = "") -> Converted:
        """Translate foreign tensors, every name accounted for. Raises ``CheckpointError``."""
        renamed: dict[str, Tensor] = {}
        account: dict[str, str] = {}
        unknown = []
        patterns = [(_pattern(rule[cls.column]), rule) for rule in RULES]
        for name, tensor in tensors.items():
            plain = name.removeprefix("_forward_module.")
            hit = next(((m, r) for p, r in patterns if (m := p.fullmatch(plain))), None)
            if hit is None:
                unknown.append(name)
                continue
            match, rule = hit
            target = rule[0].format(*match.groups())
            if UNUSED.fullmatch(target):
                account[name] = "left out: block 0 never reads it"
                continue
            account[name] = target
            renamed[target] = _from(rule[cls.column + 1], tensor)
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} names are not RWKV-7's: {', '.join(sorted(unknown)[:8])}"
                f"{', ...' if len(unknown) > 8 else ''}.",
                where,
                "Check that the file is an RWKV-7 of the kind this converter is for; older ones"
                " have the converters rwkv4, rwkv5 and rwkv6.",
            )
        _complete(renamed, where)
        config = _config(renamed, where)
        tables = {k: renamed.pop(k) for k in ("tables.embedding", "tables.head") if k in renamed}
        stacked = _stacked(renamed, where)
        with torch.device("meta"):
            check(RWKV7(config), stacked, where)
        return Converted(cls.slot, {"name": "rwkv7", **asdict(config)}, stacked, tables, account)

    @classmethod
    def theirs(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate our tensors back, the tables of a vocabulary too where there are any."""
        result = {}
        patterns = [(_pattern(rule[0]), rule) for rule in RULES]
        for name, tensor in _unstacked(tensors).items():
            hit = next(((m, r) for p, r in patterns if (m := p.fullmatch(name))), None)
            if hit is None:
                raise CheckpointError(
                    f"'{name}' is not a tensor of the rwkv7 backbone.",
                    "the weights to convert",
                    "Give the checkpoint of a backbone alone.",
                )
            match, rule = hit
            result[rule[cls.column].format(*match.groups())] = _to(rule[cls.column + 1], tensor)
        return result


class RWKVLM(_Converter):
    """RWKV-LM's ``.pth``."""

    column = 1

    def read(self, source: Path) -> Converted:
        """One file. Vectors may have lost their leading ones, block 0 its unused tensors."""
        return self.ours(read_tensors(source), str(source))

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, object], to: Path) -> None:
        """One ``.pth``, or ``.safetensors`` by its ending."""
        if config.get("group_norm_eps") != 64e-5:
            raise CheckpointError(
                f"RWKV-LM norms heads with 64e-5, this model with {config.get('group_norm_eps')}.",
                "group_norm_eps of the backbone",
                "Convert to fla, whose config.json can say so when it is head_size * 1e-5.",
            )
        renamed = self.theirs(tensors)
        if to.suffix == ".safetensors":
            write_tensors(to, renamed)
            return
        write_pickle(to, renamed)


class FLA(_Converter):
    """The folder of a flash-linear-attention or rwkv7-hf model: safetensors and config.json."""

    column = 3

    def read(self, source: Path) -> Converted:
        """A folder, or its one file of weights. Its group norm has eps head_size * 1e-5."""
        return self.converted(read_folder(source), str(source))

    @classmethod
    def converted(cls, tensors: Mapping[str, Tensor], where: str) -> Converted:
        """As ``ours``, for fla's names of any version, with its eps."""
        converted = cls.ours(modern(tensors, where), where)
        converted.config["group_norm_eps"] = converted.config["head_size"] * 1e-5
        return converted

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, object], to: Path) -> None:
        """A new folder. Raises ``CheckpointError`` where fla would norm heads differently."""
        self.check_eps(config)
        renamed = self.theirs(tensors)
        with new_folder(to) as folder:
            write_tensors(folder / "model.safetensors", renamed)
            text = json.dumps(fla_config(config, renamed), indent=2)
            (folder / "config.json").write_text(text + "\n")

    @staticmethod
    def check_eps(config: Mapping[str, object]) -> None:
        """Raise ``CheckpointError`` for an eps of the head norm that fla cannot express."""
        size = int(str(config["head_size"]))
        eps = float(str(config["group_norm_eps"]))
        if abs(eps / (size * 1e-5) - 1) > 1e-6:
            raise CheckpointError(
                f"fla norms heads of {size} with {size * 1e-5}, this model with {eps}.",
                "group_norm_eps of the backbone",
                "Use RWKV-LM's format, which keeps 64e-5 for every head size.",
            )


def fla_config(config: Mapping[str, object], renamed: Mapping[str, Tensor]) -> dict[str, object]:
    """``config.json``; sizes come from the tensors, which cannot be wrong."""
    width, layers = config["width"], config["layers"]
    ranks = {}
    for long, short, layer in (("decay", "w", 0), ("a", "a", 0), ("gate", "g", 0), ("v", "v", 1)):
        factor = renamed.get(f"model.layers.{layer}.attn.{short}_lora.lora.0.weight")
        if factor is not None:
            ranks[f"{long}_low_rank_dim"] = factor.shape[0]
    embedding = renamed.get("model.embeddings.weight")
    return {
        "model_type": "rwkv7",
        "architectures": ["RWKV7ForCausalLM"],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "head_dim": config["head_size"],
        "num_heads": int(str(width)) // int(str(config["head_size"])),
        "intermediate_size": renamed["model.layers.0.ffn.key.weight"].shape[0],
        "hidden_act": "sqrelu",
        "norm_eps": 1e-5,
        "norm_bias": True,
        "norm_first": True,
        "value_dim": [width] * int(str(layers)),
        "vocab_size": len(embedding) if embedding is not None else 0,
        "tie_word_embeddings": False,
        **ranks,
    }


def modern(tensors: Mapping[str, Tensor], where: str = "") -> dict[str, Tensor]:
    """fla's names of today: its first version kept the six rows of a token shift together."""
    renamed = dict(tensors)
    for name in [n for n in renamed if n.endswith(".attn.x_x")]:
        rows = renamed.pop(name)
        if not len(rows) == len(MIXES) == rows.numel() // max(1, rows.shape[-1]):
            raise CheckpointError(
                f"{name} has the shape {list(rows.shape)}, not six rows.", where, BROKEN
            )
        for letter, row in zip(MIXES, rows.reshape(len(MIXES), 1, 1, -1), strict=True):
            renamed[name.removesuffix("x_x") + letter] = row
    return renamed


def _config(renamed: Mapping[str, Tensor], where: str) -> RWKV7.Config:
    """The sizes, read from the tensors: no rule for ranks holds for every release."""
    time = "blocks.{}.time_mix."
    layers = 1 + max(int(n.split(".")[1]) for n in renamed if n.startswith("blocks."))
    matrices = [n for n in renamed if n.endswith(("r_k", "w1", "a1", "v1", "g1"))]
    flat = [n for n in matrices if renamed[n].ndim != 2]
    if flat:
        raise CheckpointError(
            f"{flat[0]} has the shape {list(renamed[flat[0]].shape)}, and should be a matrix.",
            where,
            BROKEN,
        )
    heads, size = renamed[time.format(0) + "r_k"].shape
    value = renamed.get(time.format(1) + "v1")
    return RWKV7.Config(
        width=heads * size,
        layers=layers,
        head_size=size,
        ffn_width=renamed["blocks.0.channel_mix.key.weight"].shape[0],
        decay_rank=renamed[time.format(0) + "w1"].shape[1],
        rate_rank=renamed[time.format(0) + "a1"].shape[1],
        value_rank=0 if value is None else value.shape[1],
        gate_rank=renamed[time.format(0) + "g1"].shape[1],
    )


def _complete(renamed: Mapping[str, Tensor], where: str) -> None:
    """Raise ``CheckpointError`` that lists every tensor a block lacks."""
    blocks = {int(n.split(".")[1]) for n in renamed if n.startswith("blocks.")}
    expected = {
        rule[0].format(block)
        for rule in RULES
        for block in range(max(blocks, default=0) + 1)
        if not rule[0].startswith("tables.")
    }
    missing = sorted(n for n in expected - renamed.keys() if not UNUSED.fullmatch(n))
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing: {', '.join(missing[:8])}"
            f"{', ...' if len(missing) > 8 else ''}.",
            where,
            "Check that the download is complete and the model is an RWKV-7.",
        )


def _stacked(renamed: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The rows x_r ... x_g as ``mix`` [6, C], and channel mixing's x_k as ``mix`` [1, C]."""
    result = {n: t for n, t in renamed.items() if not n.rpartition(".")[2].startswith("x_")}
    for block in sorted({n.split(".")[1] for n in renamed if n.startswith("blocks.")}, key=int):
        time, channel = f"blocks.{block}.time_mix.", f"blocks.{block}.channel_mix."
        rows = [renamed[time + name] for name in MIXES]
        if len({row.shape for row in rows}) > 1:
            lengths = ", ".join(str(len(row)) for row in rows)
            raise CheckpointError(f"{time}x_* have the lengths {lengths}.", where, BROKEN)
        result[time + "mix"] = torch.stack(rows)
        result[channel + "mix"] = renamed[channel + "x_k"][None]
    return result


def _unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if last != "mix":
            result[name] = tensor
            continue
        rows = MIXES if stem.endswith("time_mix") else ("x_k",)
        result |= {f"{stem}.{row}": part for row, part in zip(rows, tensor, strict=True)}
    return result


def _from(form: str, tensor: Tensor) -> Tensor:
    if form in (VECTOR, FLAT):
        return tensor.reshape(-1)
    return tensor.mT.contiguous() if form == TURNED else tensor


_TO: dict[str, Callable[[Tensor], Tensor]] = {
    SAME: lambda x: x,
    VECTOR: lambda x: x.reshape(1, 1, -1),
    FLAT: lambda x: x.reshape(-1),
    TURNED: lambda x: x.mT.contiguous(),
}


def _to(form: str, tensor: Tensor) -> Tensor:
    return _TO[form](tensor)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
