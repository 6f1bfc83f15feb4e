"""A configuration to a system that speaks: schema, facts between slots, construction.

Everything a YAML file says is checked before any weight is read. The schema of a slot is the
dataclass ``Config`` nested in the class that the slot names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from wishbone.core.compose import Config, compose, dump, weights_folder
from wishbone.core.errors import ConfigError, WishboneError, did_you_mean
from wishbone.core.fit import Parts, check_fit
from wishbone.core.interfaces import (
    Backbone,
    CodeSpace,
    Decoder,
    Head,
    Layout,
    SpeechTokenizer,
    Tokenizer,
    require_caps,
)
from wishbone.core.plugin import registry

if TYPE_CHECKING:
    from wishbone.core.audio import Audio
    from wishbone.core.model import SpeechLM
    from wishbone.core.sampling import Sampling
    from wishbone.core.utterance import Text

SLOTS = ("tokenizer", "speech_tokenizer", "layout", "backbone", "head", "decoder")
OTHER_KEYS = ("sampling", "weights", "voice", "about")
"""Top-level keys beside the slots: how codes are drawn, the folder of the language model's weights,
the voice to speak with, and a sentence for people."""

__all__ = [
    "SLOTS",
    "Codec",
    "Config",
    "Parts",
    "System",
    "build",
    "build_codec",
    "build_layout",
    "build_model",
    "check_fit",
    "dump",
    "load",
    "part",
    "read",
    "require",
    "resolve",
    "structured",
]


class Codec(NamedTuple):
    """The two parts that audio passes through."""

    speech_tokenizer: SpeechTokenizer
    decoder: Decoder


@dataclass
class System:
    """Everything that is needed to speak, on one device."""

    tokenizer: Tokenizer
    speech_tokenizer: SpeechTokenizer
    layout: Layout
    model: SpeechLM
    decoder: Decoder
    sampling: Sampling
    config: Config
    notes: list[str] = field(default_factory=list)
    """What a person should know of the weights, such as a part that has none."""

    def say(
        self,
        text: Text,
        voice: Any = None,
        seed: int = 0,
        instruct: str = "",
        guidance: float | None = None,
    ) -> Audio:
        """Speak all of ``text``; the arguments are those of ``wishbone.core.pipeline``."""
        from wishbone.core import pipeline

        return pipeline.say(self, text, voice, seed, instruct=instruct, guidance=guidance)

    def stream(
        self,
        text: Text,
        voice: Any = None,
        seed: int = 0,
        instruct: str = "",
        guidance: float | None = None,
    ) -> Iterator[Tensor]:
        """The same samples as ``say``, in chunks [S], each as soon as it is final."""
        from wishbone.core import pipeline

        return pipeline.stream(self, text, voice, seed, instruct=instruct, guidance=guidance)


def load(name_or_path: str | Path, overrides: Sequence[str] = (), device: str = "cpu") -> System:
    """``build(read(name_or_path, overrides), device)``, with steps as ``accelerate("auto")``."""
    system = build(read(name_or_path, overrides), device)
    system.model.accelerate()
    return system


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A system's configuration, resolved: every field of every slot is there and has its type.

    ``overrides`` are ``"backbone.width=256"``. Saved with ``dump`` and read again it is the same.
    Raises ``ConfigError`` naming file, line and full key; ``UnknownName``; ``PluginError``.
    """
    return resolve(compose(name_or_path, overrides))


def resolve(config: Mapping[str, Any]) -> Config:
    """``config`` with every slot checked against its schema and filled with its defaults."""
    from wishbone.core import text_model, wrapping
    from wishbone.core.sampling import Sampling

    config = config if isinstance(config, Config) else Config(config)
    if text_model.is_text(config):
        return text_model.resolve(config)
    _check_keys(config)
    resolved: dict[str, Any] = {}
    for slot in SLOTS:
        _, fields = part(config, slot)
        own = {key: config[slot][key] for key in ("name", "weights") if key in config[slot]}
        resolved[slot] = {**own, **wrapping.resolved(fields, config, slot)}
    sampling = structured(Sampling, config.get("sampling") or {}, "sampling", config)
    resolved["sampling"] = asdict(sampling)
    resolved |= {key: config[key] for key in OTHER_KEYS[1:] if config.get(key) is not None}
    return Config(resolved, config.path, config.places)


