"""The public reference sources, run on weights of our making; writes the golden data of the tests.

Nothing of the reference is kept here. It is imported from checkouts that the user names:
``WISHBONE_COSYVOICE`` (FunAudioLLM/CosyVoice, with or without third_party/Matcha-TTS) and
``WISHBONE_S3TOKENIZER`` (xingchensong/S3Tokenizer, which wants the package einops).
``python tests/plugins/cosyvoice2_reference.py`` writes tests/plugins/golden/cosyvoice2_*.
"""

import importlib
import importlib.util
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from wishbone.core.testing import trained_looking_
from wishbone.core.testing.common import seeded

GOLDEN = Path(__file__).parent / "golden"
TINY = {"width": 16, "pitch_width": 8}
"""Of HiFTConfig: what is kept small; kernels, rates and dilations are the release's."""
LOUDNESS = 1.0
"""How far the vocoder's log magnitudes are lowered."""
EARS = {"width": 64, "layers": 1}
"""Of the speech tokenizer; a head alone is 64 wide."""


def counted_noise(channels=9):
    """A noise that is a formula of the sample's number: the same in any program."""
    count = 0

    def draw(samples):
        nonlocal count
        index = torch.arange(count * channels, (count + samples) * channels, dtype=torch.float64)
        count += samples
        wild = torch.sin(index * 12.9898) * 43758.5453
        return ((wild - wild.floor()) * 3.46 - 1.73).float().view(1, samples, channels)

    return draw


def melody(frames, mels=80):
    """Mel frames [1, mels, frames] that move like speech: smooth, loud and soft."""
    time, band = torch.arange(frames)[None, :], torch.arange(mels)[:, None]
    mel = -4.0 + 3.0 * torch.sin(0.23 * time + 0.1 * band) - 0.02 * band + torch.cos(time * band)
    return mel[None].float()


def recording(samples, rate):
    """A voice-like tone [samples] that rises and falls, with a little formula noise."""
    seconds = torch.arange(samples, dtype=torch.float64) / rate
    phase = 2 * torch.pi * (150 * seconds + 20 * torch.sin(3 * seconds))
    tone = sum(torch.sin(k * phase) / k for k in range(1, 12)) * 0.2
    noise = counted_noise(1)(samples)[0, :, 0] * 0.01
    return (tone * (0.6 + 0.4 * torch.sin(9 * seconds))).float() + noise


def folder(variable):
    """The checkout that an environment variable names, or None."""
    path = os.environ.get(variable)
    return Path(path) if path and Path(path).is_dir() else None


@contextmanager
def importing(*paths):
    """Import from folders first, and forget them afterwards."""
    before = list(sys.path)
    sys.path[:0] = [str(path) for path in paths]
    try:
        yield
    finally:
        sys.path[:] = before


