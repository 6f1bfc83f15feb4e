"""The public reference's flow on weights of our making; writes the golden data of its tests.

As in ``cosyvoice2_reference``: nothing of the reference is kept here. ``WISHBONE_COSYVOICE`` names
a checkout of FunAudioLLM/CosyVoice with third_party/Matcha-TTS filled; both want the packages
einops and diffusers 0.29. ``python tests/plugins/cosyvoice2_flow_reference.py`` writes
tests/plugins/golden/cosyvoice2_flow.safetensors.
"""

import importlib
import random
import sys
import types
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from cosyvoice2_reference import GOLDEN, folder, importing, melody

TINY = {
    "speaker": 8, "encoder_width": 32, "encoder_heads": 2, "encoder_inner": 48,
    "encoder_blocks": 2, "encoder_fine_blocks": 1, "width": 16, "units": 2, "blocks": 1,
    "heads": 2, "head_size": 8,
}  # fmt: skip
"""Of FlowShape; kernels, mels, look-ahead and steps are the release's."""
CHUNK, CODES, PROMPT = 4, 13, 5
"""Codes in a chunk, in all, and of these the prompt's; the last chunk is not full."""
IN_THE_WAY = ("transformers", "flax", "jax", "tensorflow", "accelerate", "torchsde")
"""Packages that diffusers would import if it found them, for more than a minute."""


def formula(name, shape):
    """Weights of a layer by its name in the release: the same on any machine, without a file."""
    count = int(np.prod(shape))
    at = torch.arange(count, dtype=torch.float64)
    wave = torch.sin(1.3 * at + 0.37 * (at * at % 97) + sum(map(ord, name)) % 31)
    if name.endswith(("pos_bias_u", "pos_bias_v", "input_embedding.weight")):
        scale = 0.5
    else:
        scale = 1.2 * float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.2
    if any(part in name for part in ("linear_q", "linear_k", "to_q", "to_k")):
        # attention that prefers some frames to others, so that masks matter
        scale *= 3
    norm = len(shape) == 1 and name.endswith("weight")
    return (scale * wave + norm).float().view(*shape)


def inputs():
    """Codes [T], prompt mel [2 P, 80], speaker [E] and noise [2 T, 80] of the golden case."""
    codes = (torch.arange(CODES) * 997 + 13) % 6561
    noise = torch.sin(torch.arange(2 * CODES * 80, dtype=torch.float64).square() * 0.013)
    speaker = torch.cos(torch.arange(TINY["speaker"]) * 1.7)
    return codes, melody(2 * PROMPT)[0].T, speaker, 1.4 * noise.float().view(-1, 80)


@contextmanager
def _stubs():
    """Parts of the reference that its flow imports and does not use."""
    names = {
        "cosyvoice.llm.llm": ("TransformerLM", "Qwen2LM", "CosyVoice3LM"),
        "cosyvoice.hifigan.generator": ("HiFTGenerator", "CausalHiFTGenerator"),
        "cosyvoice.cli.model": ("CosyVoiceModel", "CosyVoice2Model", "CosyVoice3Model"),
        "cosyvoice.utils.onnx": ("SpeechTokenExtractor", "online_feature", "onnx_path"),
        "matcha.utils": (),
        "matcha.utils.pylogger": (),
        "conformer": ("ConformerBlock",),
    }
    modules = dict.fromkeys(IN_THE_WAY)
    for name, inside in names.items():
        modules[name] = types.ModuleType(name)
        for attribute in inside:
            setattr(modules[name], attribute, type(attribute, (torch.nn.Module,), {}))
    modules["cosyvoice.utils.onnx"].online_feature = False
    modules["matcha.utils.pylogger"].get_pylogger = lambda name: None
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name)
        sys.modules.update(before)


