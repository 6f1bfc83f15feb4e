"""The public reference's language model on weights of our making; writes the golden codes.

As in ``cosyvoice2_reference``: nothing of the reference is kept here. ``WISHBONE_COSYVOICE`` names
a checkout of FunAudioLLM/CosyVoice; ``transformers`` gives the Qwen2 inside. ``python
tests/plugins/cosyvoice2_lm_reference.py`` writes tests/plugins/golden/cosyvoice2_lm.json.
"""

import importlib
import json
import sys
import types
from unittest.mock import patch

import torch
from cosyvoice2_reference import GOLDEN, folder, importing

WIDTH, LAYERS, HEADS, GROUPS, INNER, ROWS = 32, 2, 4, 2, 48, 40
CODES = 6561
PROMPT = [int(code) for code in torch.arange(15) * 431 % CODES]
CASES = {
    "plain": {"text": [5, 9, 11]},
    "zero-shot": {"text": [5, 9, 11], "prompt_text": [30, 31], "speech": PROMPT[:7]},
    "instruct": {"text": [7, 8], "prompt_text": [20, 21, 39]},
    "long": {"text": list(range(3, 15)), "prompt_text": [1, 2], "speech": PROMPT},
}
ALTERNATING = {
    "plain": {"text": list(range(3, 15))},
    "zero-shot": {"text": list(range(3, 19)), "prompt_text": [30, 31, 32], "speech": PROMPT[:9]},
    "whole block": {"text": list(range(3, 12)), "prompt_text": [30, 31, 32, 33, 34],
                    "speech": PROMPT},
}  # fmt: skip
"""Requests; alternating ones give their text id by id."""


def shapes():
    """Names and shapes of a tiny ``llm.pt``."""
    size, groups = WIDTH, WIDTH // HEADS * GROUPS
    layer = {
        "self_attn.q_proj": (size, size), "self_attn.k_proj": (groups, size),
        "self_attn.v_proj": (groups, size), "self_attn.o_proj": (size, size),
        "mlp.gate_proj": (INNER, size), "mlp.up_proj": (INNER, size),
        "mlp.down_proj": (size, INNER), "input_layernorm": (size,),
        "post_attention_layernorm": (size,),
    }  # fmt: skip
    rows = {
        "llm_embedding.weight": (2, size), "speech_embedding.weight": (CODES + 3, size),
        "llm_decoder.weight": (CODES + 3, size), "llm_decoder.bias": (CODES + 3,),
        "llm.model.model.embed_tokens.weight": (ROWS, size),
        "llm.model.lm_head.weight": (ROWS, size), "llm.model.model.norm.weight": (size,),
    }  # fmt: skip
    for number in range(LAYERS):
        for name, shape in layer.items():
            rows[f"llm.model.model.layers.{number}.{name}.weight"] = shape
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                rows[f"llm.model.model.layers.{number}.{name}.bias"] = shape[:1]
    return rows


def weights():
    """A tiny ``llm.pt``, the same on any machine: hashed numbers, no generator."""
    tensors = {}
    for number, (name, shape) in enumerate(sorted(shapes().items())):
        at = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + 7919.0 * number
        wild = torch.sin(at * 12.9898) * 43758.5453
        row = ((wild - wild.floor()) * 3.46 - 1.73).view(shape)
        spread = 1.0 if "embed" in name else 1.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        tensors[name] = (row * spread + (len(shape) == 1 and "norm" in name)).float()
    tensors["llm.model.lm_head.weight"] = tensors["llm.model.model.embed_tokens.weight"]
    # the two ids that mean nothing are rare, the end is not
    tensors["llm_decoder.bias"][CODES:] = torch.tensor([2.5, -9.0, -9.0])
    return tensors


def body():
    """A Qwen2 of ``transformers`` in the tiny shape, with the release's names inside."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=GROUPS, intermediate_size=INNER, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    inner = {name.removeprefix("llm.model."): row for name, row in weights().items()}
    model.load_state_dict({name: inner[name] for name in model.state_dict()})
    return model


class Body(torch.nn.Module):
    """What the reference wants of its Qwen2, with whole masks, which its own step lacks."""

    def __init__(self):
        super().__init__()
        self.model = body()

    def forward_one_step(self, xs, masks, cache=None):
        """Vectors [1, T, D] and what came before -> the last hidden vectors, and what came."""
        past = None if cache is None else cache.past
        output = self.model.model(inputs_embeds=xs, past_key_values=past, use_cache=True)
        return output.last_hidden_state, Cache(output.past_key_values)


class Cache:
    """The reference reads the length of the past as ``cache[0][0].size(2)``."""

    def __init__(self, past):
        self.past = past

    def __getitem__(self, index):
        return [torch.zeros(1, 1, self.past.get_seq_length(), 1)]


def public_class(name):
    """A class of the reference's llm.py, imported with stubs for what it does not use here."""
    # first: what is imported inside the patch is forgotten behind it, and torch cannot be, twice
    from transformers import Qwen2ForCausalLM  # noqa: F401

    quiet = types.SimpleNamespace(info=lambda *_: None)
    empty = types.SimpleNamespace(
        SpeechTokenExtractor=None, online_feature=False, onnx_path="", logging=quiet,
        IGNORE_ID=-1, th_accuracy=None,
    )  # fmt: skip
    stubs = {f"cosyvoice.utils.{name}": empty for name in ("onnx", "file_utils", "common")}
    with importing(folder("WISHBONE_COSYVOICE")), patch.dict(sys.modules, stubs):
        return getattr(importlib.import_module("cosyvoice.llm.llm"), name)


def language_model():
    """The reference's class on the tiny weights, drawing the likeliest id."""
    cls = public_class("Qwen2LM")
    model = cls(WIDTH, WIDTH, CODES, Body(), lambda scores, *_: int(scores.argmax())).eval()
    rows = weights()
    outer = {n: rows[n] for n in model.state_dict() if not n.startswith("llm.")}
    model.load_state_dict(outer, strict=False)
    return model


def _row(ids):
    return torch.tensor([ids], dtype=torch.long).view(1, -1), torch.tensor([len(ids)])


@torch.inference_mode()
def run():
    """Codes of every case, from the reference."""
    model = language_model()
    results = {"at once": {}, "alternating": {}}
    for name, case in CASES.items():
        text, size = _row(case["text"])
        before, length = _row(case.get("prompt_text", []))
        speech, count = _row(case.get("speech", []))
        arguments = (text, size, before, length, speech, count, None)
        results["at once"][name] = list(model.inference(*arguments))
    for name, case in ALTERNATING.items():
        before, length = _row(case.get("prompt_text", []))
        speech, count = _row(case.get("speech", []))
        text = (torch.tensor([[row]]) for row in case["text"])
        output = model.inference_bistream(text, before, length, speech, count, None)
        results["alternating"][name] = list(output)
    return results


def write():
    """Write the golden file."""
    (GOLDEN / "cosyvoice2_lm.json").write_text(json.dumps(run(), indent=1) + "\n")


if __name__ == "__main__":
    write()
