"""Corpora of other projects, read as they are: CosyVoice's Parquet, RWKVTTS's JSONL.

A file's columns tell its format: a part of kind ``corpus``, whose contract is ``CorpusFormat``.
Every utterance that is left out is counted with its reason, and ``train`` prints the counts before
it begins. Names and limits are those of CosyVoice (tools/make_parquet_list.py,
cosyvoice/dataset/processor.py) and of RWKVTTS (data/utils/llm_dataset.py, utils/multiple_jsonl.py,
utils/xy_data_processor.py). Where those lose data silently, these readers do not: one line that is
no JSON costs itself, not its file; a list of codes that is missing is no utterance that ends at
once; and a speaker's prompt is not dropped for a whole batch at a time, every line counts with it
and without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from wishbone.core.contract.extensions.corpus import CorpusFormat, Unusable, Utterance
from wishbone.plugins.rwkvtts.properties import marks

ALIASES: Mapping[str, Sequence[str]] = {
    "id": ("utt", "id", "key", "utt_id", "uttid", "index"),
    "text": ("text", "txt", "transcript", "transcription"),
    "speaker": ("spk", "speaker", "spk_id", "speaker_id"),
    "instruct": ("instruct", "instruction"),
}
"""Name of a column in this module -> its names in files, the first that is there counts."""


class CodeColumns(CorpusFormat):
    """Rows with one column of text and one of codes, as the projects below write them."""

    unread = ("audio_data", "wav", "utt_embedding", "spk_embedding", "reject_speech_token")

    global_codes: ClassVar[str] = ""
    """Column of the codes of the whole utterance."""
    prompt: ClassVar[tuple[str, str]] = ("", "")
    """Columns of a prompt's text, and of its codes."""
    channels_first: ClassVar[bool] = False
    """True where codes are [Q][T]."""

    def utterances(self, row: Mapping[str, Any], name: str) -> Iterator[Utterance]:
        """The row, and the row with its prompt before it."""
        text = _value_of(row, "text")
        if not _has_text(text):
            raise Unusable("without text")
        codes = next((row[n] for n in self.columns if n in row), None)
        frames = _frames(codes, self.channels_first)
        plain = Utterance(
            self,
            id=str(_value_of(row, "id") or name),
            text=text,
            frames=frames,
            global_codes=_integers(row.get(self.global_codes)) if self.global_codes else (),
            instruct=marks(row) if self.global_codes else str(_value_of(row, "instruct") or ""),
            speaker=str(_value_of(row, "speaker") or ""),
        )
        yield plain
        prompt_text, prompt = (row.get(column) for column in self.prompt)
        if _has_text(prompt_text) and isinstance(prompt, list) and prompt:
            yield Utterance(
                self,
                f"{plain.id}+prompt",
                text,
                [*_frames(prompt, False), *frames],
                prompt_text=prompt_text,
                speaker=plain.speaker,
            )

    def example(self) -> Mapping[str, Any]:
        """Two seconds of codes."""
        codes = [n % 7 for n in range(50)]
        row = {
            "text": "hello there",
            self.columns[0]: [codes] * 2 if self.channels_first else codes,
        }
        return row | ({self.global_codes: [1, 2, 3]} if self.global_codes else {})


class CosyVoice(CodeColumns):
    """CosyVoice's Parquet."""

    name = "CosyVoice Parquet"
    columns = ("speech_token", "speech_tokens")
    most_text = 200
    seconds = (1.0, 60.0)


class RWKVTTS(CodeColumns):
    """RWKVTTS's JSONL for CosyVoice2's codec."""

    name = "RWKVTTS JSONL"
    columns = ("tts_speech_tokens",)
    prompt = ("prompt_text", "llm_prompt_speech_token")


class ReSpark(CodeColumns):
    """ReSpark's JSONL: codes of the voice beside those in time."""

    name = "ReSpark JSONL"
    columns = ("semantic_tokens",)
    global_codes = "global_tokens"


class XY(CodeColumns):
    """RWKVTTS's JSONL of several codebooks."""

    name = "XY JSONL"
    columns = ("audio_tokens",)
    seconds = (0.0, 327.6)
    channels_first = True


def _has_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _frames(value: Any, channels_first: bool) -> list[tuple[int, ...]]:
    """Codes as frames [T][Q], from one list, from one list in another, or from [Q][T]."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not rows:
        raise Unusable("without codes")
    if not isinstance(rows[0], list):
        rows = [rows]
    elif not channels_first and len(rows) != 1:
        raise Unusable("with codes of several codebooks")
    codes = [_integers(channel) for channel in rows]
    if not codes[0]:
        raise Unusable("without codes")
    if len({len(channel) for channel in codes}) != 1:
        raise Unusable("with codebooks of different lengths")
    return list(zip(*codes, strict=True))


def _integers(value: Any) -> list[int]:
    """A list of whole numbers; floats of whole value count, as pandas makes them of ints."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and float(n).is_integer()
        for n in rows
    ):
        raise Unusable("with codes that are no whole numbers")
    return [int(n) for n in rows]


def _value_of(row: Mapping[str, Any], name: str) -> Any:
    return next((row[other] for other in ALIASES[name] if row.get(other) is not None), None)