@contextmanager
def _own_random():
    """The reference seeds every generator there is when it is built."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def flow(shape, chunk):
    """The reference flow of a FlowShape, with a mask of ``chunk`` codes."""
    checkout = folder("WISHBONE_COSYVOICE")
    with importing(checkout, checkout / "third_party/Matcha-TTS"), _stubs(), _own_random():
        encoders = importlib.import_module("cosyvoice.transformer.upsample_encoder")
        estimators = importlib.import_module("cosyvoice.flow.decoder")
        matching = importlib.import_module("cosyvoice.flow.flow_matching")
        flows = importlib.import_module("cosyvoice.flow.flow")
        from omegaconf import DictConfig

        width = shape.encoder_width
        encoder = encoders.UpsampleConformerEncoder(
            input_size=width, output_size=width, attention_heads=shape.encoder_heads,
            linear_units=shape.encoder_inner, num_blocks=shape.encoder_blocks,
            input_layer="linear", pos_enc_layer_type="rel_pos_espnet",
            selfattention_layer_type="rel_selfattn", use_cnn_module=False, macaron_style=False,
            static_chunk_size=chunk,
        )  # fmt: skip
        # these have the release's sizes written into them
        encoder.pre_lookahead_layer = encoders.PreLookaheadLayer(width, width, shape.lookahead)
        encoder.up_layer = encoders.Upsample1D(width, width, 2)
        encoder.up_encoders = encoder.up_encoders[: shape.encoder_fine_blocks]
        estimator = estimators.CausalConditionalDecoder(
            in_channels=320, out_channels=80, channels=[shape.width], dropout=0.0,
            attention_head_dim=shape.head_size, n_blocks=shape.blocks, num_mid_blocks=shape.units,
            num_heads=shape.heads, act_fn="gelu", static_chunk_size=2 * chunk,
            num_decoding_left_chunks=-1,
        )  # fmt: skip
        settings = DictConfig({
            "sigma_min": 1e-6, "solver": "euler", "t_scheduler": "cosine",
            "training_cfg_rate": 0.2, "inference_cfg_rate": 0.7, "reg_loss_type": "l1",
        })  # fmt: skip
        decoder = matching.CausalConditionalCFM(240, settings, 1, 80, estimator)
        return flows.CausalMaskedDiffWithXvec(
            input_size=width, output_size=80, spk_embed_dim=shape.speaker, vocab_size=6561,
            input_frame_rate=25, token_mel_ratio=2, pre_lookahead_len=shape.lookahead,
            encoder=encoder, decoder=decoder,
        ).eval()  # fmt: skip


@torch.inference_mode()
def run(model, codes, mel, speaker, noise=None, streaming=True, finalize=True):
    """Wanted mel, mel before every step and after the last, each [frames, 80] with the prompt."""
    prompt, steps, encoded = len(mel) // 2, [], []
    if noise is not None:
        model.decoder.rand_noise = noise.T[None]
    estimate, solve = model.decoder.forward_estimator, model.decoder.solve_euler

    def estimator(x, mask, mu, *others):
        steps.append(x[0].T.clone())
        if not encoded:
            encoded.append(mu[0].T.clone())
        return estimate(x, mask, mu, *others)

    def solver(*parts, **options):
        steps.append(solve(*parts, **options)[0].T)
        return steps[-1].T[None]

    def size(x):
        return torch.tensor([x.shape[1]])

    before, after = codes[None, :prompt], codes[None, prompt:]
    with patch.multiple(model.decoder, forward_estimator=estimator, solve_euler=solver):
        model.inference(
            after, size(after), before, size(before), mel[None], size(mel[None]), speaker[None],
            streaming, finalize,
        )  # fmt: skip
    return encoded[0], torch.stack(steps)


def write():
    """The golden file, from the checkout."""
    from safetensors.torch import save_file

    from wishbone.plugins.cosyvoice2.flow.model import FlowShape

    model = flow(FlowShape(**TINY), CHUNK)
    weights = {name: formula(name, tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    codes, mel, speaker, noise = inputs()
    encoded, steps = run(model, codes, mel, speaker, noise)
    tensors = {"wanted": encoded, "steps": steps}
    encoded, steps = run(model, codes, mel, speaker, noise, streaming=False)
    tensors |= {"wanted_full": encoded, "mel_full": steps[-1]}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        GOLDEN / "cosyvoice2_flow.safetensors",
    )
    print({name: (list(t.shape), float(t.std())) for name, t in tensors.items()})


if __name__ == "__main__":
    write()
