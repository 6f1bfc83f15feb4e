"""The YAML of a release, read as text: numbers and names, nothing is built.

The release's own loader (hyperpyyaml) imports whatever a tag names and calls it. Here a tag is a
word on a list or the file is refused; what follows it stays a mapping of plain values.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.plugins.cosyvoice2.release import files

MOST_BYTES = 1 << 20
"""Limit of the file; the public one has 10 kB."""
DEEPEST = 20
"""Limit of mappings inside each other; the public file has five."""

TAGS = frozenset(
    {
        "!ref",
        *(f"!apply:{name}" for name in (
            "random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all",
        )),
        *(f"!new:{name}" for name in (
            "cosyvoice.llm.llm.Qwen2LM", "cosyvoice.llm.llm.Qwen2Encoder",
            "cosyvoice.llm.llm.CosyVoice3LM", "cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
            "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
            "cosyvoice.flow.DiT.dit.DiT", "cosyvoice.hifigan.generator.CausalHiFTGenerator",
            "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
            "cosyvoice.flow.flow.CausalMaskedDiffWithXvec",
            "cosyvoice.flow.flow_matching.CausalConditionalCFM",
            "cosyvoice.flow.decoder.CausalConditionalDecoder",
            "cosyvoice.flow.decoder.ConditionalDecoder",
            "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder",
            "cosyvoice.hifigan.generator.HiFTGenerator",
            "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",
            "cosyvoice.hifigan.hifigan.HiFiGan",
            "cosyvoice.hifigan.discriminator.MultipleDiscriminator",
            "cosyvoice.hifigan.discriminator.MultiResSpecDiscriminator",
            "cosyvoice.hifigan.discriminator.MultiResolutionDiscriminator",
            "matcha.hifigan.models.MultiPeriodDiscriminator", "omegaconf.DictConfig",
            "model.llm.llm.RWKV7LM", "cosyvoice.llm.llm.RWKV7LM",
        )),
        *(f"!name:{name}" for name in (
            "cosyvoice.utils.common.ras_sampling", "matcha.utils.audio.mel_spectrogram",
            "torchaudio.functional.compute_kaldi_pitch",
            "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer",
            *(f"cosyvoice.dataset.processor.{step}" for step in (
                "batch", "compute_f0", "compute_fbank", "compute_whisper_fbank", "filter",
                "padding", "parquet_opener", "parse_embedding", "resample", "shuffle", "sort",
                "tokenize", "truncate", "individual_file_opener",
            )),
        )),
    }
)  # fmt: skip
"""Every tag of the public YAML files of CosyVoice2, 3 and RWKVTTS so far. None of them is run."""

FACTOR = re.compile(r"<(\w+)>|\d+")


def read(folder: str | Path) -> dict[str, Any]:
    """Read the settings of a release: plain values, ``!ref`` replaced by what it refers to.

    An object's class is under ``"class"`` of its mapping. Empty where a release has no YAML.
    Raises ``ConfigError`` for a tag that is not on the list, for YAML that is broken, and for
    anchors, which such a file has no use for.
    """
    for name in files.SETTINGS:
        path = Path(folder) / name
        if path.is_file():
            return _read(path)
    return {}


def check(settings: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` unless every dotted key that the settings have is as expected."""
    wrong = []
    for key, value in expected.items():
        row: Any = settings
        for part in key.split("."):
            row = row.get(part) if isinstance(row, dict) else None
        if row is not None and row != value:
            wrong.append(f"{key} is {row}, here {value}")
    if wrong:
        raise CheckpointError(
            f"The release is of another size than the system: {'; '.join(wrong)}.",
            where,
            "Change the fields of the slots to those of the release.",
        )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > MOST_BYTES:
            raise _refuse("it is too long to be one", path, 1)
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "anchor", None) is not None:
                raise _refuse("it uses an anchor", path, event.start_mark.line + 1)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(f"it cannot be read ({error})", path, 1) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = f"it is no YAML ({getattr(error, 'problem', None) or error})"
        raise _refuse(why, path, mark.line + 1 if mark else 1) from error
    except RecursionError as error:
        raise _refuse("it is too deep", path, 1) from error
    if not isinstance(tree, yaml.MappingNode):
        raise _refuse("it is no mapping of keys to values", path, 1)
    values = _plain(tree, path, 0)
    return _referred(values, values)


def _plain(node: Any, path: Path, depth: int) -> Any:
    """Turn a node into a plain value, and ``!ref`` into a ``_Reference``."""
    import yaml

    line = node.start_mark.line + 1
    if depth > DEEPEST:
        raise _refuse("it is too deep", path, line)
    tag = str(node.tag)
    custom = not tag.startswith("tag:yaml.org,2002:")
    if (custom and tag not in TAGS) or tag.startswith("tag:yaml.org,2002:python"):
        raise _refuse(f"its tag {tag} is on no list", path, line)
    if tag == "!ref":
        return _Reference(str(node.value), path, line)
    if isinstance(node, yaml.MappingNode):
        rows = {str(k.value): _plain(v, path, depth + 1) for k, v in node.value}
        return {"class": tag.partition(":")[2], **rows} if custom else rows
    if isinstance(node, yaml.SequenceNode):
        return [_plain(inner, path, depth + 1) for inner in node.value]
    if custom:
        return {"class": tag.partition(":")[2]}
    value = yaml.SafeLoader("").construct_object(node)
    if isinstance(value, str) and re.fullmatch(r"-?\d+(?:\.\d*)?e-?\d+", value):
        # YAML 1.1 takes "1e-06" for a word
        return float(value)
    return value if isinstance(value, str | int | float | bool | None) else str(node.value)


class _Reference:
    """``!ref <name>``, or a product of names and whole numbers."""

    def __init__(self, text: str, path: Path, line: int) -> None:
        matches = [FACTOR.fullmatch(word.strip()) for word in text.split("*")]
        if not all(matches):
            raise _refuse(f"its reference {text!r} is no name and no product", path, line)
        self.factors = [match for match in matches if match]
        self.path, self.line = path, line

    def value(self, top: dict[str, Any]) -> Any:
        missing = [match[1] for match in self.factors if match[1] and match[1] not in top]
        if missing:
            raise _refuse(f"it refers to {missing[0]}, which it has not", self.path, self.line)
        rows = [top[match[1]] if match[1] else int(match[0]) for match in self.factors]
        if len(rows) > 1:
            if not all(type(row) in (int, float) for row in rows):
                raise _refuse("it multiplies what is no number", self.path, self.line)
            return math.prod(rows)
        # a part that is referred to is named, not copied: a file cannot grow by referring
        return (
            f"<{self.factors[0][1]}>" if isinstance(rows[0], dict | list | _Reference) else rows[0]
        )


def _referred(value: Any, top: dict[str, Any]) -> Any:
    if isinstance(value, _Reference):
        return value.value(top)
    if isinstance(value, dict):
        return {key: _referred(row, top) for key, row in value.items()}
    if isinstance(value, list):
        return [_referred(row, top) for row in value]
    return value


def _refuse(why: str, path: Path, line: int) -> ConfigError:
    return ConfigError(
        f"The YAML of the release is refused: {why}.",
        f"{path}:{line}",
        "Use the file of the release as it was published; nothing in it was run.",
    )
