"""Audio to the codes of CosyVoice2's language model: 25 a second, of 6561 values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace, SpeechTokenizer
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.part import Layers, Size
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.cosyvoice2.mel import whisper_mel
from wishbone.plugins.cosyvoice2.release.files import EARS, file_of, refuse_third
from wishbone.plugins.cosyvoice2.release.onnx import Session, read_nodes
from wishbone.plugins.cosyvoice2.speech_network import DIGITS, SpeechNetwork, weights_of

WHAT = "speech tokenizer"
WINDOW, OVERLAP = 3000, 400  # mel frames: 30 s, as the network was trained, and 4 s
PER_CODE = 4  # mel frames of a code
ENGINES = ("onnx", "torch")


class CosyVoice2SpeechTokenizer(SpeechTokenizer):
    """S3 tokenizer v2 of the release, in onnxruntime or in PyTorch with the same weights.

    Recordings beyond 30 s, which upstream refuses, are cut into windows that overlap by 4 s; of an
    overlap each window gives the half with more context around it. onnxruntime opens the file at
    the first recording, since a voice that was saved never needs it. PyTorch runs on any device and
    takes several recordings at once.
    """

    @dataclass
    class Config:
        engine: str = "onnx"
        """onnx (needs onnxruntime) or torch (needs onnx, to read the file's weights)."""
        mels: Size = 128
        """Bands of a mel frame."""
        width: Size = 1280
        """Channels; of the engine torch alone, as are the two below."""
        layers: Layers = 6
        """Blocks."""
        kernel: Size = 31
        """Positions that the memory beside the attention sees."""

    sample_rate = 16_000
    codes = CodeSpace(size=3**DIGITS, rate=25, levels=(3,) * DIGITS)

    def __init__(self, config: CosyVoice2SpeechTokenizer.Config) -> None:
        super().__init__()
        if config.engine not in ENGINES:
            raise ValueError(f"engine must be {' or '.join(ENGINES)}, not '{config.engine}'")
        self.config = config
        self.network = (
            SpeechNetwork(config.mels, config.width, config.layers, config.kernel)
            if config.engine == "torch"
            else None
        )
        # the file's hash stands for its weights, where they live in onnxruntime
        self.register_buffer("identity", torch.zeros(32, dtype=torch.uint8))
        self._path: Path | None = None
        self._session: Session | None = None

    @staticmethod
    def small_config() -> CosyVoice2SpeechTokenizer.Config:
        """For the contract suite."""
        return CosyVoice2SpeechTokenizer.Config(engine="torch", width=64, layers=2)

    def load_release(self, folder: str | Path) -> None:
        """Load the weights of the release in ``folder``. Raises ``CheckpointError``."""
        refuse_third(folder, "speech tokenizer")
        self.load_file(file_of(folder, EARS, "which turns recordings into codes"))

    def load_file(self, path: str | Path) -> None:
        """Load the weights of one .onnx file; the engine torch reads them now.

        Raises ``CheckpointError`` for a file that is not of this network, ``MissingExtra``.
        """
        path = Path(path)
        if self.network is not None:
            tensors, epsilons = weights_of(read_nodes(path, WHAT), str(path))
            load_tensors(self.network, tensors, str(path))
            for name, epsilon in epsilons.items():
                setattr(self.network.get_submodule(name), "eps", epsilon)  # noqa: B010
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        self.identity.copy_(torch.tensor(list(digest), dtype=torch.uint8))
        self._path, self._session = path, None

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] -> codes [ceil((S // 160) / 4), 1].

        Raises ``CheckpointError`` if the .onnx file is none, ``MissingExtra`` without onnxruntime.
        """
        return self.encode_batch([audio])[0]  # [T, 1]

    @torch.inference_mode()
    def encode_batch(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """Encode audios [S] at once -> codes [T, 1] of each, the same as one by one."""
        mels = [whisper_mel(audio.float(), self.config.mels) for audio in audios]  # [mels, T] each
        cuts = [mel[:, start:end] for mel in mels for start, end in windows(mel.shape[1])]
        coded = iter(self._codes(cuts))
        result = []
        for mel in mels:
            parts = [next(coded) for _ in windows(mel.shape[1])]
            middles = [part[cut] for part, cut in zip(parts, halves(len(parts)), strict=True)]
            joined = torch.cat(middles) if middles else torch.zeros(0, device=mel.device)  # [T]
            result.append(joined.long()[:, None])  # [T, 1]
        return result

    def _codes(self, mels: list[Tensor]) -> list[Tensor]:
        """Encode mel spectrograms [mels, 4 T] of at most one window each -> codes [T] each."""
        if not mels:
            return []
        if self.network is None:
            return [self._run(mel) for mel in mels]
        lengths = torch.tensor([mel.shape[1] for mel in mels], device=mels[0].device)  # [B]
        longest = max(mel.shape[1] for mel in mels)
        batch = torch.stack(
            [F.pad(mel, (0, longest - mel.shape[1])) for mel in mels]
        )  # [B, mels, L]
        codes = self.network(batch.to(self.network.project.weight.dtype), lengths)  # [B, L / 4]
        return [row[: -(-mel.shape[1] // PER_CODE)] for row, mel in zip(codes, mels, strict=True)]

    def _run(self, mel: Tensor) -> Tensor:
        """Encode mel [mels, 4 T] by onnxruntime -> codes [T]. Raises ``CheckpointError``."""
        session = self._open()
        frames = torch.tensor([mel.shape[1]], dtype=torch.int32)  # [1]
        codes = session.run(mel[None], frames).flatten().to(mel.device)  # [T]
        expected = -(-mel.shape[1] // PER_CODE)
        inside = ((codes >= 0) & (codes < self.codes.size)).all()
        if len(codes) != expected or codes.is_floating_point() or not inside:
            raise CheckpointError(
                f"The {WHAT} made {len(codes)} codes where {expected} of 0..{self.codes.size - 1}"
                " belong.",
                str(self._path),
                "Use speech_tokenizer_v2.onnx of CosyVoice2-0.5B.",
            )
        return codes

    def _open(self) -> Session:
        if self._path is None:
            raise CheckpointError(
                "The speech tokenizer has no weights.",
                "speech_tokenizer.weights",
                "Name the folder of a CosyVoice2 release: speech_tokenizer.weights=FOLDER.",
            )
        if self._session is None:
            self._session = Session(self._path, WHAT, inputs=2)
        return self._session


def windows(frames: int) -> list[tuple[int, int]]:
    """List first and last mel frame of the windows that ``frames`` are cut into; none for none."""
    starts = range(0, max(1, frames - OVERLAP), WINDOW - OVERLAP) if frames else range(0)
    return [(start, min(start + WINDOW, frames)) for start in starts]


def halves(count: int) -> list[slice]:
    """Choose the codes of each of ``count`` windows: the middle ones, and all at the ends."""
    half = OVERLAP // PER_CODE // 2
    return [slice(half if i else None, -half if i < count - 1 else None) for i in range(count)]
