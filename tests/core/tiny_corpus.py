"""A corpus a model can learn in seconds, and a recipe that trains one on it."""

from random import Random

from wishbone.core.data.tokens import write_tokens

ABOUT = {"tokenizer": "phonemes", "codec": "fsqcodec", "codebooks": 1, "rate": 25.0}
SPACE = 73  # the id of the phoneme tokenizer's space

RECIPE = """
system:
  tokenizer: {{name: phonemes}}
  speech_tokenizer: {{name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}}
  layout: {{name: cosyvoice2, pace: words}}
  backbone: {{name: transformer, width: 32, layers: 1, heads: 2, kv_heads: 1, ffn_width: 64,
             dropout: {dropout}}}
  head: {{name: fsq, rank: 4}}
  decoder: {{name: fsqcodec}}
data: {folder}/tokens
held_out: 0.1
out: {folder}/run
steps: 6
batch_positions: 400
learning_rate: 3.0e-3
warmup_steps: 2
log_every: 1
evaluate_every: 3
checkpoint_every: 2
checkpoint_minutes: 0
precision: fp32
device: cpu
"""


def rows(count, seed=0, text="sentence {}"):
    """Utterances in which each id of text is spoken as two codes that follow from it."""
    random = Random(seed)
    made = []
    for number in range(count):
        ids, ends, codes = [], [], []
        for _ in range(random.randint(2, 6)):
            word = [random.randint(1, 70) for _ in range(random.randint(2, 5))]
            ids += [*word, SPACE]
            codes += [code for i in word for code in (i * 17, i * 31)]
            ends.append(len(codes))
        made.append(
            {
                "id": f"u{number}",
                "text": text.format(number),
                "text_ids": ids,
                "codes": codes,
                "word_ends": ends,
                "seconds": len(codes) / 25,
                "speaker": "",
            }
        )
    return made


def write_recipe(folder, count=60, dropout=0.0):
    """Token data and a recipe in ``folder``; the path of the recipe."""
    write_tokens(folder / "tokens" / "000.parquet", rows(count), ABOUT)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(folder=folder, dropout=dropout))
    return path
