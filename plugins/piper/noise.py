"""The noise of a voice as inputs of its network, so that the same words always sound the same.

VITS draws noise for the durations and for the sound inside of the network, from a generator that
nobody can set: what a sentence sounds like would depend on all that the process spoke before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

STEPS = 12
"""Steps of sound for each id that noise is drawn for at first; speech has about 3."""
SPARE = 200
"""Further steps: 2 s."""
WIDTH = 192
"""Channels of the latent sound in every Piper voice, more than the durations have."""
TRIES = 6
"""Times that more noise is drawn, twice as much as before."""


def noise_as_inputs(model: Any, helper: Any) -> list[str]:
    """Replace every drawing of noise in an ONNX model by an input -> the names of the inputs.

    An input [N] gives as many values as are needed, from its beginning.
    """
    graph, names, nodes = model.graph, [], []
    zero, one = _constant(helper, "noise_zero", 0), _constant(helper, "noise_one", 1)
    graph.initializer.extend([zero, one])
    for node in graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        name = f"noise_{len(names)}"
        names.append(name)
        graph.input.append(helper.make_tensor_value_info(name, 1, [None]))
        like, output = node.input[0], node.output[0]
        nodes += [
            helper.make_node("Shape", [like], [f"{name}_shape"]),
            helper.make_node("ReduceProd", [f"{name}_shape"], [f"{name}_count"], keepdims=1),
            helper.make_node(
                "Slice", [name, zero.name, f"{name}_count", zero.name, one.name], [f"{name}_flat"]
            ),
            helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [output]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return names


def draw_noise(names: Sequence[str], ids: Sequence[int], steps: int) -> dict[str, np.ndarray]:
    """Noise [N] for every input, which follows from the ids alone, enough for so many steps.

    More steps begin with the same values.
    """
    noise = {}
    for name in names:
        seed = hashlib.sha256(f"{name} {list(ids)}".encode()).digest()
        generator = np.random.Generator(np.random.SFC64(int.from_bytes(seed, "big")))
        noise[name] = generator.standard_normal(WIDTH * steps, np.float32)
    return noise


def _constant(helper: Any, name: str, value: int) -> Any:
    return helper.make_tensor(name, 7, [1], [value])
