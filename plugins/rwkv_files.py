"""Files of RWKV-LM before RWKV-7 (``.pth``) as stacks, and back, to the last bit.

A generation names its mixer, its feed-forward part, and what its tensors are called; ``rwkv4`` and
``rwkv56`` have them. Both sides hold the same numbers: RWKV-LM stores the rows of a token shift one
by one, as [1, 1, D].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.weights.foreign import check, write_pickle
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.stack.backbone import Stack, StackConfig

TABLES = {"emb.weight": "tables.embedding", "head.weight": "tables.head"}
NORMS = {
    "blocks.0.ln0": "norm_in", "ln_out": "norm_out",
    "blocks.{}.ln1": "blocks.{}.norm_mixer", "blocks.{}.ln2": "blocks.{}.norm_ffn",
}  # fmt: skip
HALVES = {"att": "mixer", "ffn": "ffn"}
EPS = 1e-5
"""Of every norm but that of heads."""
BROKEN = "Download the file again, whole, or make it again."
BLOCK = re.compile(r"blocks\.(\d+)\.(.*)")


class RWKVFile(Converter):
    """A converter of one generation; a subclass has its names."""

    slot = "backbone"
    version: ClassVar[str]
    """Number of the generation, for messages."""
    share: ClassVar[str]
    """Beginning of the names of a token shift's rows: "time_mix_" or "time_maa_"."""
    time_rows: ClassVar[str]
    """Letters of the mixer's rows, in the order of our ``mix``."""
    names: ClassVar[Mapping[str, str]] = {}
    """Their name in a half -> ours, where they differ."""
    mark: ClassVar[str]
    """A name of a block's ``att`` that this generation has and the one before it lacks."""

    @classmethod
    def config_of(cls, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the mixer's and the feed-forward part's section, by sizes of our ``tensors``."""
        raise NotImplementedError

    @classmethod
    def shape_of(cls, name: str, tensor: Tensor) -> tuple[int, ...]:
        """Return the shape in their file of what is ``name`` here."""
        return tuple(tensor.shape)

    def read(self, source: Path) -> Converted:
        """One file. Raises ``CheckpointError`` for another generation."""
        return self.ours(read_tensors(source), str(source))

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """One ``.pth``, or ``.safetensors`` by its ending."""
        renamed = self.theirs(tensors)
        if to.suffix == ".safetensors":
            write_tensors(to, renamed)
            return
        write_pickle(to, renamed)

    @classmethod
    def ours(cls, tensors: Mapping[str, Tensor], where: str = "") -> Converted:
        """Translate foreign tensors, every name accounted for. Raises ``CheckpointError``."""
        if f"blocks.0.att.{cls.mark}" not in tensors:
            raise CheckpointError(
                f"It has no 'blocks.0.att.{cls.mark}', which every RWKV-{cls.version} has.",
                where,
                "Use the converter of its generation: rwkv4, rwkv5, rwkv6, or rwkv-lm for RWKV-7.",
            )
        names = cls._names(tensors)
        unknown = sorted(tensors.keys() - names.keys())
        if unknown:
            raise CheckpointError(
                f"These names are not RWKV-{cls.version}'s: {', '.join(unknown[:8])}.",
                where,
                "Use the converter of its generation: rwkv4, rwkv5, rwkv6, or rwkv-lm for RWKV-7.",
            )
        renamed: dict[str, Tensor] = {}
        rows: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            target, row = names[name]
            if row is not None:
                rows.setdefault(target, {})[row] = tensor.flatten()  # [D]
            elif target.endswith("time_decay") or tensor.ndim == 3 and tensor.shape[0] == 1:
                renamed[target] = tensor.flatten()  # [D]
            else:
                renamed[target] = tensor
        for target, parts in rows.items():
            ordered = [parts[row] for row in sorted(parts)]
            if len({len(row) for row in ordered}) > 1:
                raise CheckpointError(f"Rows of {target} differ in length.", where, BROKEN)
            renamed[target] = torch.stack(ordered)  # [rows, D]
        tables = {name: renamed.pop(name) for name in TABLES.values() if name in renamed}
        config = cls._config(renamed, where)
        with torch.device("meta"):
            backbone = Stack(StackConfig(**config))
        check(backbone, renamed, where)
        account = {name: target for name, (target, _) in names.items()}
        return Converted(cls.slot, {"name": "stack", **config}, renamed, tables, account)

    @classmethod
    def theirs(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate our tensors back, the tables of a vocabulary too where there are any."""
        result: dict[str, Tensor] = {}
        tables = {ours: name for name, ours in TABLES.items()}
        norms = {ours: name for name, ours in NORMS.items()}
        halves = {ours: name for name, ours in HALVES.items()}
        back = {ours: name for name, ours in cls.names.items()}
        for name, tensor in tensors.items():
            stem, _, last = name.rpartition(".")
            block = BLOCK.fullmatch(name)
            number, inside = block.groups() if block else ("", "")
            plain = stem.replace(f"blocks.{number}.", "blocks.{}.") if block else stem
            half, _, own = inside.partition(".")
            if name in tables:
                result[tables[name]] = tensor
            elif plain in norms:
                result[f"{norms[plain].format(number)}.{last}"] = tensor
            elif half in halves and own == "mix":
                letters = cls.time_rows if half == "mixer" else "kr"
                begin = f"blocks.{number}.{halves[half]}.{cls.share}"
                for letter, row in zip(letters, tensor, strict=True):
                    result[begin + letter] = row.reshape(1, 1, -1)
            elif half in halves:
                foreign = f"blocks.{number}.{halves[half]}.{back.get(own, own)}"
                result[foreign] = tensor.reshape(cls.shape_of(own, tensor))
            else:
                raise CheckpointError(
                    f"'{name}' is not a tensor of a stack of RWKV-{cls.version}.",
                    "the weights to convert",
                    "Give the checkpoint of a backbone alone.",
                )
        return result

    @classmethod
    def _names(cls, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, int | None]]:
        """Their name -> ours, and the row of a ``mix`` where it is one."""
        names: dict[str, tuple[str, int | None]] = {}
        for name in tensors:
            stem, _, last = name.rpartition(".")
            block = BLOCK.fullmatch(name)
            number, inside = block.groups() if block else ("", "")
            kind, _, own = inside.partition(".")
            plain = f"blocks.{{}}.{kind}" if kind in ("ln1", "ln2") else stem
            letters = cls.time_rows if kind == "att" else "kr"
            letter = own.removeprefix(cls.share)
            if name in TABLES:
                names[name] = TABLES[name], None
            elif plain in NORMS:
                names[name] = f"{NORMS[plain].format(number)}.{last}", None
            elif kind in HALVES and own.startswith(cls.share) and letter in tuple(letters):
                names[name] = f"blocks.{number}.{HALVES[kind]}.mix", letters.index(letter)
            elif kind in HALVES:
                names[name] = f"blocks.{number}.{HALVES[kind]}.{cls.names.get(own, own)}", None
        return names

    @classmethod
    def _config(cls, renamed: Mapping[str, Tensor], where: str) -> dict[str, Any]:
        """Sizes, read from the tensors."""
        try:
            width = len(renamed["norm_out.weight"])
            inner = renamed["blocks.0.ffn.key.weight"].shape[0]
            halves = cls.config_of(renamed)
        except (KeyError, IndexError, ValueError) as error:
            raise CheckpointError(
                f"It lacks what its sizes are read from: {error}.", where, BROKEN
            ) from error
        layers = 1 + max(int(n.split(".")[1]) for n in renamed if n.startswith("blocks."))
        sizes = {"width": width, "layers": layers, "ffn_width": inner}
        return {**sizes, "norm": "layer", "norm_in": True, "norm_eps": EPS, **halves}
