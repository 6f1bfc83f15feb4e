"""Speaker embeddings by the release's CAM++ network (arXiv:2303.00332), run by onnxruntime.

``_extract_spk_embedding`` in cosyvoice/cli/frontend.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio, resample
from wishbone.core.contract.errors import CheckpointError, DataError
from wishbone.plugins.cosyvoice2.mel import kaldi_mel
from wishbone.plugins.cosyvoice2.release.files import SPEAKER, file_of
from wishbone.plugins.cosyvoice2.release.onnx import Session

WHAT = "speaker encoder"
SAMPLE_RATE = 16_000
WIDTH = 192  # numbers of an embedding, on which the flow was trained


class SpeakerEncoder:
    """Recordings to speaker embeddings. The file is opened at the first recording."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._session: Session | None = None

    @classmethod
    def of_release(cls, folder: str | Path) -> SpeakerEncoder:
        """Make the encoder of the release in ``folder``. Raises ``CheckpointError`` without one."""
        return cls(file_of(folder, SPEAKER, "which tells speakers apart"))

    @torch.no_grad()
    def embed(self, audio: Audio) -> Tensor:
        """Compute the speaker embedding [192] on the audio's device, not normalised.

        Raises ``DataError`` for a recording shorter than one window of 25 ms, ``CheckpointError``
        for a file that is not such a network, ``MissingExtra`` without onnxruntime.
        """
        frames = kaldi_mel(resample(audio, SAMPLE_RATE).samples.float())  # [T, 80]
        if not len(frames):
            raise DataError(
                f"The recording of {audio.seconds * 1000:.0f} ms is too short to tell who speaks.",
                "the recording of a voice",
                "Record a sentence or two.",
            )
        if self._session is None:
            self._session = Session(self._path, WHAT, inputs=1)
        centred = (frames - frames.mean(dim=0))[None]  # [1, T, 80]
        vector = self._session.run(centred).flatten().float()  # [192]
        if len(vector) != WIDTH or not vector.isfinite().all():
            raise CheckpointError(
                f"The {WHAT} made {len(vector)} numbers where {WIDTH} finite ones belong.",
                str(self._path),
                "Use campplus.onnx of CosyVoice2-0.5B.",
            )
        return vector.to(audio.samples.device)  # [192]