def part(config: Mapping[str, Any], slot: str, kind: str = "") -> tuple[type[Any], Any]:
    """The class that ``config[slot]`` names, and an instance of its ``Config``.

    ``kind`` is the registry's kind where it is not the slot's name. Imports the class.
    """
    config = config if isinstance(config, Config) else Config(config)
    section = config.get(slot)
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(
            f"'{slot}' does not say which {kind or slot} to use.",
            config.place(slot),
            f"Write '{slot}: {{name: KEY}}'; 'wishbone plugins list' shows the keys.",
        )
    cls = registry().get(kind or slot, section["name"])
    fields = {key: value for key, value in section.items() if key not in ("name", "weights")}
    return cls, structured(cls.Config, fields, slot, config)


def structured(schema: type[Any], values: Mapping[str, Any], key: str, config: Config) -> Any:
    """An instance of the dataclass ``schema`` from ``values``, which stand under ``key``.

    Raises ``ConfigError`` with the full key, its line, and the nearest legal name.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        whole = OmegaConf.create({key: OmegaConf.structured(schema)})
        return OmegaConf.to_object(OmegaConf.merge(whole, {key: dict(values)}))[key]
    except OmegaConfBaseException as error:
        full = str(error.full_key or key)
        what = (error.msg or str(error)).splitlines()[0]
        what = re.sub(r"Key '(.+)' not in '.+'\.", rf"'\1' is not a key of '{key}'.", what)
        legal = ", ".join(schema.__dataclass_fields__)
        raise ConfigError(
            f"{full}: {what.rstrip('.')}" + ("" if what.endswith("?") else "."),
            config.place(full),
            f"Correct that key. Keys of '{key}': {legal}.",
        ) from error
    except WishboneError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{key}: {error}", config.place(key), "Correct the values of that slot."
        ) from error


def build(config: Mapping[str, Any], device: str = "cpu") -> System:
    """Construct a system, check that its parts fit, then read weights.

    On ``device="meta"`` shapes are checked and nothing is read. Raises ``ConfigError`` when parts
    do not fit, ``CheckpointError`` when weights do not.
    """
    from wishbone.core import text_model
    from wishbone.core.model import SpeechLM
    from wishbone.core.sampling import Sampling

    config = resolve(config)
    if text_model.is_text(config):
        raise ConfigError(
            "This is a system of text, which does not speak.",
            config.place("task"),
            "Continue a text with 'wishbone text', or name a system that speaks.",
        )
    if config["sampling"]["guidance"] != 1:
        require(config, "sampling.guidance", "varlen")
    check_fit(parts := _construct(config, "meta", tokenizer=None), config)
    if str(device) != "meta":
        parts = _construct(config, device, parts.tokenizer)
    with torch.device(device):
        model = SpeechLM(parts.backbone, parts.head, parts.layout)
    notes: list[str] = []
    if str(device) != "meta":
        for slot in ("speech_tokenizer", "decoder"):
            notes += _load_slot(getattr(parts, slot), config, slot)
        notes += _load_model(model, config)
    for module in (parts.speech_tokenizer, model, parts.decoder):
        module.to(device).eval().requires_grad_(False)
    sampling = structured(Sampling, config["sampling"], "sampling", config)
    return System(
        parts.tokenizer,
        parts.speech_tokenizer,
        parts.layout,
        model,
        parts.decoder,
        sampling,
        config,
        notes,
    )


def build_model(config: Mapping[str, Any], device: str = "cpu") -> SpeechLM:
    """The language model alone, ready to train: no codec is allocated and none of its weights read.

    Starts from ``weights:`` where the configuration has them.
    """
    from wishbone.core import text_model
    from wishbone.core.model import SpeechLM

    config = resolve(config)
    if text_model.is_text(config):
        return text_model.build_model(config, device)
    check_fit(parts := _construct(config, "meta", tokenizer=None), config)
    with torch.device(device):
        backbone = _new(config, "backbone")
        head = _new_head(config, backbone, parts.decoder.codes, parts.layout)
        model = SpeechLM(backbone, head, parts.layout)
    if str(device) != "meta":
        _load_model(model, config)
    return model


def build_codec(config: Mapping[str, Any], device: str = "cpu") -> Codec:
    """Speech tokenizer and decoder with their weights; the other slots may be empty.

    Raises ``ConfigError`` when one of the two is missing, ``CheckpointError`` when weights do not
    fit.
    """
    config = config if isinstance(config, Config) else Config(config)
    with torch.device(device):
        codec = Codec(_new(config, "speech_tokenizer"), _new(config, "decoder"))
    for slot, module in codec._asdict().items():
        _load_slot(module, config, slot)
        module.to(device).eval().requires_grad_(False)
    return codec


def build_layout(config: Mapping[str, Any]) -> tuple[Tokenizer, Layout, CodeSpace]:
    """What turns a corpus into positions: tokenizer, layout and the space of codes; no weights."""
    from wishbone.core import text_model

    config = resolve(config)
    if text_model.is_text(config):
        return text_model.build_layout(config)
    tokenizer = _new(config, "tokenizer")
    with torch.device("meta"):
        codes = _new(config, "decoder").codes
    cls, fields = part(config, "layout")
    return tokenizer, cls(fields, text=tokenizer.space, codes=codes), codes


def require(config: Mapping[str, Any], feature: str, *capabilities: str) -> None:
    """Raise ``CapabilityError`` unless the configured backbone promises all ``capabilities``.

    ``feature`` is named in the error. Imports the backbone's class, builds nothing.
    """
    from wishbone.core.wrapping import innermost

    # a wrapper promises what the backbone inside it does
    key = innermost(config["backbone"])["name"]
    require_caps(registry().get("backbone", key), feature, *capabilities, key=key)


def _check_keys(config: Config) -> None:
    known = (*SLOTS, *OTHER_KEYS)
    for key in config:
        if key not in known:
            raise ConfigError(
                f"'{key}' is not a key of a system.",
                config.place(key),
                f"{did_you_mean(key, known)} Keys: {', '.join(known)}.".strip(),
            )
    for key in ("weights", "voice", "about"):
        if config.get(key) is not None and not isinstance(config[key], str):
            raise ConfigError(f"'{key}' must be text.", config.place(key), "Quote it.")


def _construct(config: Config, device: str, tokenizer: Tokenizer | None) -> Parts:
    """All six parts without weights; the tokenizer has none, so one that exists is kept."""
    tokenizer = tokenizer or _new(config, "tokenizer")
    with torch.device(device):
        speech_tokenizer = _new(config, "speech_tokenizer")
        decoder = _new(config, "decoder")
        backbone = _new(config, "backbone")
        cls, fields = part(config, "layout")
        layout = cls(fields, text=tokenizer.space, codes=decoder.codes)
        head = _new_head(config, backbone, decoder.codes, layout)
    return Parts(tokenizer, speech_tokenizer, layout, backbone, head, decoder)


def _new(config: Config, slot: str) -> Any:
    cls, fields = part(config, slot)
    try:
        return cls(fields)
    except ValueError as error:
        raise ConfigError(
            f"{slot}: {error}", config.place(slot), "Correct the values of that slot."
        ) from error


def _new_head(config: Config, backbone: Backbone, codes: CodeSpace, layout: Layout) -> Head:
    cls, fields = part(config, "head")
    try:
        return cls(fields, width=backbone.width, codes=codes, extra=layout.extra)
    except ValueError as error:
        raise ConfigError(
            f"head: {error}", config.place("head"), "Correct the values of that slot."
        ) from error


def _load_slot(module: nn.Module, config: Config, slot: str) -> list[str]:
    from wishbone.core.weights import load_part

    folder = config[slot].get("weights")
    note = load_part(module, weights_folder(folder), slot) if folder else ""
    return [note] if note else []


def _load_model(model: SpeechLM, config: Config) -> list[str]:
    """The whole model's weights first, then those of a part that has its own."""
    from wishbone.core.growth import grow
    from wishbone.core.weights import load_part
    from wishbone.core.wrapping import begin

    note = ""
    if config.get("weights"):
        folder = weights_folder(config["weights"])
        note = load_part(model, folder, grow=partial(grow, config, folder))
    own = [slot for slot in ("backbone", "head") if config[slot].get("weights")]
    if not config.get("weights") and "backbone" not in own:
        begin(model)
    for slot in own:
        _load_slot(getattr(model, slot), config, slot)
    return [note] if note and "backbone" not in own else []
