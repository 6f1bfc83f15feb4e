"""Tiny .onnx files in the shape of the release's: a speech tokenizer and a speaker encoder.

Node names follow the release's, which an exporter made from the module tree, because the weights
are read by them; the numbers in names outside the blocks mean nothing, as they do there.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEAD = 64


class Graph:
    """Collects nodes and weights; every method gives the name of what it makes."""

    def __init__(self, folded=False):
        self.nodes, self.weights, self.count, self.folded = [], [], 0, folded

    def constant(self, value, name=None, dtype=np.float32):
        """Weights, which stand in the list of initialisers."""
        self.count += 1
        name = name or f"onnx::Something_{self.count}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def number(self, value, dtype=np.float32):
        """Numbers of the code, which are nodes unless a tool folded them into the weights."""
        if self.folded:
            return self.constant(value, dtype=dtype)
        return self.node("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def node(self, kind, *inputs, name=None, outputs=1, **attributes):
        self.count += 1
        name = name or f"/{kind}_{self.count}"
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=name, **attributes))
        return results[0] if outputs == 1 else results

    def linear(self, x, place, weight, bias=None):
        y = self.node("MatMul", x, self.constant(weight.T), name=f"{place}/MatMul")
        if bias is None:
            return y
        # the exporter puts the bias first
        return self.node("Add", self.constant(bias), y, name=f"{place}/Add")

    def norm(self, x, place, weight, bias, epsilon):
        return self.node(
            "LayerNormalization", x, self.constant(weight), self.constant(bias),
            name=f"{place}/LayerNormalization", axis=-1, epsilon=epsilon,
        )  # fmt: skip

    def gelu(self, x, place):
        """By the error function, as the exporter writes it."""
        y = self.node("Div", x, self.number(2**0.5), name=f"{place}/Div")
        y = self.node("Erf", y, name=f"{place}/Erf")
        y = self.node("Add", y, self.number(1.0), name=f"{place}/Add")
        y = self.node("Mul", x, y, name=f"{place}/Mul")
        return self.node("Mul", y, self.number(0.5), name=f"{place}/Mul_1")

    def save(self, path, inputs, output):
        graph = helper.make_graph(self.nodes, "main_graph", inputs, [output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return path


def speech_tokenizer(path, state, layers, positions=1024, folded=False):
    """An .onnx file of the speech tokenizer with weights by the reference's names, as arrays."""
    graph = Graph(folded)
    x = "feats"
    for index, name in enumerate(("conv1", "conv2")):
        weight = graph.constant(state[f"encoder.{name}.weight"], f"onnx::Conv_{2216 + 2 * index}")
        bias = graph.constant(state[f"encoder.{name}.bias"], f"onnx::Conv_{2217 + 2 * index}")
        x = graph.node("Conv", x, weight, bias, name=f"/{name}/Conv", strides=[2], pads=[1, 1])
        x = graph.gelu(x, f"/Gelu_{index}")
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    rotary = _rotary(graph, x, positions)
    for layer in range(layers):
        x = _block(graph, x, layer, state, rotary)
    digits = "quantizer._codebook.project_down"
    weight = graph.constant(state[f"{digits}.weight"].T, "onnx::MatMul_2536")
    y = graph.node("MatMul", x, weight, name="/quantizer/project_in/MatMul")
    bias = graph.constant(state[f"{digits}.bias"], "quantizer.project_in.bias")
    y = graph.node("Add", bias, y, name="/quantizer/project_in/Add")
    y = graph.node("Mul", graph.node("Tanh", y), graph.number(0.9990000128746033))
    y = graph.node("Add", graph.node("Round", y), graph.number(1.0))
    y = graph.node("Mul", y, graph.constant(3.0 ** np.arange(8)), name="/quantizer/Mul")
    y = graph.node("ReduceSum", y, graph.number([2], dtype=np.int64), keepdims=0)
    # the length is an input of the release's graph, where it masks a batch
    zero = graph.node("Mul", "feats_length", graph.number([0], dtype=np.int32))
    y = graph.node("Cast", y, to=TensorProto.INT32)
    graph.nodes.append(helper.make_node("Add", [y, zero], ["indices"]))
    width = state["encoder.conv1.weight"].shape[1]
    inputs = [
        helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, width, "T"]),
        helper.make_tensor_value_info("feats_length", TensorProto.INT32, [1]),
    ]
    output = helper.make_tensor_value_info("indices", TensorProto.INT32, [1, "N"])
    return graph.save(path, inputs, output)


