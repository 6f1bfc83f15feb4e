"""Map the tensors of RWKVTTS's models to ours and back, to the last bit.

Two families, told apart by their names. ``cosy`` is CosyVoice2's language model with an RWKV-7 in
it (``RWKV7LM`` in model/llm/llm.py, ``RWKV7CosyLM`` in model/llm/cosy_llm.py), ``respark``
Spark-TTS's (``RWKV7ForSpeech`` in model/llm/spark_llm.py). A raw ``llm.pt`` has ``llm.`` in front
of what Hugging Face's form has bare. The body is fla's, of any version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.plugins.rwkv7.convert import FLA

RAW = "llm."
"""Prefix of the body and the head in a raw file."""
WRAPPERS = ("_forward_module.", "module.")
"""Prefixes that DeepSpeed and DDP leave in front of every name."""
BODY = "model.embeddings.weight"
"""The body's own table of text: the same numbers as the table in use, or never read."""
TEXT = "text_embedding.weight"


@dataclass(frozen=True)
class Family:
    """One of RWKVTTS's models."""

    name: str
    around: Mapping[str, str]
    """Names of RWKVTTS -> ours, of everything but the body."""
    layout: Mapping[str, Any]
    """The slot's section of a configuration."""
    head: Mapping[str, Any]
    """The head's section of a configuration."""


COSY = Family(
    "cosy",
    {
        "llm_embedding.weight": "tables.marks.weight",
        TEXT: "tables.text.weight",
        "speech_embedding.weight": "head.table.weight",
        "lm_head.weight": "head.output.weight",
        "lm_head.bias": "head.output.bias",
    },
    {"name": "cosyvoice2", "fill": False, "bistream_probability": 0.0},
    {"name": "linear", "bias": True},
)
RESPARK = Family(
    "respark",
    {
        "tts_tag_embedder.weight": "tables.marks.weight",
        "text_embedder.weight": "tables.text.weight",
        "global_embedder.weight": "tables.global.weight",
        BODY: "head.table.weight",
        "lm_head.weight": "head.output.weight",
    },
    {"name": "spark", "form": "respark"},
    {"name": "linear", "bias": False},
)
FAMILIES = {"speech_embedding.weight": COSY, "tts_tag_embedder.weight": RESPARK}
"""A name that only this family has -> the family."""


@dataclass
class ReleaseModel:
    """A model of RWKVTTS in our terms."""

    family: Family
    tensors: dict[str, Tensor]
    """Tensors by the names of a ``SpeechLM``."""
    backbone: dict[str, Any]
    """The backbone's section of a configuration."""
    aside: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the model never reads, by the names of RWKVTTS."""
    account: dict[str, str] = field(default_factory=dict)
    """Name in RWKVTTS -> ours, or the reason for leaving it out."""


def to_our_names(tensors: Mapping[str, Tensor], where: str = "") -> ReleaseModel:
    """Rename the tensors of a model of RWKVTTS, every name accounted for.

    Raises ``CheckpointError`` for names that are missing or unknown, and for shapes that do not
    make one model.
    """
    plain = _plain(tensors, where)
    family = next((f for name, f in FAMILIES.items() if name in plain), None)
    if family is None:
        raise CheckpointError(
            "The file is no model of RWKVTTS: it has neither speech_embedding nor"
            " tts_tag_embedder.",
            where,
            "Name the llm.pt of a release, or the folder with its config.json and weights.",
        )
    aside = {}
    if family is COSY and BODY in plain:
        copy = plain.pop(BODY)
        text = plain.setdefault(TEXT, copy)
        if text.shape != copy.shape or not text.equal(copy):
            aside[BODY] = copy
    missing = sorted(family.around.keys() - plain.keys())
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing: {', '.join(missing)}.",
            where,
            "Check that the download is complete.",
        )
    around = {name: plain.pop(foreign) for foreign, name in family.around.items()}
    body = FLA.converted(plain, where)
    _check_shapes(around, body.config["width"], where)
    renamed = around | {f"backbone.{name}": row for name, row in body.tensors.items()}
    account = dict(family.around) | {n: f"backbone.{o}" for n, o in body.account.items()}
    if family is COSY:
        again = "left out: the table of text again"
        account[BODY] = "kept beside the model, which never reads it" if aside else again
    return ReleaseModel(family, renamed, body.config, aside, account)


def to_release_names(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], raw: bool = False
) -> dict[str, Tensor]:
    """Name the tensors of a ``SpeechLM`` as a raw ``llm.pt`` does, or Hugging Face's form.

    ``config`` is that of the whole model. Raises ``CheckpointError`` for a model that RWKVTTS
    has not: another backbone, layout or head.
    """
    family = family_of(config)
    missing = sorted(set(family.around.values()) - tensors.keys())
    if missing:
        raise CheckpointError(
            f"The model has no {', '.join(missing)}.",
            "the weights to convert",
            "Use a whole model of the linear head with the fields of RWKVTTS's.",
        )
    inside = "backbone."
    body = {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}
    renamed = FLA.theirs(body)
    renamed |= {foreign: tensors[name] for foreign, name in family.around.items()}
    if family is COSY:
        renamed[BODY] = tensors.get(BODY, renamed[TEXT])
    if not raw or family is not COSY:
        return renamed
    bare = (TEXT, "llm_embedding.weight", "speech_embedding.weight")
    return {name if name in bare else RAW + name: row for name, row in renamed.items()}


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the model of RWKVTTS that a configuration describes. Raises ``CheckpointError``."""
    layout, head = config.get("layout") or {}, config.get("head") or {}
    backbone = (config.get("backbone") or {}).get("name")
    for family in (COSY, RESPARK):
        facts = {"name", "fill", "form"} & family.layout.keys()
        fits = all(layout.get(key) == family.layout[key] for key in facts)
        if fits and backbone == "rwkv7" and dict(family.head).items() <= dict(head).items():
            return family
    raise CheckpointError(
        f"RWKVTTS has no model of backbone {backbone}, layout {layout.get('name')} and head"
        f" {head.get('name')} with these fields.",
        "config.yaml of the model to convert",
        "It has rwkv7 with layout cosyvoice2 (fill: false) and a linear head with bias, or with"
        " layout spark (form: respark) and a linear head without.",
    )


def _plain(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Strip the prefixes of training tools and of the raw form."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if name.startswith((f"{RAW}model.", f"{RAW}lm_head.")):
            name = name.removeprefix(RAW)
        if name in plain:
            raise CheckpointError(f"Two tensors are called {name}.", where, "Use one release.")
        plain[name] = tensor
    return plain


def _check_shapes(around: Mapping[str, Tensor], width: int, where: str) -> None:
    """Require tables as wide as the body, and a head that answers for every row of its table."""
    rows = len(around["head.table.weight"])
    wrong = [
        f"{name} {list(row.shape)}"
        for name, row in around.items()
        if (row.shape[-1] != width or row.ndim != 2) == name.endswith("weight")
        or (name.startswith("head.") and len(row) != rows)
    ]
    if wrong:
        raise CheckpointError(
            f"These do not belong to a model {width} wide with {rows} ids of speech:"
            f" {'; '.join(wrong)}.",
            where,
            "Download the file again, whole, or make it again.",
        )
