"""Codes to audio as CosyVoice2 does it: the flow makes mel frames, HiFT makes samples of them.

``CosyVoice2Model.token2wav`` in cosyvoice/cli/model.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.contract.backbone import State
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream
from wishbone.core.contract.part import Count, Layers, OneOf, Range, Size
from wishbone.core.system.loading import load_tensors
from wishbone.core.weights.tensor_files import translate
from wishbone.plugins.cosyvoice2.flow.model import CODES, RISE, Flow, FlowShape
from wishbone.plugins.cosyvoice2.flow.names import FLOW_NAMES
from wishbone.plugins.cosyvoice2.flow.noise import Noises
from wishbone.plugins.cosyvoice2.flow.stream import Cutting, FlowPrompt, FlowStream, Past, WholeFlow
from wishbone.plugins.cosyvoice2.mel import vocoder_mel
from wishbone.plugins.cosyvoice2.release import files
from wishbone.plugins.cosyvoice2.speaker import SpeakerEncoder
from wishbone.plugins.cosyvoice2.vocoder import snake
from wishbone.plugins.cosyvoice2.vocoder.config import HiFTConfig
from wishbone.plugins.cosyvoice2.vocoder.model import HiFT, HiFTStream
from wishbone.plugins.cosyvoice2.vocoder.names import load as load_vocoder

SAMPLE_RATE = 24_000
CODE_RATE = 25  # codes per second
NEVER = 1 << 30
"""Code frames: the look-ahead of a decoder that waits for the end."""


class CosyVoice2Decoder(Decoder):
    """Flow and vocoder of the release, streaming without computing anything twice.

    The voice is a ``speaker`` embedding [192] and a prompt as ``hear`` makes it.
    """

    @dataclass
    class Config(FlowShape):
        vocoder_width: Size = 512
        """Channels of the vocoder at the rate of mel frames."""
        vocoder_pitch_width: Size = 512
        """Channels of its pitch predictor."""
        steps: Layers = 10
        """Euler steps of the flow; fewer are faster and rougher."""
        streaming: bool = True
        """Solve chunk by chunk. Otherwise wait for the last code and let everything see everything,
        as upstream does when it does not stream."""
        chunk: Size = 25
        """Codes in a chunk; the release was trained with 25, one second."""
        left_chunks: Annotated[int, Range(-1)] = 30
        """Chunks that a chunk sees before it; -1 for all, as upstream, at a cost that grows with
        length. Training saw 30 s at most, so up to there both are the same."""
        first_chunks: list[int] = field(default_factory=list)
        """Codes of speech in the first chunks of a request, the last again and again, such as
        [10, 15, 25] for an earlier start; empty cuts where upstream's mask does."""
        parity: Annotated[str, OneOf("right", "upstream")] = "right"
        """"right": noise from the request's own seed. "upstream": its one fixed noise, in which a
        seed changes only the vocoder."""
        prompts: Count = 1
        """Prompts whose memory is reused by the next request, about 230 MB per second of prompt in
        float32; 0 reuses none."""
        precision: Annotated[str, OneOf("float32", "bfloat16")] = "float32"
        """Precision of the estimator, nearly all of the work, and of its memory. "bfloat16" takes
        half the memory and is faster where a processor computes with it; noise, solver, encoder
        and vocoder stay in float32."""

        def __post_init__(self) -> None:
            if any(size < 1 for size in self.first_chunks):
                raise ValueError("first_chunks holds a number below 1")

    sample_rate = SAMPLE_RATE
    codes = CodeSpace(size=CODES, rate=CODE_RATE, levels=(3,) * 8)

    def __init__(self, config: CosyVoice2Decoder.Config) -> None:
        super().__init__()
        self.config = config
        self.flow = Flow(config)
        self.flow.estimator.to(getattr(torch, config.precision))
        self.vocoder = HiFT(
            HiFTConfig(
                mels=config.mels,
                width=config.vocoder_width,
                pitch_width=config.vocoder_pitch_width,
            )
        )
        self.cutting = Cutting(
            config.chunk, config.left_chunks, tuple(config.first_chunks), config.steps
        )
        self._speaker_encoder: SpeakerEncoder | None = None
        self._pasts: dict[str, Past] = {}

    @classmethod
    def small_config(cls) -> CosyVoice2Decoder.Config:
        """The same shape, narrow and shallow, for tests."""
        return cls.Config(
            speaker=8,
            encoder_width=32,
            encoder_heads=2,
            encoder_inner=48,
            encoder_blocks=2,
            encoder_fine_blocks=1,
            width=16,
            units=1,
            blocks=1,
            heads=2,
            head_size=8,
            vocoder_width=16,
            vocoder_pitch_width=8,
            steps=3,
            chunk=4,
        )

    @property
    def lookahead(self) -> int:
        """Code frames to the end of the longest chunk, and those that the networks see ahead."""
        if not self.config.streaming:
            return NEVER
        longest = max([self.config.chunk, *self.config.first_chunks])
        return longest - 1 + self.config.lookahead - (-self.vocoder.lookahead // RISE)

    def load_release(self, folder: Path) -> None:
        """Load ``flow.pt``, ``hift.pt`` and the speaker encoder of the release in ``folder``.

        Raises ``CheckpointError`` naming whatever is missing, not known or of another shape.
        """
        files.refuse_third(folder, "flow")
        path = folder / files.FLOW
        tensors = files.load_tensors(path, "flow")
        load_tensors(self.flow, translate(tensors, FLOW_NAMES, str(path)), str(path))
        snake.prepare()
        path = folder / files.VOCODER
        load_vocoder(self.vocoder, files.load_tensors(path, "vocoder"), str(path))
        self._speaker_encoder = SpeakerEncoder.of_release(folder)

    def hear(self, audio: Tensor, codes: Tensor) -> State:
        """Condition on audio [S] and its codes [P, 1] -> ``codes`` [P', 1] and ``mel`` [2 P', 80].

        P' is as long as both are. With a release's speaker encoder there is ``speaker`` [192], too.
        """
        mel = vocoder_mel(audio.float()).T  # [T, 80]
        pairs = min(len(mel) // RISE, len(codes))
        conditioning = {"codes": codes[:pairs].clone(), "mel": mel[: RISE * pairs].clone()}
        if self._speaker_encoder is not None:
            conditioning["speaker"] = self._speaker_encoder.embed(
                Audio(audio.float(), self.sample_rate)
            )
        return conditioning

    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """Start a stream; ``speaker`` [192] where the prompt has none of its own."""
        # one seed for two kinds of noise, which must not be the same numbers
        draw = torch.Generator().manual_seed(seed)
        flow_seed, vocoder_seed = torch.randint(1 << 62, (2,), generator=draw).tolist()
        voice = self.vocoder.start(torch.Generator().manual_seed(vocoder_seed))
        conditioning = _flow_prompt(speaker, prompt)
        noise = Noises(self.config.mels, flow_seed, self.config.parity == "upstream")
        if self.config.streaming:
            return CosyVoice2Stream(self._flow_stream(conditioning, noise), voice)
        return CosyVoice2Stream(WholeFlow(self.flow, conditioning, noise, self.config.steps), voice)

    def forget(self) -> None:
        """Drop the memories of all prompts; the next request solves its own again."""
        self._pasts = {}

    def _flow_stream(self, prompt: FlowPrompt, noise: Noises) -> FlowStream:
        """Start a stream behind the prompt, from an earlier request's memory if there is one."""
        key = _fingerprint(self.flow, prompt)
        past = self._pasts.get(key)
        stream = FlowStream(self.flow, self.cutting, prompt, noise, past)
        if stream.past.at and self.config.prompts:
            others = [pair for pair in self._pasts.items() if pair[0] != key]
            others.append((key, past or stream.past.fork()))
            # replaced, not changed: requests of other threads may be looking at it
            self._pasts = dict(others[-self.config.prompts :])
        return stream


def _flow_prompt(speaker: Tensor | None, prompt: State | None) -> FlowPrompt:
    """Take the flow's conditioning from a prompt; ``speaker`` [192] where that has none."""
    prompt = prompt or {}
    speaker = prompt.get("speaker", speaker)
    if "codes" not in prompt:
        return FlowPrompt(speaker=speaker)
    return FlowPrompt(prompt["codes"][:, 0], prompt["mel"], speaker)  # [P], [2 P, 80], [192]


def _fingerprint(flow: Flow, prompt: FlowPrompt) -> str:
    """Hash a prompt and the weights' identity: their addresses and how often they were changed."""
    digest = hashlib.sha256()
    for tensor in (prompt.codes, prompt.mel, prompt.speaker):
        digest.update(b"|" if tensor is None else tensor.cpu().contiguous().numpy().tobytes())
    for weight in flow.parameters():
        changes = 0 if weight.is_inference() else weight._version
        digest.update(f"{weight.data_ptr()} {changes} ".encode())
    return digest.hexdigest()


class CosyVoice2Stream(DecoderStream):
    """Codes through the flow, its mel through the vocoder."""

    def __init__(self, flow: FlowStream | WholeFlow, voice: HiFTStream) -> None:
        self._flow, self._voice = flow, voice
        self._finished = False

    def wants(self) -> int:
        """Count the codes that complete the next chunk."""
        return self._flow.wants()

    def push(self, codes: Tensor) -> Tensor:
        """Add codes [T, 1] -> samples [S] that are final now."""
        self._check_open()
        mel = self._flow.push(codes[:, 0])  # [k, 80]
        return self._voice.push(mel.T)  # [S]

    def finish(self) -> Tensor:
        """Return the samples [S] still held back."""
        self._check_open()
        self._finished = True
        samples = self._voice.push(self._flow.finish().T)  # [S']
        return torch.cat([samples, self._voice.finish()])  # [S]

    def _check_open(self) -> None:
        if self._finished:
            raise RuntimeError("this stream is finished; start another one")