def _rotary(graph, x, positions):
    """Cosines and sines [1, T, 1, HEAD] of as many positions as ``x`` [1, T, D] has."""
    angle = np.outer(np.arange(positions), 10_000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    angle = np.concatenate([angle, angle], axis=1)[None, :, None]
    length = graph.node("Gather", graph.node("Shape", x), graph.number([1], dtype=np.int64))
    start, axis = graph.number([0], dtype=np.int64), graph.number([1], dtype=np.int64)
    return [
        graph.node("Slice", graph.number(table), start, length, axis)
        for table in (np.cos(angle), np.sin(angle))
    ]


def _block(graph, x, layer, state, rotary):
    place, exported = f"/blocks.{layer}", f"encoder.blocks.{layer}"

    def of(name, *parts):
        return [state[f"{exported}.{name}.{part}"] for part in parts or ("weight", "bias")]

    h = graph.norm(x, f"{place}/attn_ln", *of("attn_ln"), epsilon=1e-6)
    width = len(state[f"{exported}.attn_ln.weight"])
    heads = graph.number([1, -1, width // HEAD, HEAD], dtype=np.int64)
    flat = graph.number([1, -1, width], dtype=np.int64)
    parts = {}
    for name in ("query", "key", "value"):
        weights = of(f"attn.{name}", *(("weight",) if name == "key" else ()))
        y = graph.linear(h, f"{place}/attn/{name}", *weights)
        parts[name] = graph.node("Reshape", y, heads, name=f"{place}/attn/Reshape_{name}")
    for name in ("query", "key"):
        low, high = graph.node("Split", parts[name], outputs=2, axis=3)
        turned = graph.node("Concat", graph.node("Neg", high), low, axis=3)
        y = graph.node(
            "Add",
            graph.node("Mul", parts[name], rotary[0]),
            graph.node("Mul", turned, rotary[1]),
            name=f"{place}/attn/Add_{name}",
        )
        perm = [0, 2, 1, 3] if name == "query" else [0, 2, 3, 1]
        y = graph.node("Transpose", y, perm=perm)
        scale = graph.number(HEAD**-0.25)
        parts[name] = graph.node("Mul", y, scale, name=f"{place}/attn/Mul_{name}")
    weights = graph.node("Softmax", graph.node("MatMul", parts["query"], parts["key"]), axis=-1)
    value = graph.node("Transpose", parts["value"], perm=[0, 2, 1, 3])
    y = graph.node("Transpose", graph.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    y = graph.linear(graph.node("Reshape", y, flat), f"{place}/attn/out", *of("attn.out"))
    memory = graph.node("Reshape", parts["value"], flat)
    turned = graph.node("Transpose", memory, perm=[0, 2, 1])
    kernel = of("attn.fsmn_block", "weight")[0]
    turned = graph.node(
        "Conv", turned, graph.constant(kernel), name=f"{place}/attn/fsmn_block/Conv",
        group=width, pads=[15, 15],
    )  # fmt: skip
    memory = graph.node("Add", graph.node("Transpose", turned, perm=[0, 2, 1]), memory)
    x = graph.node("Add", x, graph.node("Add", y, memory))
    h = graph.norm(x, f"{place}/mlp_ln", *of("mlp_ln"), epsilon=1e-5)
    h = graph.linear(h, f"{place}/mlp/mlp.0", *of("mlp.0"))
    h = graph.gelu(h, f"{place}/mlp/mlp.1")
    return graph.node("Add", x, graph.linear(h, f"{place}/mlp/mlp.2", *of("mlp.2")))


def speaker_encoder(path, width=192, seed=0):
    """An .onnx file that maps fbank [1, T, 80] to a vector [1, width]: a mean and a projection."""
    graph, random = Graph(), np.random.default_rng(seed)
    y = graph.node("Abs", "input")
    y = graph.node("ReduceMean", y, axes=[1], keepdims=0)
    weight = graph.constant(random.standard_normal((80, width)) * 0.3)
    graph.nodes.append(helper.make_node("MatMul", [y, weight], ["output"], name="/MatMul"))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "T", 80])]
    return graph.save(
        path, inputs, helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, width])
    )


def random_state(width=64, layers=2, mels=128, seed=0):
    """Weights of a speech tokenizer by the reference's names, as arrays."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    state = {
        "encoder.conv1.weight": normal(width, mels, 3), "encoder.conv1.bias": normal(width),
        "encoder.conv2.weight": normal(width, width, 3), "encoder.conv2.bias": normal(width),
        "quantizer._codebook.project_down.weight": 2 * normal(8, width),
        "quantizer._codebook.project_down.bias": 0.1 * normal(8),
    }  # fmt: skip
    for layer in range(layers):
        block = f"encoder.blocks.{layer}"
        for name in ("query", "key", "value", "out"):
            state[f"{block}.attn.{name}.weight"] = normal(width, width)
            if name != "key":
                state[f"{block}.attn.{name}.bias"] = 0.1 * normal(width)
        state[f"{block}.attn.fsmn_block.weight"] = normal(width, 1, 31)
        for name in ("attn_ln", "mlp_ln"):
            state[f"{block}.{name}.weight"] = 1 + 0.1 * normal(width)
            state[f"{block}.{name}.bias"] = 0.1 * normal(width)
        for name, wide, narrow in (("mlp.0", 4 * width, width), ("mlp.2", width, 4 * width)):
            state[f"{block}.{name}.weight"] = normal(wide, narrow)
            state[f"{block}.{name}.bias"] = 0.1 * normal(wide)
    return state
