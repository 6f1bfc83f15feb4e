"""``wishbone codec-peers``, or ``wishbone evaluate codec --peers``: a codec among others."""

from __future__ import annotations

from collections.abc import Sequence

from wishbone.core.cli.arguments import parse
from wishbone.core.cli.evaluation.evaluate_options import CodecOptions
from wishbone.core.cli.evaluation.evaluations import read_originals
from wishbone.core.evaluate.measure import speech
from wishbone.core.evaluate.measure.clips import read_lines
from wishbone.core.evaluate.measure.score import Panel
from wishbone.plugins.reference_codecs import peers

EXAMPLES = """examples:
  wishbone codec-peers quickstart --limit 60 --json figures.json"""


def main(argv: Sequence[str]) -> int:
    """Put the same recordings through a system's codec and through others, and print a table."""
    options = parse(CodecOptions, argv, "wishbone codec-peers", EXAMPLES)
    originals = read_originals(options, read_lines(options.text or speech.own_prompts()))
    codec = speech.codec_of(options.system)
    clips, _ = speech.resynthesise(codec, originals)
    others, absent = peers.copies(originals)
    codecs = {options.system: (clips, peers.bits_of(codec.speech_tokenizer.codes)), **others}
    listening = peers.Listening(Panel(options.threads), options.json)
    reference = listening.judge("original", originals)
    scores = {
        name: (listening.judge(name, clips, bits), bits) for name, (clips, bits) in codecs.items()
    }
    for line in peers.table(scores, reference, absent):
        print(line)
    return 0
