"""Releases of RWKVTTS in each of their forms, tiny and with random weights."""

import json
from pathlib import Path

import torch
from rwkv7_files import trained_looking

from wishbone.plugins.rwkv7.convert import FLA, RWKVLM
from wishbone.plugins.rwkvtts.tokenizer import PAD, VOCABULARY

WIDTH, LAYERS, HEAD, TEXT_ROWS, SPEECH_ROWS = 64, 2, 16, 300, 6562
BACKBONE = {
    "name": "rwkv7", "width": WIDTH, "layers": LAYERS, "head_size": HEAD, "ffn_width": 200,
    "decay_rank": 16, "rate_rank": 12, "value_rank": 8, "gate_rank": 24,
    "group_norm_eps": HEAD * 1e-5,
}  # fmt: skip
WORDS = (" the", " quick", "Hello", " world", "你", "好", "ing", "12")
SETTINGS = f"""\
sample_rate: 24000
llm_input_size: {WIDTH}
qwen_pretrain_path: ''
llm: !new:model.llm.llm.RWKV7LM
    llm_input_size: !ref <llm_input_size>
    speech_token_size: 6561
    vocab_size: {TEXT_ROWS}
    llm: !ref <qwen_pretrain_path>
"""


def body(seed=0):
    """The RWKV-7 by fla's names of today."""
    weights = trained_looking(
        width=WIDTH, layers=LAYERS, head_size=HEAD, ffn_width=200, ranks=(16, 12, 8, 24), seed=seed
    )
    read = RWKVLM.ours({n: t for n, t in weights.items() if not n.startswith(("emb.", "head."))})
    return FLA.theirs(read.tensors)


def table(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def raw(seed=0):
    """``llm.pt`` of the cosy family: the table of text has two names and one storage."""
    text = table(TEXT_ROWS, WIDTH, seed=seed + 1)
    return {
        "llm_embedding.weight": table(2, WIDTH, seed=seed + 2),
        "text_embedding.weight": text,
        "llm.model.embeddings.weight": text,
        **{f"llm.{name}": row for name, row in body(seed).items()},
        "llm.lm_head.weight": table(SPEECH_ROWS, WIDTH, seed=seed + 3),
        "llm.lm_head.bias": table(SPEECH_ROWS, seed=seed + 4),
        "speech_embedding.weight": table(SPEECH_ROWS, WIDTH, seed=seed + 5),
    }


def old(tensors):
    """With fla's names before its second version: six rows of a token shift in one."""
    renamed = {}
    for name, row in tensors.items():
        stem, dot, last = name.rpartition(".")
        if stem.endswith("attn") and last.startswith("x_"):
            renamed.setdefault(f"{stem}.x_x", []).append(row.reshape(-1))
        else:
            renamed[name] = row
    return {n: torch.stack(r) if isinstance(r, list) else r for n, r in renamed.items()}


def converted(tensors):
    """Hugging Face's form of the same: ``llm.`` is gone, and nothing is shared."""
    return {name.removeprefix("llm."): row.clone() for name, row in tensors.items()}


def respark(seed=0):
    """The family of Spark-TTS."""
    return {
        **body(seed),
        "model.embeddings.weight": table(28, WIDTH, seed=seed + 1),
        "lm_head.weight": table(28, WIDTH, seed=seed + 2),
        "text_embedder.weight": table(TEXT_ROWS, WIDTH, seed=seed + 3),
        "global_embedder.weight": table(9, WIDTH, seed=seed + 4),
        "tts_tag_embedder.weight": table(3, WIDTH, seed=seed + 5),
    }


def write_text(folder, marks=True):
    """The tokenizer's files: every byte, a few words, and the pad that a release names."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [bytes([b]) for b in range(256)] + [word.encode() for word in WORDS]
    lines = []
    for row, token in enumerate(tokens, start=1):
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{row} {literal} {len(token)}\n")
    (folder / VOCABULARY).write_text("".join(lines), encoding="utf-8")
    if marks:
        (folder / "added_tokens.json").write_text(json.dumps({PAD: len(tokens) + 1}))
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv7"}))


def write(folder, form="raw", tensors=None):
    """The language model and the tokenizer of a release -> its folder.

    ``form`` is raw, old, converted, sharded (``ConvertedCosyLLM`` in one file or two), or alone
    (that folder without what surrounds it).
    """
    folder = Path(folder)
    tensors = raw() if tensors is None else tensors
    write_text(folder / "CosyVoice-BlankEN")
    (folder / "cosyvoice.yaml").write_text(SETTINGS)
    if form in ("raw", "old"):
        torch.save(old(tensors) if form == "old" else tensors, folder / "llm.pt")
        return folder
    inside = folder if form == "alone" else folder / "ConvertedCosyLLM"
    write_text(inside)
    config = {"model_type": "rwkv7", "architectures": ["RWKV7ForSpeech"]}
    (inside / "config.json").write_text(json.dumps(config))
    # the public folders hold code, which nothing may import
    (inside / "cosy_llm.py").write_text("raise SystemExit('this file was run')\n")
    renamed = converted(tensors)
    if form != "sharded":
        torch.save(renamed, inside / "pytorch_model.bin")
        return folder
    halves = [dict(list(renamed.items())[half::2]) for half in (0, 1)]
    rows = {}
    for number, half in enumerate(halves, start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save(half, inside / file)
        rows |= dict.fromkeys(half, file)
    index = {"metadata": {}, "weight_map": rows}
    (inside / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder
