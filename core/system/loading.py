"""Weights into modules: every tensor is accounted for, also of releases and of wrapped bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import commonprefix
from pathlib import Path

from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.release import ReleasePart
from wishbone.core.model.wrapper import Wrapper, wrappers
from wishbone.core.registry.loader import guarded
from wishbone.core.weights import releases
from wishbone.core.weights.folders import part_tensors
from wishbone.core.weights.tensor_files import FILE, listed, require_plausible, unwrapped


def load_part(
    module: nn.Module,
    folder: str | Path,
    slot: str = "model",
    grow: Callable[[nn.Module, dict[str, Tensor]], str] | None = None,
) -> str:
    """Load a module from a folder of weights, every tensor accounted for -> a note for people.

    The folder is a checkpoint of Wishbone, read by ``part_tensors``, or else a release that a
    reader of ``wishbone.core.weights.releases`` knows. ``grow`` may add rows that the module has
    and the file has not, and returns a note about them. The note may be empty.
    """
    folder = Path(folder)
    is_checkpoint = any((folder / name).is_file() for name in (f"{slot}.safetensors", FILE))
    if isinstance(module, ReleasePart) and not (folder / "config.yaml").is_file():
        # others name their files as ours are named
        is_checkpoint = False
    if isinstance(module, ReleasePart) and not folder.is_dir():
        # the part knows best what a folder of its own must be
        module.load_release(folder)
        return ""
    if not is_checkpoint and (note := load_release(module, folder, slot)) is not None:
        return note
    tensors, path = part_tensors(folder, slot)
    note = grow(module, tensors) if grow else ""
    load_tensors(module, tensors, str(path))
    return note


def load_release(module: nn.Module, folder: Path, slot: str) -> str | None:
    """Fill a module from a folder that is a release -> a note; None where it is no release.

    ``slot`` is "model" for the whole language model, or a slot of the configuration. Raises
    ``PluginBroken`` where no reader knows the folder and one that might have is broken.
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

    A backbone that wraps another takes the plain one's, too: ``match_wrappers``. Raises
    ``CheckpointError`` that counts all missing, unexpected and misshaped names together, or names
    tensors with numbers that cannot be weights; then the module is as it was.
    """
    state = module.state_dict()
    if (bare := unwrapped(tensors)).keys() == state.keys():
        tensors = bare
    tensors, beginning = match_wrappers(module, tensors)
    missing = sorted(state.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - state.keys())
    misshaped = [
        f"{name} (file {list(tensors[name].shape)}, model {list(state[name].shape)})"
        for name in sorted(state.keys() & tensors.keys())
        if tensors[name].shape != state[name].shape
    ]
    # a wrapper may keep its base in few bits, and converts it when it takes it in
    converting = tuple(prefix for prefix, _ in wrappers(module))
    retyped = [
        f"{name} (file {tensors[name].dtype}, model {state[name].dtype})"
        for name in sorted(state.keys() & tensors.keys())
        if tensors[name].is_floating_point() != state[name].is_floating_point()
        and not name.startswith(converting)
    ]
    problems = [
        f"{len(names)} {label}: {listed(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
            ("of another type", retyped),
        )
        if names
    ]
    if problems:
        begin = commonprefix(list(tensors))
        begin = begin[: begin.rfind(".") + 1]
        if len(missing) == len(state) and len(tensors) > 1 and begin:
            problems = [f"every name begins with '{begin}'", *problems]
        raise CheckpointError(
            f"The weights are not those of this {type(module).__name__}: {'; '.join(problems)}.",
            where,
            "Use the configuration they were saved with (config.yaml beside them).",
        )
    require_plausible(tensors, where)
    module.load_state_dict(tensors)
    for wrapper in beginning:
        wrapper.adopt()


def match_wrappers(
    module: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """Give ``tensors`` the names they have in ``module`` -> them, and the wrappers that begin.

    A wrapper begins where the tensors are those of its plain base: they get the names they have in
    the wrapper, whose own tensors keep their first values. Where only its own tensors are present,
    those of the base are read from the folder that the base's ``weights`` names. Tensors that
    match neither way stay as they are.
    """
    tensors, beginning = dict(tensors), []
    for prefix, wrapper in wrappers(module):
        full_names = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
        of_wrapper = {name: tensors.pop(full) for name, full in full_names.items()}
        matched, adopting = _match_wrapper(wrapper, of_wrapper)
        tensors |= {prefix + name: tensor for name, tensor in matched.items()}
        beginning += adopting
    return tensors, beginning


def load_bases(module: nn.Module) -> None:
    """Read the weights of wrapped bases that name a folder, for a module without weights."""
    for _, wrapper in wrappers(module):
        if wrapper.base_weights:
            tensors, beginning = _base_tensors(wrapper)
            wrapper.load_state_dict(wrapper.state_dict() | tensors)
            for inner in beginning:
                inner.adopt()
        else:
            load_bases(wrapper.base)
        wrapper.adopt()


def _match_wrapper(
    wrapper: Wrapper, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """``match_wrappers`` for one wrapper; names are those inside it."""
    state, names, own_names = wrapper.state_dict(), wrapper.base_names(), wrapper.own_names()
    if not tensors or state.keys() == tensors.keys():
        return dict(tensors), []
    if wrapper.base_weights and set(own_names) == tensors.keys():
        of_base, beginning = _base_tensors(wrapper)
        return {**tensors, **of_base}, beginning
    of_base, beginning = dict(tensors), []
    if isinstance(wrapper.base, Wrapper):
        of_base, beginning = _match_wrapper(wrapper.base, tensors)
    if not wrapper.begins or of_base.keys() != names.keys():
        return dict(tensors), []
    first_values = {name: state[name] for name in own_names}
    return {**first_values, **_renamed(of_base, names)}, [*beginning, wrapper]


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _backbone_tensors(folder: Path, wrapper: Wrapper) -> tuple[dict[str, Tensor], Path]:
    """Tensors of the innermost backbone from a checkpoint, or a release -> and their place."""
    inner: nn.Module = wrapper
    while isinstance(inner, Wrapper):
        inner = inner.base
    match = releases.find_reader(folder) if isinstance(inner, ReleasePart) else None
    if match is None or match.entry is None:
        return part_tensors(folder, "backbone")
    with guarded(match.entry):
        return match.part.language_model(folder, inner).tensors, folder


def _base_tensors(wrapper: Wrapper) -> tuple[dict[str, Tensor], list[Wrapper]]:
    """The base's tensors from its own folder by the wrapper's names; wrappers that begin."""
    tensors, path = _backbone_tensors(weights_folder(wrapper.base_weights), wrapper)
    names, beginning = wrapper.base_names(), []
    if isinstance(wrapper.base, Wrapper):
        tensors, beginning = _match_wrapper(wrapper.base, tensors)
    state = wrapper.state_dict()
    wrong = sorted(names.keys() ^ tensors.keys()) or [
        name for name, tensor in tensors.items() if tensor.shape != state[names[name]].shape
    ]
    if wrong:
        raise CheckpointError(
            f"The weights are not those of the base, a {type(wrapper.base).__name__}; missing,"
            f" unexpected or of another shape: {listed(wrong)}.",
            str(path),
            "Name the folder of the base's own weights under 'base: {weights: FOLDER}'.",
        )
    require_plausible(tensors, str(path))
    return _renamed(tensors, names), beginning
