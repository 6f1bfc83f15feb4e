"""The corpora that a recipe names, as token data: Wishbone's own, or other formats, encoded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.config.compose import Config, weights_folder
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.corpus import Utterance
from wishbone.core.contract.text import Tokenizer
from wishbone.core.data.bulk.token_index import chain_mapped, open_tokens
from wishbone.core.data.corpus_files import Account, corpus_files, is_token_data, utterances
from wishbone.core.data.tokens import (
    EXTRA,
    Ragged,
    TokenCorpus,
    chained,
    read_tokens,
    require_equal_parts,
)
from wishbone.core.system.build import build_layout


def read_corpus(sources: str | Path | Iterable[str | Path], system: Config) -> TokenCorpus:
    """Load corpora for ``system``: token data as it is, other formats with its tokenizer.

    Prints to stderr the rows of the others that were left out and why. Raises ``DataError`` when
    nothing is left, when a file is of no known format, and as ``read_tokens``.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    parts, token_data = [], []
    for source in sources:
        path = Path(source) if Path(source).exists() else weights_folder(str(source))
        files = corpus_files(path)
        if is_token_data(files[0]):
            token_data.append(source)
        else:
            parts.append(_read_foreign(path, files, system))
    mapped = [open_tokens(folder) for folder in token_data]
    if all(corpus is None for corpus in mapped):
        parts = [read_tokens(token_data), *parts] if token_data or not parts else parts
        return parts[0] if len(parts) == 1 else chained(parts, _common(parts))
    pairs = zip(mapped, token_data, strict=True)
    token_parts = [read_tokens(y) if x is None else x for x, y in pairs]
    for part in token_parts:
        require_equal_parts(token_parts[0].about, part.about, part.files[0])
    parts = [*token_parts, *parts]
    return parts[0] if len(parts) == 1 else chain_mapped(parts, _common(parts))


def require_same_parts(
    corpus: TokenCorpus, system: Mapping[str, Any], tables: Mapping[str, int], codes: CodeSpace
) -> None:
    """Raise ``DataError`` unless the corpus was made with the system's tokenizer and codec.

    A part that the files do not name is not compared; the ids themselves must exist in the tables.
    """
    system_parts = {
        "tokenizer": system["tokenizer"]["name"],
        "codec": system.get("speech_tokenizer", {"name": "text"})["name"],
        "codebooks": codes.codebooks,
        "rate": codes.rate,
    }
    problems = [
        f"its {key} is {corpus.about[key]}, the system's {value}"
        for key, value in system_parts.items()
        if key in corpus.about and corpus.about[key] != value
    ]
    # files that do not say their number of codebooks have one
    if "codebooks" not in corpus.about and codes.codebooks != 1:
        problems.append(f"it has one codebook, the codec {codes.codebooks}")
    rows = tables.get("text", 0)
    for name, lists, size in (
        ("code", corpus.codes, codes.size),
        ("global code", corpus.global_codes, codes.global_size if codes.global_count else 0),
        ("text id", corpus.text, rows),
        ("id of an instruction", corpus.instruct, rows),
    ):
        if size and lists is not None and lists.highest() >= size:
            row = lists.row_of(lists.highest())
            within = f", in '{corpus.ids[row]}'" if row >= 0 else ""
            problems.append(f"its highest {name} is {lists.highest()}, of {size}{within}")
    if problems:
        raise DataError(
            f"The corpus was not made for this system: {'; '.join(problems)}.",
            str(corpus.files[0].parent if corpus.files else "the corpus"),
            "Tokenise it with this system: 'wishbone data tokenize'.",
        )


def _read_foreign(path: Path, files: Sequence[Path], system: Config) -> TokenCorpus:
    """A corpus of another format, its text encoded by the system's tokenizer."""
    tokenizer, _, codes = build_layout(system)
    account = Account()
    rows = list(_rows(files, tokenizer, codes, account))
    account.usable = len(rows)
    print(f"{path}: {account}", file=sys.stderr)
    if not rows:
        raise DataError(
            f"Nothing in the corpus can be used: {account}.",
            str(path),
            "Use a corpus whose codes are those of the system's codec.",
        )
    return TokenCorpus(
        ids=[row["id"] for row in rows],
        texts=[row["text"] for row in rows],
        text=Ragged.of(row["text_ids"] for row in rows),
        codes=Ragged.of(row["codes"] for row in rows),
        word_ends=Ragged.of(() for _ in rows),
        seconds=np.asarray([row["seconds"] for row in rows], np.float32),
        about={
            "tokenizer": system["tokenizer"]["name"],
            "codec": system["speech_tokenizer"]["name"],
            "codebooks": codes.codebooks,
            "rate": codes.rate,
        },
        files=list(files),
        **{
            name: Ragged.of(row[name] for row in rows) if any(row[name] for row in rows) else None
            for name in EXTRA
        },
    )


def _rows(
    files: Sequence[Path], tokenizer: Tokenizer, codes: CodeSpace, account: Account
) -> Iterator[dict[str, Any]]:
    """Utterances with the ids of their text, those that do not fit the codec left out."""
    for utterance in utterances(files, account):
        ids = tokenizer.encode(utterance.text)
        if utterance.prompt_text:
            # a prompt of such a corpus is the beginning of the utterance, its codes already are
            ids = tokenizer.encode(utterance.prompt_text) + ids
        if reason := _reason_to_drop(utterance, ids, codes):
            account.dropped[reason] += 1
            continue
        yield {
            "id": utterance.id,
            "text": utterance.text,
            "text_ids": ids,
            "codes": [code for frame in utterance.frames for code in frame],
            "seconds": len(utterance.frames) / codes.rate,
            "global_codes": utterance.global_codes if codes.global_count else (),
            "instruct": tokenizer.encode(utterance.instruct) if utterance.instruct else (),
        }


def _reason_to_drop(utterance: Utterance, ids: Sequence[int], codes: CodeSpace) -> str:
    """The reason to leave an utterance out; empty for one that can be used."""
    frames, limits = utterance.frames, utterance.kind
    seconds, (shortest, longest) = len(frames) / codes.rate, limits.seconds
    of_voice, count = utterance.global_codes, codes.global_count
    valid = len(of_voice) == count and all(0 <= code < codes.global_size for code in of_voice)
    reasons = {
        "with nothing to say in the text": not ids,
        f"with more than {limits.most_text} ids of text": len(ids) > limits.most_text,
        f"shorter than {shortest:g} s": seconds < shortest,
        f"longer than {longest:g} s": seconds > longest,
        f"of {len(frames[0])} codebooks": len(frames[0]) != codes.codebooks,
        "with codes the codec has not": any(
            not 0 <= code < codes.size for frame in frames for code in frame
        ),
        "without the codec's global codes": count > 0 and not valid,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _common(parts: Sequence[TokenCorpus]) -> dict[str, Any]:
    """The parts that all corpora say they are of. Raises ``DataError`` where they differ."""
    about = parts[0].about
    for part in parts[1:]:
        differ = [k for k in about.keys() & part.about.keys() if about[k] != part.about[k]]
        if differ:
            raise DataError(
                f"Two corpora differ in {', '.join(sorted(differ))}: {about} and {part.about}.",
                str(part.files[0].parent),
                "Make all of them with the parts of one system.",
            )
        about = {key: value for key, value in about.items() if key in part.about}
    return about