def hift(width=512, pitch_width=512, seed=0):
    """The reference vocoder in the release's shape but for its widths, with all kinds of frames."""
    with importing(folder("WISHBONE_COSYVOICE")):
        generator = importlib.import_module("cosyvoice.hifigan.generator")
        predictor = importlib.import_module("cosyvoice.hifigan.f0_predictor")
    build = partial(
        generator.HiFTGenerator,
        in_channels=80, base_channels=width, nb_harmonics=8, sampling_rate=24000, nsf_alpha=0.1,
        nsf_sigma=0.003, nsf_voiced_threshold=10, upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7], istft_params={"n_fft": 16, "hop_len": 4},
        resblock_kernel_sizes=[3, 7, 11], resblock_dilation_sizes=[[1, 3, 5]] * 3,
        source_resblock_kernel_sizes=[7, 7, 11], source_resblock_dilation_sizes=[[1, 3, 5]] * 3,
        lrelu_slope=0.1, audio_limit=0.99,
    )  # fmt: skip
    with seeded(seed):
        vocoder = build(f0_predictor=predictor.ConvRNNF0Predictor(1, 80, pitch_width))
    trained_looking_(vocoder, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in vocoder.named_parameters():
            # lengths that neither drown a signal nor blow it up on its way through 30 layers
            if name.endswith("original0"):
                scale = 0.3 if ".convs2." in name else 1.0
                weight.copy_(scale * (0.7 + 0.4 * torch.rand(weight.shape, generator=generator)))
        out, features = vocoder.f0_predictor.classifier, vocoder.f0_predictor.condnet(melody(60))
        pitch = out(features.transpose(1, 2))
        # 15 Hz on average and 40 of deviation, so that some frames are unvoiced
        out.weight *= 40 / pitch.std()
        out.bias.copy_((out.bias - pitch.mean()) * 40 / pitch.std() + 15)
        # soft enough that nothing is clipped, which would hide differences
        vocoder.conv_post.bias[:9] -= LOUDNESS
    return short(vocoder)


@torch.inference_mode()
def hift_run(vocoder, mel, cache=None):
    """Pitch, excitation and audio of the reference with the counted noise."""
    draw = counted_noise()

    def noise(like):
        return draw(like.shape[1]) if like.shape[-1] == 9 else torch.zeros_like(like)

    with patch.object(torch, "randn_like", noise):
        pitch = vocoder.f0_predictor(mel)
        audio, source = vocoder.inference(mel, *([cache] if cache is not None else []))
    return {"pitch": pitch, "source": source, "audio": audio}


def ears(width=1280, layers=6, mels=128, seed=0):
    """The reference speech tokenizer; heads are 64 wide, as its rotary table is."""
    with importing(folder("WISHBONE_S3TOKENIZER")):
        network = importlib.import_module("s3tokenizer.model_v2")
    config = network.ModelConfig(
        n_mels=mels, n_audio_state=width, n_audio_head=width // 64, n_audio_layer=layers
    )
    with seeded(seed):
        tokenizer = network.S3TokenizerV2("speech_tokenizer_v2_25hz", config)
    trained_looking_(tokenizer, seed)
    with torch.no_grad():
        # a spread of all three levels
        tokenizer.quantizer._codebook.project_down.weight *= 2
    return short(tokenizer.eval())


def short(module):
    """The module with weights that half precision holds, so that the golden files are small."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())
    return module


def weights(module):
    """What ``short`` left of a module, for a golden file."""
    return {f"weights.{k}": v.half().contiguous() for k, v in module.state_dict().items()}


def write():
    """The golden files, from the checkouts."""
    from safetensors.torch import save_file

    GOLDEN.mkdir(exist_ok=True)
    vocoder, mel = hift(**TINY), melody(16)
    arrays = {k: v.contiguous() for k, v in hift_run(vocoder, mel).items()}
    save_file(weights(vocoder) | arrays, GOLDEN / "cosyvoice2_hift.safetensors")

    tokenizer, mel = ears(**EARS), whisper()
    with torch.no_grad():
        hidden, _ = tokenizer.encoder(mel, torch.tensor([mel.shape[2]]))
        codes, _ = tokenizer.quantize(mel, torch.tensor([mel.shape[2]]))
    arrays = {"whisper": mel[0, :, :20], "hidden": hidden[0], "codes": codes[0]}
    arrays |= {"matcha": matcha()[0, :, :12], "kaldi": kaldi()[:20]}
    arrays = {k: v.contiguous() for k, v in arrays.items()}
    save_file(weights(tokenizer) | arrays, GOLDEN / "cosyvoice2_ears.safetensors")


def whisper():
    """The reference's log-mel of a second."""
    with importing(folder("WISHBONE_S3TOKENIZER")):
        tools = importlib.import_module("s3tokenizer.utils")
    return tools.log_mel_spectrogram(recording(16_000, 16_000), 128)[None]


def matcha():
    """The reference's mel of half a second, for flow and vocoder."""
    path = folder("WISHBONE_COSYVOICE") / "third_party/Matcha-TTS/matcha/utils/audio.py"
    spec = importlib.util.spec_from_file_location("matcha_audio", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sound = recording(12_000, 24_000)[None]
    return module.mel_spectrogram(sound, 1920, 80, 24000, 480, 1920, 0, 8000)


def kaldi():
    """The filter bank that the reference calls, in its words."""
    from torchaudio.compliance import kaldi

    sound = recording(16_000, 16_000)[None]
    return kaldi.fbank(sound, num_mel_bins=80, dither=0, sample_frequency=16000)


if __name__ == "__main__":
    write()
