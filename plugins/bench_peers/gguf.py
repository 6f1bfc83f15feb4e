"""RWKV-7 weights, by RWKV-LM's names, as a GGUF file that llama.cpp reads.

Names and shapes are those its own converter writes (``convert_hf_to_gguf.py``, architecture
``rwkv7``). Low-rank factors, vectors and norms stay float32; only the large matrices and the two
tables of the vocabulary take the file's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wishbone.core.contract.atomic import replacing

if TYPE_CHECKING:
    from torch import Tensor

TYPES = ("f32", "f16", "q8_0")
OUTSIDE_BLOCKS = {
    "emb.weight": "token_embd.weight",
    "head.weight": "output.weight",
    "blocks.0.ln0.weight": "token_embd_norm.weight",
    "blocks.0.ln0.bias": "token_embd_norm.bias",
    "ln_out.weight": "output_norm.weight",
    "ln_out.bias": "output_norm.bias",
}
"""RWKV-LM's name -> GGUF's."""
NORMS = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
MATRICES = {
    "att.receptance": "time_mix_receptance",
    "att.key": "time_mix_key",
    "att.value": "time_mix_value",
    "att.output": "time_mix_output",
    "ffn.key": "channel_mix_key",
    "ffn.value": "channel_mix_value",
}
FUSED = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
"""Rows of ``time_mix_lerp_fused``."""


def write_gguf(path: Path, tensors: Mapping[str, Tensor], kind: str) -> None:
    """Write one file, its large matrices as ``kind`` (see ``TYPES``)."""
    import gguf

    arrays = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "rwkv7")
        _describe(writer, arrays, kind)
        for name, values in arranged(arrays).items():
            _add(writer, name, values, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def arranged(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return RWKV-LM's tensors by GGUF's names, each in the shape llama.cpp expects."""
    result = {target: arrays[source] for source, target in OUTSIDE_BLOCKS.items()}
    for number in range(_blocks(arrays)):
        source, target = f"blocks.{number}.", f"blk.{number}."
        block = {n.removeprefix(source): v for n, v in arrays.items() if n.startswith(source)}
        for name, gguf_name in NORMS.items():
            for end in ("weight", "bias"):
                result[f"{target}{gguf_name}.{end}"] = block[f"{name}.{end}"]
        for name, gguf_name in MATRICES.items():
            result[f"{target}{gguf_name}.weight"] = block[f"{name}.weight"]
        result |= {target + name: values for name, values in _small(block).items()}
    return result


def _small(block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return everything of a block that is neither a norm nor a large matrix."""
    att = {n.removeprefix("att."): v for n, v in block.items() if n.startswith("att.")}
    if "v0" not in att:
        # block 0 mixes in nobody's value, yet llama.cpp asks for factors, of the shape of a's
        att |= {f"v{i}": att[f"a{i}"] for i in range(3)}
    fused = np.stack([att[name].reshape(1, 1, -1) for name in FUSED])
    result = {
        "time_mix_lerp_fused.weight": fused,
        "channel_mix_lerp_k.weight": block["ffn.x_k"].reshape(1, 1, -1),
    }
    for letter in "wavg":
        if letter != "g":
            result[f"time_mix_{letter}0.weight"] = att[f"{letter}0"].reshape(-1)
        for half in "12":
            factor = att[f"{letter}{half}"]
            result[f"time_mix_{letter}{half}.weight"] = np.ascontiguousarray(factor.T)
    for name in ("k_k", "k_a", "r_k"):
        result[f"time_mix_{name}.weight"] = att[name].reshape(-1)
    return result


def _add(writer: Any, name: str, values: np.ndarray, kind: str) -> None:
    from gguf import GGMLQuantizationType as Types
    from gguf.quants import quantize

    wide = name in ("token_embd.weight", "output.weight") or any(
        name.endswith(f".{matrix}.weight") for matrix in MATRICES.values()
    )
    if not wide or kind == "f32":
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    elif kind == "f16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, quantize(values, Types.Q8_0), raw_dtype=Types.Q8_0)


def _describe(writer: Any, arrays: Mapping[str, np.ndarray], kind: str) -> None:
    import gguf

    vocabulary, width = arrays["emb.weight"].shape
    block = "blocks.0.att."
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(width)
    writer.add_block_count(_blocks(arrays))
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(arrays[block + "r_k"].shape[1])
    writer.add_decay_lora_rank(arrays[block + "w1"].shape[1])
    writer.add_iclr_lora_rank(arrays[block + "a1"].shape[1])
    value = arrays.get("blocks.1.att.v1", arrays[block + "a1"])
    writer.add_value_residual_mix_lora_rank(value.shape[1])
    writer.add_gate_lora_rank(arrays[block + "g1"].shape[1])
    writer.add_feed_forward_length(arrays["blocks.0.ffn.key.weight"].shape[0])
    writer.add_head_count(0)
    writer.add_file_type(getattr(gguf.LlamaFileType, types[kind]))
    # the vocabulary is never read: positions arrive as ids; it only has to be there
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([f"t{i}" for i in range(vocabulary)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _blocks(arrays: Mapping[str, np.ndarray]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("blocks."))
