"""Read and write adapters in Hugging Face's folders: ``adapter_config.json`` and safetensors.

A folder is read without ``peft`` and trusted in nothing: every name, shape and number is checked,
and what this library would compute otherwise than ``peft`` is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.plugins.peft.adapter import Adapter
from wishbone.plugins.peft.layers import PARTS, part_shapes
from wishbone.plugins.peft.names import to_foreign_names, to_our_names

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Beginning of every module's name in the files of ``peft``."""
BASE = "wishbone_base"
"""Key in the safetensors file's own metadata: the base an adapter was trained on."""
LARGEST_CONFIG = 1 << 20
"""Bytes of a configuration that is read; ``peft`` writes about a thousand."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "trainable_token_indices": ([], {}, None),
    "target_parameters": ([], None),
    "layer_replication": ([], None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": ([], None),
    "arrow_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
}
"""Keys that change what an adapter computes, and the values at which they do not."""


def read_adapter(
    folder: str | Path,
    layers: Mapping[str, Any],
    rows: Mapping[str, list[int]] | None = None,
) -> Adapter:
    """Read the adapter in a folder for a base with these adaptable ``layers``.

    Module names may be the base's own, or those of fla, RWKV-LM or Qwen2; ``rows`` as
    ``names.fused_rows`` gives them. Raises ``CheckpointError``.
    """
    folder = Path(folder)
    config = _read_config(folder)
    adapter = _empty_adapter(config, folder)
    raw, adapter.base = _read_tensors(folder)
    modules: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in raw.items():
        module, part = _split(name.removeprefix(PREFIX), PARTS[adapter.method])
        if part:
            modules.setdefault(module, {})[part] = tensor.float()
        else:
            unknown.append(name)
    if unknown:
        _refuse(f"it has tensors that are no part of {adapter.method}: {_some(unknown)}", folder)
    _check_parts(modules, adapter, folder)
    adapter.layers, adapter.rank, lost = to_our_names(modules, layers, adapter, rows or {})
    if lost:
        _refuse(f"the base has no adaptable layers of these names: {_some(lost)}", folder)
    _check_shapes(adapter, layers, folder)
    return adapter


def write_adapter(
    adapter: Adapter, folder: str | Path, style: str = "", rows: Mapping[str, Any] | None = None
) -> Path:
    """Write the folder at once, under our names or those of ``style`` ("fla", "qwen2").

    ``rows`` are the rows of the parts of fused layers, for "qwen2". Raises ``CheckpointError`` if
    the folder is there.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(
            "The folder exists already and is not overwritten.",
            str(folder),
            "Choose another name, or move this one away.",
        )
    layers = to_foreign_names(adapter.layers, style, rows or {})
    tensors = {
        f"{PREFIX}{module}.{part}": tensor.detach().cpu().clone().contiguous()
        for module, parts in layers.items()
        for part, tensor in parts.items()
    }
    with new_folder(folder) as temporary:
        metadata = {"format": "pt"} | ({BASE: adapter.base} if adapter.base else {})
        save_file(tensors, temporary / FILE, metadata=metadata)
        text = json.dumps(_config(adapter, layers), indent=2, sort_keys=True)
        (temporary / CONFIG).write_text(text + "\n", encoding="utf-8")
    return folder


