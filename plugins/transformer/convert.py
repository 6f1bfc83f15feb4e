"""Weights of Qwen2 and of the language models of CosyVoice2 and 3, in and out, to the last bit.

Their names are those of ``transformers`` (``Qwen2Model``). Ours differ in two ways: q, k and v
are one matrix, and so are gate and up. Nothing is transposed or reordered inside a matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.weights.folders import read_folder
from wishbone.core.weights.foreign import check, write_pickle
from wishbone.core.weights.tensor_files import translate, write_tensors
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig

LAYER = "layers.{}."
PLAIN = {
    "self_attn.o_proj.weight": "attention.output.weight",
    "mlp.down_proj.weight": "ffn.down.weight",
    "input_layernorm.weight": "norm_attention.weight",
    "post_attention_layernorm.weight": "norm_ffn.weight",
}
"""Theirs -> ours, inside one layer."""
FUSED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Ours -> theirs, stacked by rows in this order."""
COSYVOICE2 = {
    "llm_embedding.weight": "tables.marks.weight",
    "llm.model.model.embed_tokens.weight": "tables.text.weight",
    "speech_embedding.weight": "head.table.weight",
    "llm_decoder.weight": "head.output.weight",
    "llm_decoder.bias": "head.output.bias",
}
"""The tables around the Qwen2 in CosyVoice2's ``llm.pt`` -> a ``SpeechLM`` with the linear head."""
COSYVOICE3 = {
    name: ours
    for name, ours in COSYVOICE2.items()
    if name not in ("llm_embedding.weight", "llm_decoder.bias")
}
"""The same of CosyVoice3: its marks are rows of the table of codes, and its head has no bias."""


UNREAD = "llm.model.lm_head.weight"
"""Qwen2's head inside ``llm.pt``: the table of text again, and never read."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""The tables of a Qwen2 beside its body."""
FIELDS = frozenset(TransformerConfig.__dataclass_fields__)


SIZES = (
    "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers",
    "intermediate_size", "rms_norm_eps",
)  # fmt: skip
"""Fields that a Qwen2's config.json must state."""


def config_from_qwen2(source: Mapping[str, Any]) -> TransformerConfig:
    """The fields of a Qwen2 ``config.json`` as a config of the transformer backbone.

    Raises ``CheckpointError`` for what this backbone does not do: another activation, a sliding
    window, stretched rotary positions, heads that do not share the width.
    """
    missing = [name for name in SIZES if name not in source]
    if missing:
        raise CheckpointError(
            f"The configuration states no {', '.join(missing)}.",
            "the config.json of a Qwen2 model",
            "Name the folder of a Qwen2 model.",
        )
    rope = source.get("rope_parameters") or source.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    size = source.get("head_dim") or source["hidden_size"] // source["num_attention_heads"]
    problems = [
        problem
        for wrong, problem in (
            (source.get("hidden_act", "silu") != "silu", f"activation {source.get('hidden_act')}"),
            (source.get("use_sliding_window", False), "a sliding window"),
            (kind != "default", f"rotary positions of type {kind}"),
            (size * source["num_attention_heads"] != source["hidden_size"], f"heads of {size}"),
        )
        if wrong
    ]
    if problems:
        raise CheckpointError(
            f"This model has {', '.join(problems)}, which the transformer backbone has not.",
            where="the config.json of a Qwen2 model",
            do="use a model of the plain Qwen2 architecture",
        )
    return TransformerConfig(
        width=source["hidden_size"],
        layers=source["num_hidden_layers"],
        heads=source["num_attention_heads"],
        kv_heads=source["num_key_value_heads"],
        ffn_width=source["intermediate_size"],
        rope_theta=float(rope.get("rope_theta", source.get("rope_theta", 10000.0))),
        norm_eps=source["rms_norm_eps"],
        qkv_bias=True,
    )


def from_qwen2(
    tensors: Mapping[str, Tensor], *, prefix: str = "model.", where: str = ""
) -> dict[str, Tensor]:
    """Tensors of a Qwen2 -> tensors of ``Transformer``.

    The tables of text (``embed_tokens``, ``lm_head``) and stored rotary frequencies are left out;
    any other name the backbone does not have, or lacks, raises ``CheckpointError``.
    """
    biased = any(name.endswith("q_proj.bias") for name in tensors)
    renamed = translate(tensors, _table(prefix, biased), where)
    return _fuse(renamed, where)


