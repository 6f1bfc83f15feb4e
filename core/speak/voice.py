"""A voice: its recording as codes with the transcript, and optionally the state after them.

A voice is two files side by side: ``NAME.yaml`` for people (name, licence, transcript) and
``NAME.safetensors`` with the codes. The fingerprints in the first say which codec, tokenizer and
model the second belongs to, because codes and states of another one would be noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.audio import files as audio_files
from wishbone.core.audio.files import Audio
from wishbone.core.audio.recording import at_level, check_length, check_speech, warn_of_transcript
from wishbone.core.config.compose import could_be_file, parse, weights_folder
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CheckpointError, DataError, UsageError
from wishbone.core.contract.layout import Prompt
from wishbone.core.model.speech_lm import prefix
from wishbone.core.registry.loader import guarded
from wishbone.core.speak.voice_files import (
    NAMED,
    RECORDINGS,
    bundled,
    locate,
    read_header,
    read_voice,
)
from wishbone.core.system.system import System
from wishbone.core.weights import releases
from wishbone.core.weights.fingerprint import fingerprint
from wishbone.core.weights.tensor_files import write_tensors
from wishbone.core.weights.training_record import check_instruct

LONGEST_PROMPT = 30.0
"""Seconds of a recording; the bundled speech tokenizers were made for no more."""

FIELDS = (
    "name", "licence", "about", "transcript", "instruct", "adapter", "codec", "tokenizer", "model",
)  # fmt: skip
"""Keys of the YAML file."""


@dataclass(frozen=True)
class Voice:
    """Someone to speak as. The empty voice is the one a model has by itself."""

    name: str = ""
    licence: str = ""
    about: str = ""
    """Where the recording comes from."""
    transcript: str = ""
    """Every word of the recording; empty where only its sound is to be taken over."""
    instruct: str = ""
    """How to speak, such as "in a whisper"; spoken by nobody."""
    adapter: str = ""
    """Name of the system's adapter that speaks; empty for the one it has by itself."""
    text: tuple[int, ...] = ()
    """Ids of the transcript."""
    speech: tuple[tuple[int, ...], ...] = ()
    """Codes [T][Q] of the recording."""
    word_ends: tuple[int, ...] = ()
    """As in ``Sample``; empty where nobody measured them."""
    global_codes: tuple[int, ...] = ()
    """Codes of the recording as a whole, where the codec has them."""
    speaker: Tensor | None = None
    """[E], for decoders that want one."""
    heard: State | None = None
    """Conditioning of the decoder by the recording, as its ``hear`` makes it."""
    codec: str = ""
    """Fingerprint of the speech tokenizer that made the codes."""
    tokenizer: str = ""
    """Registry key of the tokenizer that made the ids."""
    model: str = ""
    """Fingerprint of the model, and of its layout's and backbone's fields, whose states these are;
    empty without one."""
    state: State | None = None
    """The model's state after the prompt, as ``wishbone.core.model.speech_lm.prefix`` makes it."""
    start: State | None = None
    """Parts [1, ...] of the state before the prompt, learned for this voice or style; the other
    parts are the backbone's own."""

    @classmethod
    def from_audio(
        cls,
        system: System,
        audio: Audio | str | Path,
        transcript: str = "",
        name: str = "",
        licence: str = "",
        word_ends: Sequence[int] = (),
    ) -> Voice:
        """Make a voice from a recording of any sample rate and its transcript.

        Without a transcript the language model gets nothing of the recording and the decoder
        alone takes over its sound: for another language than the recording's, and only with a
        decoder whose ``hear`` returns something. Raises ``UsageError`` for a recording that is too
        long, a transcript without words, or none where it is needed.
        """
        where = str(audio) if isinstance(audio, str | Path) else "the recording"
        audio = audio_files.read(audio) if isinstance(audio, str | Path) else audio
        audio_files.check_finite(audio.samples, where)
        check_length(audio, LONGEST_PROMPT, where)
        check_speech(audio, where)
        audio = at_level(audio, system.speech_tokenizer.level)
        text = _transcript_ids(system, transcript, where)
        device = system.model.device
        samples = audio_files.resample(audio, system.speech_tokenizer.sample_rate).samples  # [S]
        with torch.inference_mode():
            codes = system.speech_tokenizer.encode(samples.to(device))  # [T, Q]
            global_codes = system.speech_tokenizer.encode_global(samples.to(device))  # [G]
        if not len(codes):
            raise DataError("The recording is too short for a single code.", where, "Record more.")
        warn_of_transcript(system.layout.codes_per_id, len(codes), len(text), where)
        samples = audio_files.resample(audio, system.decoder.sample_rate).samples  # [S]
        with torch.no_grad():
            conditioning = system.decoder.hear(samples.to(device), codes)
        if not transcript and not conditioning:
            raise UsageError(
                "A recording needs its transcript: the decoder of this system hears no recordings.",
                where,
                "Say what it says, every word (--transcript).",
            )
        return cls(
            name=name,
            licence=licence,
            transcript=transcript,
            text=text,
            speech=tuple(map(tuple, codes.tolist())) if transcript else (),
            word_ends=tuple(word_ends),
            global_codes=tuple(global_codes.tolist()),
            heard={name: tensor.cpu() for name, tensor in conditioning.items()} or None,
            codec=fingerprint(system.speech_tokenizer),
            tokenizer=tokenizer_key(system),
        )

    def instructed(self, instruct: str) -> Voice:
        """The same voice with an instruction how to speak."""
        return replace(self._without_state(), instruct=instruct)

    def adapted(self, adapter: str) -> Voice:
        """The same voice, spoken with the adapter of that name."""
        return replace(self._without_state(), adapter=adapter)

    def _without_state(self) -> Voice:
        """The same voice without the state after its prompt, because another prompt follows."""
        return replace(self, state=None, model=self.model if self.start else "")

    @classmethod
    def from_start(
        cls, system: System, start: State, name: str = "", licence: str = "", about: str = ""
    ) -> Voice:
        """Make a voice or style of parts [1, ...] of a state that were learned for it.

        Raises ``CheckpointError`` unless they are parts of this system's state.
        """
        model = system.model
        empty = model.backbone.init_state(1, device="meta", dtype=model.dtype)
        wrong = [n for n, part in start.items() if n not in empty or part.shape != empty[n].shape]
        if wrong or not start:
            raise CheckpointError(
                f"This is no state of this system's model: {', '.join(wrong) or 'it is empty'}.",
                "a state to begin with",
                "Use the system that the state was learned with.",
            )
        start = {part: tensor.detach().cpu().clone() for part, tensor in start.items()}
        key = model_key(system)
        return cls(name=name, licence=licence, about=about, start=start, model=key)

    def with_state(self, system: System) -> Voice:
        """The same voice with the state of this system's model after it, to start faster."""
        state = prefix(system.model, system.layout, self.prompt(system))
        return replace(self, state=state, model=model_key(system))

    def prompt(self, system: System) -> Prompt:
        """Make the conditioning that stands before the text.

        Raises ``CheckpointError`` for codes of another codec, ``UsageError`` for an instruction
        without words, ``CapabilityError`` for one that the model was not trained to follow.
        """
        if self.codec and self.codec != fingerprint(system.speech_tokenizer):
            self._refuse("its codes were made by another codec")
        if self.tokenizer and self.tokenizer != tokenizer_key(system):
            self._refuse(f"its transcript was encoded by the tokenizer '{self.tokenizer}'")
        self._check_codes(system)
        if self.instruct:
            check_instruct(system.config)
        start = self._start_for(system)
        instruct = tuple(system.tokenizer.encode(self.instruct))
        if self.instruct and not instruct:
            raise UsageError(
                "The instruction holds nothing that can be read.",
                "the instruction of the voice",
                "Write how to speak, in words.",
            )
        prompt = Prompt(
            instruct=instruct,
            text=self.text,
            speech=self.speech,
            word_ends=self.word_ends,
            global_codes=self.global_codes,
            adapter=self.adapter,
            start=start,
        )
        if instruct and system.layout.instruct_alone:
            return replace(prompt, text=(), speech=(), word_ends=())
        return prompt

    def _check_codes(self, system: System) -> None:
        """Refuse ids and codes that the tables of this system do not have."""
        codes, ids = system.decoder.codes, system.layout.tables.get("text", 0)
        numbers = [code for frame in self.speech for code in frame]
        if any(len(frame) != codes.codebooks for frame in self.speech):
            self._refuse(f"its frames are not of {codes.codebooks} codebooks")
        if numbers and not 0 <= min(numbers) <= max(numbers) < codes.size:
            self._refuse(f"its codes are {min(numbers)} to {max(numbers)}, of {codes.size}")
        if ids and self.text and not 0 <= min(self.text) <= max(self.text) < ids:
            self._refuse(f"the ids of its transcript are up to {max(self.text)}, of {ids}")
        spoken = self.global_codes
        if codes.global_count and spoken:
            beyond = not 0 <= min(spoken) <= max(spoken) < codes.global_size
            if beyond or len(spoken) != codes.global_count:
                self._refuse(f"it has not {codes.global_count} codes below {codes.global_size}")

    def _start_for(self, system: System) -> State | None:
        """Return the learned ``start`` on the system's device, in its dtypes."""
        if self.start is None:
            return None
        if self.model != model_key(system):
            self._refuse("the state it begins with was learned with another model")
        model = system.model
        empty = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
        return {name: part.to(empty[name]) for name, part in self.start.items()}

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write ``path`` (ending in .yaml) and the tensors beside it.

        Raises ``UsageError`` where the file exists, unless ``overwrite``.
        """
        from omegaconf import OmegaConf

        path = Path(path).with_suffix(".yaml")
        if path.exists() and not overwrite:
            raise UsageError(
                "A voice of this name exists already.", str(path), "Choose another name."
            )
        tensors = {
            "text": torch.tensor(self.text, dtype=torch.int32),
            "speech": torch.tensor(self.speech, dtype=torch.int32),
            "word_ends": torch.tensor(self.word_ends, dtype=torch.int32),
        }
        if self.global_codes:
            tensors["global_codes"] = torch.tensor(self.global_codes, dtype=torch.int32)
        if self.speaker is not None:
            tensors["speaker"] = self.speaker
        for begin, parts in zip(NAMED, (self.heard, self.state, self.start), strict=True):
            tensors |= {begin + name: tensor for name, tensor in (parts or {}).items()}
        write_tensors(path.with_suffix(".safetensors"), tensors)
        header = {key: getattr(self, key) for key in FIELDS if getattr(self, key)}
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(header)))
        return path

    @classmethod
    def load(cls, name_or_path: str | Path, others: Iterable[str] = ()) -> Voice:
        """Read a bundled voice by name, or a voice file; ``others`` are for the error to list.

        Raises ``UnknownName``, ``UsageError`` for a recording, ``ConfigError`` for a file that is
        no YAML, ``CheckpointError`` for one that is no voice.
        """
        path = locate(name_or_path, others)
        header, _ = parse(path)
        tensors = read_voice(path.with_suffix(".safetensors"))
        return cls(
            **read_header(header, FIELDS, path),
            text=tuple(tensors["text"].tolist()),
            speech=tuple(map(tuple, tensors["speech"].tolist())),
            word_ends=tuple(tensors["word_ends"].tolist()),
            global_codes=tuple(tensors.get("global_codes", torch.zeros(0)).tolist()),
            speaker=tensors.get("speaker"),
            heard=_named(tensors, "heard."),
            state=_named(tensors, "state."),
            start=_named(tensors, "start."),
        )

    def _refuse(self, why: str) -> None:
        raise CheckpointError(
            f"The voice '{self.name}' does not fit this system: {why}.",
            where="the voice and the system that shall speak with it",
            do=(
                "Use the system it was learned with, or learn it again with this one."
                if self.start
                else "Make the voice again from its recording with this system."
            ),
        )


def find(voice: Voice | str | Path | None, system: System | None = None) -> Voice:
    """Return a voice, read by its name or file unless it is one; the empty voice for None.

    A name is that of a file, of a bundled voice, or of a voice in the release from which
    ``system`` is loaded.
    """
    if voice is None:
        return Voice()
    if isinstance(voice, Voice):
        return voice
    if system is None or _is_file(voice) or str(voice) in bundled():
        return Voice.load(voice)
    of_release = _system_voices(system)
    return of_release[str(voice)] if str(voice) in of_release else Voice.load(voice, of_release)


def prepare(
    voice: Voice | str | None, system: System, instruct: str = ""
) -> tuple[Voice, Prompt, State]:
    """Return a voice, by default the configuration's, with its prompt and the state after that.

    Raises the errors of ``find`` and ``Voice.prompt``, and ``CheckpointError`` for a voice whose
    state is that of another model.
    """
    voice = find(voice or system.config.get("voice"), system)
    voice = voice.instructed(instruct) if instruct else voice
    prompt = voice.prompt(system)
    if voice.state is None:
        return voice, prompt, prefix(system.model, system.layout, prompt)
    if voice.model != model_key(system):
        voice._refuse("its state belongs to another model")
    state = {name: tensor.to(system.model.device) for name, tensor in voice.state.items()}
    return voice, prompt, state


def release_voices(folder: str | Path) -> dict[str, Voice]:
    """Voices of a release, by name; none for any other folder."""
    match = releases.find_reader(folder)
    if match.entry is None:
        return {}
    with guarded(match.entry):
        return dict(match.part.voices(Path(folder)))


def tokenizer_key(system: System) -> str:
    """Registry key of the system's tokenizer."""
    return str((system.config.get("tokenizer") or {}).get("name", ""))