def _config(adapter: Adapter, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Fill ``adapter_config.json``; for keys that are left out ``peft`` has its defaults."""
    common = {
        "base_model_name_or_path": None,
        "bias": "none",
        "inference_mode": True,
        "r": adapter.rank,
        "target_modules": sorted(layers),
        "task_type": None,
    }
    if adapter.method == "miss":
        return common | {"peft_type": "MISS", "init_weights": True, "miss_dropout": 0.0}
    alpha = adapter.scale * adapter.rank
    return common | {
        "peft_type": "LORA",
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "use_dora": adapter.method == "dora",
        "use_rslora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"There is no {CONFIG}, so this is no adapter of peft.",
            str(folder),
            "Name the folder that peft's 'save_pretrained' or 'wishbone convert peft' wrote.",
        )
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it is larger than {LARGEST_CONFIG} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The configuration cannot be read: {error}.", str(path), "Get the folder again."
        ) from error
    return values


def _empty_adapter(config: Mapping[str, Any], folder: Path) -> Adapter:
    """Make the adapter that a configuration describes, without tensors."""
    kind, rank = str(config.get("peft_type")).upper(), config.get("r")
    if kind not in ("LORA", "MISS"):
        _refuse(f"it is of type {kind[:40]}, and LORA and MISS are known", folder)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        _refuse(f"its rank 'r' is {str(rank)[:40]}", folder)
    odd = [k for k, harmless in NEUTRAL.items() if k in config and config[k] not in harmless]
    if odd:
        _refuse(f"it uses what is not supported here: {', '.join(odd)}", folder)
    if kind == "MISS":
        if config.get("init_weights", True) not in (True, False):
            _refuse(f"it is the variant '{str(config['init_weights'])[:40]}' of MiSS", folder)
        return Adapter("miss", rank)
    initial = str(config.get("init_lora_weights", True)).lower()[:40]
    if initial.startswith(("pissa", "olora", "corda", "loftq", "lora_ga", "mica")):
        _refuse(
            f"it was begun as '{initial}' and belongs on weights that were changed then", folder,
            "Save it with peft's path_initial_model_for_weight_conversion, as ordinary LoRA.",
        )  # fmt: skip
    alpha = config.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e6:
        _refuse(f"its 'lora_alpha' is {str(alpha)[:40]}", folder)
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter("dora" if config.get("use_dora") else "lora", rank, scale)


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Read all tensors of the one file, and the mark of the base in it."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise CheckpointError(
            f"There is no {FILE}" + (", only a pickle, which could run code." if pickled else "."),
            str(folder),
            "Save the adapter with peft's 'save_pretrained', which writes safetensors.",
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            base = str((file.metadata() or {}).get(BASE, ""))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"The file is no safetensors file: {error}.", str(path), "Get the folder again."
        ) from error
    wrong = [n for n, t in tensors.items() if not t.is_floating_point() or not t.isfinite().all()]
    if wrong:
        _refuse(f"it holds what is no number: {_some(wrong)}", folder)
    return tensors, base


def _split(name: str, parts: tuple[str, ...]) -> tuple[str, str]:
    """Split a tensor's name into module and part; no part where it is none of them."""
    for part in parts:
        # older files of DoRA end in '.weight'
        for end in (part, f"{part}.weight"):
            if name.endswith(f".{end}"):
                return name.removesuffix(f".{end}"), part
    return name, ""


def _check_parts(
    modules: Mapping[str, Mapping[str, Tensor]], adapter: Adapter, folder: Path
) -> None:
    """Refuse modules that lack a part or have another rank than the configuration says."""
    if not modules:
        _refuse("it holds no tensor", folder)
    expected = set(PARTS[adapter.method])
    for module, parts in modules.items():
        if missing := sorted(expected - parts.keys()):
            _refuse(f"'{module}' lacks {', '.join(missing)}", folder)
        rank = parts["miss_block" if adapter.method == "miss" else "lora_A.weight"].shape[:1]
        if tuple(rank) != (adapter.rank,):
            _refuse(f"'{module}' has rank {list(rank)}, the configuration {adapter.rank}", folder)


def _check_shapes(adapter: Adapter, layers: Mapping[str, Any], folder: Path) -> None:
    """Refuse tensors that do not fit the base's layers."""
    for name, parts in adapter.layers.items():
        layer = layers[name]
        shapes = part_shapes(adapter.method, adapter.rank, layer.out_features, layer.in_features)
        for part, shape in shapes.items():
            if tuple(parts[part].shape) != shape:
                _refuse(
                    f"'{name}.{part}' has shape {list(parts[part].shape)}, and this base's layer"
                    f" [{layer.out_features}, {layer.in_features}] needs {list(shape)}", folder,
                )  # fmt: skip


def _some(names: list[str]) -> str:
    text = ", ".join(name[:80] for name in sorted(names)[:4])
    return text + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _refuse(why: str, folder: Path, do: str = "") -> None:
    raise CheckpointError(
        f"The adapter cannot be used: {why}.",
        str(folder),
        do or "Use an adapter that was trained on this base, saved by peft or by Wishbone.",
    )


def base_mark(tensors: Mapping[str, Tensor], adaptable: Mapping[str, Any]) -> str:
    """Tell bases apart by the tensors that neither adapters nor quantisation change.

    ``tensors`` are the plain base's by its own names. Empty where nothing is left to look at.
    """
    inside = tuple(f"{name}." for name in adaptable)
    unchanged = {n: t for n, t in sorted(tensors.items()) if not n.startswith(inside)}
    digest = hashlib.sha256()
    for name, tensor in unchanged.items():
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(
            tensor.detach().cpu().float().contiguous().flatten().view(torch.uint8).numpy()
        )
    return digest.hexdigest()[:16] if unchanged else ""