def to_qwen2(
    tensors: Mapping[str, Tensor], config: TransformerConfig, *, prefix: str = "model."
) -> dict[str, Tensor]:
    """Tensors of ``Transformer`` -> names of a Qwen2. Raises ``CheckpointError`` as above."""
    size = config.width // config.heads
    rows = {
        "attention.qkv": [n * size for n in (config.heads, config.kv_heads, config.kv_heads)],
        "ffn.gate_up": [config.ffn_width, config.ffn_width],
    }
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        part = next((part for part in FUSED if stem.endswith(part)), None)
        if part is None:
            split[name] = tensor
            continue
        pieces = tensor.split(rows[part])
        for index, piece in enumerate(pieces):
            split[f"{stem}.{index}.{kind}"] = piece.clone()
    biased = any(name.endswith("attention.qkv.bias") for name in tensors)
    # One rule a name both ways, except for what never comes back.
    back = {ours: foreign for foreign, ours in _table(prefix, biased).items() if ours is not None}
    return translate(split, back)


def names_around(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Choose the table that a ``llm.pt`` follows: CosyVoice3's has no marks and no bias."""
    second_alone = COSYVOICE2.keys() - COSYVOICE3.keys()
    return COSYVOICE2 if second_alone & tensors.keys() else COSYVOICE3


def from_cosyvoice2(tensors: Mapping[str, Any], *, where: str = "") -> dict[str, Tensor]:
    """``llm.pt`` -> tensors of a ``SpeechLM`` of this backbone and the linear head.

    CosyVoice2's head has ``bias: true``, CosyVoice3's has none. The whole numbers ``epoch`` and
    ``step`` that training leaves in the file are dropped. Raises ``CheckpointError`` for names that
    are missing or unknown.
    """
    remaining = {name: t for name, t in tensors.items() if name not in ("epoch", "step")}
    table = names_around(remaining)
    around = {name: remaining.pop(name) for name in table if name in remaining}
    backbone = from_qwen2(remaining, prefix="llm.model.model.", where=where)
    renamed = translate(around, dict(table), where)
    return renamed | {f"backbone.{name}": tensor for name, tensor in backbone.items()}


def to_cosyvoice2(tensors: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Tensors of such a ``SpeechLM`` -> its ``llm.pt``, with the head nobody reads.

    Raises ``CheckpointError`` for a model that is of neither CosyVoice's shape.
    """
    second_alone = set(COSYVOICE2.values()) - set(COSYVOICE3.values())
    table = COSYVOICE2 if second_alone & tensors.keys() else COSYVOICE3
    missing = sorted(set(table.values()) - tensors.keys())
    if missing:
        raise CheckpointError(
            f"The model has no {', '.join(missing)}.",
            "the weights to convert",
            "Use the cosyvoice2 layout and a linear head with bias, or cosyvoice3 and one without.",
        )
    inside = "backbone."
    body = {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}
    renamed = {foreign: tensors[ours] for foreign, ours in table.items()}
    renamed |= to_qwen2(body, config, prefix="llm.model.model.")
    text = renamed["llm.model.model.embed_tokens.weight"]
    return renamed | {UNREAD: tensors.get(UNREAD, text)}


class Qwen2(Converter):
    """The folder of a Qwen2 of ``transformers``, its body alone."""

    slot = "backbone"

    def read(self, source: Path) -> Converted:
        """A folder with config.json. The table of text and the head are kept beside the part."""
        config = config_from_qwen2(_json(source / "config.json"))
        tensors = read_folder(source)
        renamed = from_qwen2(tensors, where=str(source))
        with torch.device("meta"):
            check(Transformer(config), renamed, str(source))
        tables = {n: t for n, t in tensors.items() if n in (EMBEDDING, HEAD)}
        account = {name: "the backbone" for name in tensors if name not in tables}
        account |= {name: "kept beside it" for name in tables}
        return Converted(
            self.slot, {"name": "transformer", **asdict(config)}, renamed, tables, account
        )

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """A new folder. Raises ``CheckpointError`` for a model whose queries have no bias."""
        tables = {n: t for n, t in tensors.items() if n in (EMBEDDING, HEAD)}
        shape = _shape(config)
        body = {n: t for n, t in tensors.items() if n not in tables}
        renamed = to_qwen2(body, shape) | tables
        with new_folder(to) as folder:
            write_tensors(folder / "model.safetensors", renamed)
            text = json.dumps(_qwen2_config(shape, tables), indent=2)
            (folder / "config.json").write_text(text + "\n")


class CosyVoice2(Converter):
    """The ``llm.pt`` of CosyVoice2 or 3: the whole language model."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """The folder of a release, or its ``llm.pt`` with ``CosyVoice-BlankEN`` beside it."""
        from wishbone.plugins.cosyvoice2.release import files

        folder = source if source.is_dir() else source.parent
        path = source / files.LANGUAGE_MODEL if source.is_dir() else source
        config = config_from_qwen2(_json(folder / files.TEXT / "config.json"))
        tensors = files.load_tensors(path, "language model")
        renamed = from_cosyvoice2(tensors, where=str(path))
        inside = "backbone."
        body = {n.removeprefix(inside): t for n, t in renamed.items() if n.startswith(inside)}
        with torch.device("meta"):
            check(Transformer(config), body, str(path))
        unread = tensors.get(UNREAD)
        same = unread is None or unread.equal(renamed["tables.text.weight"])
        table = names_around(tensors)
        second = table is COSYVOICE2
        layout = {"name": "cosyvoice2" if second else "cosyvoice3"}
        backbone = {"name": "transformer", **asdict(config)}
        account = {name: table.get(name, "the backbone") for name in tensors}
        if unread is not None:
            account[UNREAD] = "left out: nobody reads it"
        return Converted(
            self.slot,
            {"layout": layout, "backbone": backbone, "head": {"name": "linear", "bias": second}},
            renamed,
            {} if same else {UNREAD: unread},
            account,
        )

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """One ``llm.pt``. Raises ``CheckpointError`` for a model of another kind."""
        backbone = config.get("backbone") or {}
        if backbone.get("name") != "transformer" or not backbone.get("qkv_bias", True):
            raise CheckpointError(
                f"CosyVoice2 holds a Qwen2, the model a {backbone.get('name')}"
                f" {'without biases ' if backbone.get('name') == 'transformer' else ''}instead.",
                "backbone in the config.yaml of the model",
                "Use the format rwkvtts for an RWKV-7 in CosyVoice2's place.",
            )
        write_pickle(to, to_cosyvoice2(tensors, _shape(backbone)))


def _shape(config: Mapping[str, Any]) -> TransformerConfig:
    return TransformerConfig(**{key: value for key, value in config.items() if key in FIELDS})


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"The sizes of the Qwen2 cannot be read: {error}.",
            str(path),
            "Name a folder that has this file.",
        ) from error


def _qwen2_config(shape: TransformerConfig, tables: Mapping[str, Tensor]) -> dict[str, Any]:
    """``config.json`` of ``transformers``; a model without a head ties it to the table."""
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.ffn_width,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": HEAD not in tables,
        "vocab_size": len(tables[EMBEDDING]) if EMBEDDING in tables else 0,
    }


def _table(prefix: str, biased: bool) -> dict[str, str | None]:
    """Theirs -> ours for ``translate``; parts of a fused matrix get their place in it."""
    table: dict[str, str | None] = {f"{prefix}norm.weight": "norm_out.weight"}
    layer = prefix + LAYER
    for foreign, ours in PLAIN.items():
        table[layer + foreign] = f"blocks.{{}}.{ours}"
    for ours, parts in FUSED.items():
        for index, foreign in enumerate(parts):
            table[f"{layer}{foreign}.weight"] = f"blocks.{{}}.{ours}.{index}.weight"
            if biased and ours == "attention.qkv":
                table[f"{layer}{foreign}.bias"] = f"blocks.{{}}.{ours}.{index}.bias"
    parent = prefix.removesuffix("model.")
    unread = (f"{prefix}embed_tokens.weight", f"{parent}lm_head.weight")
    rotary = (f"{layer}self_attn.rotary_emb.inv_freq", f"{prefix}rotary_emb.inv_freq")
    return table | dict.fromkeys((*unread, *rotary))


def _fuse(renamed: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    fused: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in renamed.items():
        stem, _, kind = name.rpartition(".")
        matrix, _, index = stem.rpartition(".")
        if any(matrix.endswith(part) for part in FUSED):
            parts.setdefault(f"{matrix}.{kind}", {})[int(index)] = tensor
        else:
            fused[name] = tensor
    for name, pieces in parts.items():
        count = next(len(foreign) for ours, foreign in FUSED.items() if ours in name)
        if len(pieces) != count:
            raise CheckpointError(
                f"Of the {count} parts of {name}, {len(pieces)} are here.",
                where,
                "Use a complete file.",
            )
        fused[name] = torch.cat([pieces[index] for index in range(count)])
    return fused
