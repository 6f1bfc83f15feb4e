"""Written text and the words a reader says, by kind; ``python tests/plugins/spoken_table.py``
prints how many the front end reads right; with the word gruut, how many gruut alone does."""

import json
import re
import sys
from pathlib import Path

TABLE = Path(__file__).with_suffix(".jsonl")


def rows():
    """Yield (kind, written, spoken)."""
    yield from map(json.loads, TABLE.read_text(encoding="utf-8").splitlines())


def plain(words):
    """Words in small letters with the marks that end sentences: commas are pauses."""
    return " ".join(re.sub(r"[,\"-]", " ", words).lower().split())


def rates(read):
    """Count what ``read`` reads right: kind -> (right, all, the first wrong ones)."""
    counts = {}
    for kind, written, spoken in rows():
        right, total, wrong = counts.get(kind, (0, 0, []))
        words = read(written)
        good = plain(words) == plain(spoken)
        counts[kind] = right + good, total + 1, wrong if good else [*wrong, (written, words)]
    return counts


def gruut(written):
    """gruut alone, as it was before the table."""
    from gruut import sentences

    tokens = [token for s in sentences(written, lang="en-us") for token in s]
    return re.sub(r" (?=[.!?])", "", " ".join(token.text for token in tokens))


def main():
    from wishbone.plugins.phonemes.normalise import normalise

    read = gruut if "gruut" in sys.argv[1:] else normalise
    for kind, (right, total, wrong) in rates(read).items():
        print(f"{kind:<14}{right:>4} of {total}", *wrong if read is normalise else [], flush=True)


if __name__ == "__main__":
    main()