def model_key(system: System) -> str:
    """Fingerprint of the model and of the fields that decide how its state comes about.

    Two systems may share weights and read the same prompt in another order.
    """
    without = {"weights", *system.layout.after_prompt}
    fields = {
        slot: {k: v for k, v in (system.config.get(slot) or {}).items() if k not in without}
        for slot in ("layout", "backbone")
    }
    text = fingerprint(system.model) + json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named(tensors: Mapping[str, Tensor], start: str) -> State | None:
    """Tensors whose names begin with ``start``, without it; None where there are none."""
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)} or None


def _transcript_ids(system: System, transcript: str, where: str) -> tuple[int, ...]:
    """Ids of a transcript, which may be empty; raises ``UsageError`` for one without words."""
    ids = tuple(system.tokenizer.encode(system.tokenizer.prepare(transcript)))
    if transcript and not ids:
        raise UsageError(
            "The transcript of the voice holds nothing that can be spoken.",
            where,
            "Write down what the recording says, every word.",
        )
    return ids


def _is_file(voice: str | Path) -> bool:
    is_file = could_be_file(str(voice)) and Path(voice).is_file()
    return is_file or Path(voice).suffix.lower() in RECORDINGS


def _system_voices(system: System) -> dict[str, Voice]:
    """Voices of the release that the system's decoder or model comes from."""
    decoder = system.config.get("decoder") or {}
    folders = dict.fromkeys(filter(None, (system.config.get("weights"), decoder.get("weights"))))
    return {
        name: voice
        for folder in folders
        for name, voice in release_voices(weights_folder(folder)).items()
    }
