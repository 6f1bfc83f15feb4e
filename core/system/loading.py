"""Weights into modules: every name accounted for, releases of others and wrapped bases included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.release import ReleasePart
from wishbone.core.model.wrapper import Wrapper, wrappers
from wishbone.core.registry.loader import guarded
from wishbone.core.weights import releases
from wishbone.core.weights.files import FILE, part_tensors


def load_part(
    module: nn.Module,
    folder: str | Path,
    slot: str = "model",
    grow: Callable[[nn.Module, dict[str, Tensor]], str] | None = None,
) -> str:
    """Load a module from a checkpoint folder, every name accounted for.

    Which file and names is told by ``part_tensors``; where there is no file of ours, whatever
    ``wishbone.core.weights.releases`` knows. ``grow`` may add to the tensors what the module has more.
    Returns what a person should know, or nothing.
    """
    folder = Path(folder)
    own = any((folder / name).is_file() for name in (f"{slot}.safetensors", FILE))
    if not own and (note := load_release(module, folder, slot)) is not None:
        return note
    tensors, path = part_tensors(folder, slot)
    note = grow(module, tensors) if grow else ""
    load_tensors(module, tensors, str(path))
    return note


def load_release(module: nn.Module, folder: Path, slot: str) -> str | None:
    """Fill a module from a folder that is a release -> a note; None where it is none.

    ``slot`` is "model" for the whole language model, or a slot of the configuration. Raises
    ``PluginBroken`` where nobody knows the folder and a reader that may have known it is broken.
    """
    if slot != "model" and not isinstance(module, ReleasePart):
        return None
    match = releases.find_reader(folder)
    if match.entry is None:
        if match.failed:
            raise match.failed[0]
        return None
    if isinstance(module, ReleasePart):
        module.load_release(folder)
        return ""
    with guarded(match.entry):
        result = match.part.language_model(folder, module)
        tensors, note = result.tensors, result.note
    load_tensors(module, tensors, str(folder))
    return note


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Copy named tensors into a module, keeping the module's dtypes and devices.

    A backbone that wraps another takes the plain one's, too: ``settle``. Raises
    ``CheckpointError`` that lists all missing, unexpected and misshaped names together; then the
    module is as it was.
    """
    wanted = module.state_dict()
    tensors, fresh = settle(module, tensors)
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misshaped = [
        f"{name} (file {list(tensors[name].shape)}, model {list(wanted[name].shape)})"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {label}: {', '.join(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights are not those of this {type(module).__name__}: {'; '.join(problems)}.",
            where,
            "Use the configuration they were saved with (config.yaml beside them).",
        )
    module.load_state_dict(tensors)
    for wrapper in fresh:
        wrapper.adopt()


def settle(
    module: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """``tensors`` under the names that ``module`` has for them, and the wrappers that begin.

    For each wrapper in it: tensors that are all there stay; those of its plain base get the
    wrapper's names, and its own keep their values; its own alone are joined by the base's, from
    the folder that the base's ``weights`` names. What fits none of these is left as it is.
    """
    tensors, begin = dict(tensors), []
    for prefix, wrapper in wrappers(module):
        here = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
        found, fresh = _settle_one(wrapper, {name: tensors[full] for name, full in here.items()})
        for full in here.values():
            del tensors[full]
        tensors |= {prefix + name: tensor for name, tensor in found.items()}
        begin += fresh
    return tensors, begin


def begin(module: nn.Module) -> None:
    """For a module that no weights were given for: read those of bases that name a folder."""
    for _, wrapper in wrappers(module):
        if wrapper.base_weights:
            tensors, fresh = _base_tensors(wrapper)
            wrapper.load_state_dict(wrapper.state_dict() | tensors)
            for inner in fresh:
                inner.adopt()
        else:
            begin(wrapper.base)
        wrapper.adopt()


def _settle_one(
    wrapper: Wrapper, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """``settle`` for one wrapper; names are its own."""
    wanted, names, own = wrapper.state_dict(), wrapper.base_names(), wrapper.own_names()
    if not tensors or wanted.keys() == tensors.keys():
        return dict(tensors), []
    if wrapper.base_weights and set(own) == tensors.keys():
        below, fresh = _base_tensors(wrapper)
        return {**tensors, **below}, fresh
    below, fresh = dict(tensors), []
    if isinstance(wrapper.base, Wrapper):
        below, fresh = _settle_one(wrapper.base, tensors)
    if not wrapper.begins or below.keys() != names.keys():
        return dict(tensors), []
    kept = {name: wanted[name] for name in own}
    return {**kept, **_renamed(below, names)}, [*fresh, wrapper]


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _base_tensors(wrapper: Wrapper) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """The base's tensors from its own folder by the wrapper's names; wrappers that begin."""
    tensors, path = part_tensors(weights_folder(wrapper.base_weights), "backbone")
    names, fresh = wrapper.base_names(), []
    if isinstance(wrapper.base, Wrapper):
        tensors, fresh = _settle_one(wrapper.base, tensors)
    there = wrapper.state_dict()
    wrong = sorted(names.keys() ^ tensors.keys()) or [
        name for name, tensor in tensors.items() if tensor.shape != there[names[name]].shape
    ]
    if wrong:
        raise CheckpointError(
            f"The weights are not those of the base, a {type(wrapper.base).__name__}; missing,"
            f" unexpected or of another shape: {', '.join(wrong)}.",
            str(path),
            "Name the folder of the base's own weights under 'base: {weights: FOLDER}'.",
        )
    return _renamed(tensors, names), fresh
