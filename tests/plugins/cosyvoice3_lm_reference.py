"""CosyVoice3's public language model on weights of our making; writes the golden codes.

As in ``cosyvoice2_lm_reference``: nothing of the reference is kept here. ``WISHBONE_COSYVOICE``
names a checkout of FunAudioLLM/CosyVoice. ``python tests/plugins/cosyvoice3_lm_reference.py``
writes tests/plugins/golden/cosyvoice3_lm.json.
"""

import json

import cosyvoice2_lm_reference as second
import torch
from cosyvoice2_lm_reference import CODES, PROMPT, ROWS, WIDTH, Body, public_class
from cosyvoice2_reference import GOLDEN

EXTRA, MARKER = 200, ROWS - 1
PUBLIC_MARKER = 151646
"""The id of ``<|endofprompt|>`` that the public code has written into it."""
OPENING = [33, 34]
PREFIX = [*OPENING, MARKER]
CASES = {
    "prefix": {"text": [5, 9, 11], "instruct": PREFIX},
    "zero-shot": {
        "text": [5, 9, 11],
        "instruct": PREFIX,
        "prompt_text": [30, 31],
        "speech": PROMPT[:7],
    },
    "instruct": {"text": [7, 8], "instruct": [*OPENING, 20, 21, MARKER]},
    "long": {
        "text": list(range(3, 15)),
        "instruct": PREFIX,
        "prompt_text": [1, 2],
        "speech": PROMPT,
    },
}
ALTERNATING = {
    "prefix": {"text": list(range(3, 15)), "instruct": PREFIX},
    "zero-shot": {"text": list(range(3, 19)), "instruct": PREFIX, "prompt_text": [30, 31, 32],
                  "speech": PROMPT[:9]},
    "whole block": {"text": list(range(3, 12)), "instruct": [*OPENING, 22, MARKER],
                    "prompt_text": [30, 31, 32, 28, 29], "speech": PROMPT},
}  # fmt: skip
"""Requests; alternating ones give their text id by id."""
ENDS = {"at once": 2.0, "alternating": 1.2}
"""Length of the end's row: it comes too early in some requests, which shows what is banned."""
REFUSED = "refused"
"""Stands behind the codes of a request that the reference ends with an error."""


def shapes():
    """Names and shapes of a tiny ``llm.pt``."""
    table = {"speech_embedding.weight": (CODES + EXTRA, WIDTH),
             "llm_decoder.weight": (CODES + EXTRA, WIDTH)}  # fmt: skip
    others = ("llm_embedding.weight", "llm_decoder.bias", *table)
    return {name: shape for name, shape in second.shapes().items() if name not in others} | table


def weights(end):
    """A tiny ``llm.pt``: CosyVoice2's with rows for 200 ids; ``end`` is how likely the end is."""
    tensors = {name: row for name, row in second.weights().items() if name in shapes()}
    for number, name in enumerate(("speech_embedding.weight", "llm_decoder.weight")):
        at = torch.arange((CODES + EXTRA) * WIDTH, dtype=torch.float64) + 7919.0 * (40 + number)
        wild = torch.sin(at * 12.9898) * 43758.5453
        row = ((wild - wild.floor()) * 3.46 - 1.73).view(-1, WIDTH)
        tensors[name] = (row * (1.5 * WIDTH**-0.5 if number else 1.0)).float()
    # without a bias: short rows are hardly ever the likeliest
    tensors["llm_decoder.weight"][CODES:] *= 0.1
    tensors["llm_decoder.weight"][CODES + 1] *= 10 * end
    return tensors


class Marked(torch.nn.Module):
    """A text table whose row of the public marker is the tiny one's last row."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, ids):
        """ids [1, T] -> vectors [1, T, D]."""
        return self.table(ids.masked_fill(ids == PUBLIC_MARKER, MARKER))


def language_model(end):
    """The reference's class on the tiny weights, drawing the likeliest id."""
    cls, body = public_class("CosyVoice3LM"), Body()
    model = cls(WIDTH, WIDTH, CODES, body, lambda scores, *_: int(scores.argmax())).eval()
    rows = weights(end)
    outer = {n: rows[n] for n in model.state_dict() if not n.startswith("llm.")}
    model.load_state_dict(outer, strict=False)
    body.model.model.embed_tokens = Marked(body.model.model.embed_tokens)
    return model


def _row(ids):
    ids = [PUBLIC_MARKER if row == MARKER else row for row in ids]
    return torch.tensor([ids], dtype=torch.long).view(1, -1), torch.tensor([len(ids)])


@torch.inference_mode()
def run():
    """Codes of every case, from the reference."""
    results = {way: {} for way in ENDS}
    model = language_model(ENDS["at once"])
    for name, case in CASES.items():
        text, size = _row(case["text"])
        before, length = _row([*case["instruct"], *case.get("prompt_text", [])])
        speech, count = _row(case.get("speech", []))
        arguments = (text, size, before, length, speech, count, None)
        results["at once"][name] = list(model.inference(*arguments))
    model = language_model(ENDS["alternating"])
    for name, case in ALTERNATING.items():
        before, length = _row([*case["instruct"], *case.get("prompt_text", [])])
        speech, count = _row(case.get("speech", []))
        text = (torch.tensor([[row]]) for row in case["text"])
        codes = results["alternating"][name] = []
        try:
            codes.extend(model.inference_bistream(text, before, length, speech, count, None))
        except ValueError:
            codes.append(REFUSED)
    return results


def write():
    """Write the golden file."""
    (GOLDEN / "cosyvoice3_lm.json").write_text(json.dumps(run(), indent=1) + "\n")


if __name__ == "__main__":
    write()
