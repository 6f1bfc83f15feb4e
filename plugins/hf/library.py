"""The package ``transformers``: its import, configurations and models, without any download.

Everything of it that this folder uses is imported here and in ``memory.py``. Kernels for GPUs that
other packages bring (fla, mamba_ssm, causal_conv1d) are bound by transformers when it imports the
file of a model, and fail on a machine without a GPU; they are hidden from it there.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.errors import CheckpointError, ConfigError, MissingExtra
from wishbone.plugins.hf.families import KERNELS

INSTALL = "pip install 'wishbone-tts[hf]'"
try:
    import transformers
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
except ImportError as error:
    raise MissingExtra(
        f"The package 'transformers' cannot be imported ({error}).", "the plug-in 'hf'", INSTALL
    ) from error

VERSION = transformers.__version__
# torch lists once which functions ``torch.device`` covers. transformers replaces ``torch.linspace``
# while it reads weights; a list made then would lack it, and builds on "meta" would break for good.
with torch.device("cpu"):
    torch.empty(0)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Tell whether advice helps here: kernels for a GPU are of no use without one."""
    return torch.cuda.is_available() or "falling back to its reference" not in record.getMessage()


logging.getLogger("transformers.integrations.hub_kernels").addFilter(_is_of_use)
DOWNLOADS = ("kernels",)
"""A package that would fetch kernels, and the name of a folder of ours, too."""
ROWS = 8
"""Rows of the table of ids that a model is built with: it reads vectors, and the table goes."""
IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
UNUSED = ("architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id",
          "transformers_version", "model_type", "_name_or_path", "vocab_size",
          "return_dict", "output_attentions", "output_hidden_states", "problem_type",
          "chunk_size_feed_forward", "is_encoder_decoder", "use_cache", *IDS)  # fmt: skip
"""Values of a released ``config.json`` that say nothing about a backbone."""


@contextmanager
def kernels_hidden() -> Iterator[None]:
    """Let no kernels be fetched meanwhile, nor imported where there is no GPU to run them."""
    hidden = DOWNLOADS if torch.cuda.is_available() else DOWNLOADS + KERNELS
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(before)


def families() -> list[str]:
    """List the families of this version of transformers that have a model to build."""
    return sorted(str(name) for name in CONFIG_MAPPING)


def has_value(family: str, name: str) -> bool:
    """Tell whether configurations of a family have a value of this name."""
    return hasattr(CONFIG_MAPPING[family](), name)


def make_config(family: str, values: Mapping[str, Any]) -> Any:
    """Make the configuration of a model without its table of ids.

    Raises ``ConfigError`` for values that the family refuses or does not have.
    """
    cls = CONFIG_MAPPING[family]
    small = {"vocab_size": ROWS, **dict.fromkeys(IDS, 0)}
    try:
        config = cls(**copy.deepcopy(dict(values)), **small)
    # transformers checks values with classes of errors of several packages
    except Exception as error:
        raise ConfigError(
            f"A '{family}' of transformers refuses these values: {_first_line(error)}",
            "config of the backbone 'hf'",
            f"Correct them; the fields are those of {cls.__name__} in transformers {VERSION}.",
        ) from error
    legal = config.to_dict().keys() | set(getattr(cls, "attribute_map", {}))
    default = cls()
    wrong = sorted(n for n in values if n not in legal or not hasattr(default, n))
    if wrong:
        raise ConfigError(
            f"A '{family}' of transformers has no {', '.join(wrong)}.",
            "config of the backbone 'hf'",
            f"Its fields are those of {cls.__name__} in transformers {VERSION}.",
        )
    return config


def build_model(config: Any) -> nn.Module:
    """Build a model with random weights and without its table of ids.

    Raises ``ConfigError`` for a configuration of which none can be built.
    """
    with kernels_hidden():
        try:
            model = AutoModel.from_config(config)
        # any layer may refuse its sizes, in any way
        except Exception as error:
            raise ConfigError(
                f"No '{config.model_type}' can be built: {_first_line(error)}",
                "config of the backbone 'hf'",
                "Correct the sizes.",
            ) from error
    model.set_input_embeddings(nn.Identity())
    return model.train(torch.is_grad_enabled())


def fetched(name: str) -> str:
    """Return a folder as it is, or fetch a model of the hub by its id -> its folder.

    Configuration and .safetensors only. Raises ``CheckpointError`` where that cannot be.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name, allow_patterns=["config.json", "*.safetensors", "*.index.json"]
        )
    except Exception as error:
        raise CheckpointError(
            f"The model cannot be fetched: {_first_line(error)}",
            name,
            "Check the id and the network, or name a folder and leave 'download' out.",
        ) from error


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read ``config.json`` -> family and every value of it that a backbone has.

    Of a model of several kinds of input, the part that reads text. Raises ``CheckpointError``.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).get_text_config(decoder=True)
    except Exception as error:
        raise CheckpointError(
            f"This is not a model that transformers {VERSION} knows: {_first_line(error)}",
            str(folder),
            "Name a folder with config.json and .safetensors; code beside them is never run.",
        ) from error
    return str(config.model_type), plain_values(config)


def plain_values(config: Any) -> dict[str, Any]:
    """Turn a configuration to plain values, all that say something."""
    return _plain(config.to_dict())


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing, also inside configurations of parts, which keep their family."""
    plain = {}
    for name, value in values.items():
        if name in UNUSED or value is None:
            continue
        if isinstance(value, Mapping) and "model_type" in value:
            plain[name] = {"model_type": value["model_type"], **_plain(value)}
        elif _is_plain(value):
            plain[name] = value
    return plain


def require_folder(folder: Path, do: str) -> None:
    """Raise ``CheckpointError`` where there is no such folder; nothing is fetched for it."""
    if not folder.is_dir():
        raise CheckpointError("There is no folder of this name.", str(folder), do)


def read_body(folder: Path) -> dict[str, Tensor]:
    """Read a language model's tensors without its tables of ids, by the names of a backbone.

    Raises ``CheckpointError`` as ``read_model``.
    """
    model = read_model(folder)
    model = getattr(model, "language_model", model)
    model.set_input_embeddings(nn.Identity())
    return dict(model.state_dict())


def read_model(folder: Path) -> Any:
    """Read a released model in float32, running no code of its folder.

    transformers reads the files, because it knows older names of tensors and how experts are joined
    to one. Raises ``CheckpointError`` for a folder that it cannot read, or that lacks tensors.
    """
    with kernels_hidden():
        try:
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"transformers {VERSION} cannot read this model: {_first_line(error)}",
                str(folder),
                "Name a folder with config.json and complete .safetensors.",
            ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing: {', '.join(missing[:8])}.",
            str(folder),
            "Download the model again.",
        )
    return model


def _is_plain(value: Any) -> bool:
    """Tell whether YAML holds a value as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(n, str) and _is_plain(v) for n, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, float):
        return not math.isnan(value)
    return value is None or isinstance(value, (str, int, bool))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
