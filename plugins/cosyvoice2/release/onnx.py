"""Run a release's .onnx files, or read their weights; nothing in them is trusted.

``onnxruntime`` runs a file, ``onnx`` only reads it; both are extras, imported when they are needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError, MissingExtra

RUN = "onnxruntime"


@dataclass
class Node:
    """One operation of a graph that reads weights."""

    name: str
    """Such as ``/blocks.0/attn/query/MatMul``: the module it was exported from, and the kind."""
    kind: str
    """``MatMul``, ``Conv``, ``LayerNormalization``, ..."""
    weights: list[Tensor]
    """The weights it reads, in the order of its inputs."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Numbers that stand beside it, such as ``epsilon``."""


class Session:
    """A graph that onnxruntime runs on the CPU, its inputs given by position.

    Raises ``MissingExtra`` without onnxruntime, ``CheckpointError`` for a file that is no graph of
    so many ``inputs``.
    """

    def __init__(self, path: Path, what: str, inputs: int) -> None:
        runtime = _import(RUN, what)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # its own warnings about the graph's style are of no use to who runs it
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        # the classes of its errors differ from version to version
        except Exception as error:
            raise _broken(path, what, error) from error
        self._names = [value.name for value in self._session.get_inputs()]
        self._path, self._what = path, what
        if len(self._names) != inputs:
            raise CheckpointError(
                f"The {what} has {len(self._names)} inputs where {inputs} belong.",
                str(path),
                "Name the file of the release.",
            )

    def run(self, *values: Tensor) -> Tensor:
        """Compute the first output. Raises ``CheckpointError`` for inputs that do not fit."""
        feed = {name: v.detach().cpu().numpy() for name, v in zip(self._names, values, strict=True)}
        try:
            return torch.from_numpy(self._session.run(None, feed)[0])
        except Exception as error:
            raise _broken(self._path, self._what, error, "run") from error


def read_nodes(path: Path, what: str) -> Iterator[Node]:
    """Yield every node of a graph that reads weights, in the graph's order.

    Weights in other files beside the graph are not followed: a graph could name any file. Raises
    ``MissingExtra`` without ``onnx`` and ``CheckpointError`` for a file that is no graph.
    """
    onnx = _import("onnx", what)
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:
        raise _broken(path, what, error) from error
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        inputs = [initializers[name] for name in node.input if name in initializers]
        if inputs:
            yield Node(
                node.name,
                node.op_type,
                [_tensor(onnx, tensor, path, what) for tensor in inputs],
                {row.name: onnx.helper.get_attribute_value(row) for row in node.attribute},
            )


def _tensor(onnx: Any, initializer: Any, path: Path, what: str) -> Tensor:
    """Copy one weight. Raises ``CheckpointError`` for one that lies in another file."""
    if initializer.data_location == onnx.TensorProto.EXTERNAL:
        raise CheckpointError(
            f"The {what} keeps its weights in another file, which is not followed.",
            str(path),
            "Use the single file of the release.",
        )
    try:
        # a copy, because the array looks into the file's read-only bytes
        return torch.from_numpy(onnx.numpy_helper.to_array(initializer).copy())
    except Exception as error:
        raise _broken(path, what, error) from error


def _import(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"The {what} needs the package {package}: {error}",
            "a file of the release that ends in .onnx",
            "Run 'pip install wishbone-tts[cosyvoice2]'.",
        ) from error


def _broken(path: Path, what: str, error: Exception, verb: str = "opened") -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(
        f"The {what} cannot be {verb}: {reason[:300].rstrip('.')}.",
        str(path),
        "Download the file again, whole; it belongs to CosyVoice2-0.5B.",
    )
