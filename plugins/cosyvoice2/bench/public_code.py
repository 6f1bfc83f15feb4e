"""The public code of CosyVoice2 as a contender of ``wishbone bench``, from the user's checkout.

None of it is here. Its classes are built as ``examples/libritts/cosyvoice2/conf`` of the
checkout says, filled as its ``CosyVoice2Model.load`` does and asked through its own
``CosyVoice2Model.tts``. It is helped where it would not run or would not be comparable:

- modules that it imports and does not use here (``conformer``, ``matcha.utils``) are empty;
- the Qwen2 inside is made from the release's ``config.json``, as all of its weights come from
  ``llm.pt``;
- both bounds of the length are the suite's, and the ids that end speech cannot be drawn, so that
  random weights speak as long as ours do;
- the size of chunks, which it lets grow from one request to the next, begins at 25 in each.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.contenders import version_of
from wishbone.core.contract.extensions.contender import Job
from wishbone.plugins.cosyvoice2.bench.speaking import Speaking, excitation, no_release
from wishbone.plugins.cosyvoice2.flow.model import CODES

CHECKOUT, PACKAGES = "WISHBONE_COSYVOICE", "WISHBONE_COSYVOICE_PACKAGES"
"""Environment variables, where the suite names no folder."""
NEEDS = ("einops", "diffusers", "transformers", "omegaconf", "scipy")
NEVER = -1e4
"""Logit of an id that shall not be drawn; infinity would make numbers that are none."""
IN_THE_WAY = ("flax", "jax", "tensorflow", "accelerate", "torchsde", "bitsandbytes")
"""Packages that diffusers and transformers would import if they found them, for a minute."""
BODY = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "max_position_embeddings": 32_768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}  # fmt: skip
"""Sizes of the Qwen2 inside, where the release has no ``config.json``."""


@dataclass
class ReferenceConfig:
    """Folders of the public code and of its packages."""

    checkout: str = ""
    """Folder of FunAudioLLM/CosyVoice with third_party/Matcha-TTS filled; else the environment
    variable WISHBONE_COSYVOICE."""
    packages: str = ""
    """Folder with the versions of packages that it wants (``pip install --target``), looked into
    first; else WISHBONE_COSYVOICE_PACKAGES."""


class Reference(Speaking):
    """The public code's side, which has no memory of a voice."""

    Config = ReferenceConfig

    @classmethod
    def missing(cls, config: ReferenceConfig, job: Job) -> str:
        """Require a checkout, a release and packages."""
        checkout = _folder(config.checkout, CHECKOUT)
        if checkout is None or not (checkout / "third_party/Matcha-TTS/matcha").is_dir():
            return (
                f"no checkout of FunAudioLLM/CosyVoice with third_party/Matcha-TTS filled: name it"
                f" in {CHECKOUT} or contenders.reference.checkout"
            )
        packages = _folder(config.packages, PACKAGES)
        absent = [
            name
            for name in NEEDS
            if find_spec(name) is None and not (packages and (packages / name).is_dir())
        ]
        return f"it needs {', '.join(absent)}" if absent else no_release(job)

    def build(self) -> dict[str, Any]:
        """Import the public code, build it, let it load its files."""
        checkout = _folder(self.config.checkout, CHECKOUT)
        packages = _folder(self.config.packages, PACKAGES)
        assert checkout is not None
        roots = [packages, checkout, checkout / "third_party/Matcha-TTS"]
        sys.path[:0] = [str(root) for root in roots if root is not None]
        folder = Path(self.job.model["release"])
        with _helped():
            self.model = _build(folder)
        _fill(self.model, folder)
        self.shares.watch("flow", self.model.flow, "inference")
        self.shares.watch("vocoder", self.model.hift, "inference")
        llm, ratio = self.model.llm, self.request.ratio
        llm.inference = partial(
            llm.inference, min_token_text_ratio=ratio, max_token_text_ratio=ratio
        )
        with torch.no_grad():
            llm.llm_decoder.bias[llm.speech_token_size :] = NEVER
        return {
            "engine": "public code, eager",
            "version": f"torch {torch.__version__}, transformers {_version('transformers')}",
            "parameters": sum(p.numel() for p in llm.parameters()),
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Refuse ``new voice``, which is the case of each of its requests."""
        if case == "new voice":
            raise ValueError("it keeps nothing of a voice, so every request is as a first one")
        return {}

    def speak(self, case: str) -> Iterator[Tensor]:
        """Speak the request -> its samples [1, S], with the first size of chunks restored."""
        request, model = self.request, self.model
        model.token_hop_len = 25
        prompt = request.codes[None].int()
        for chunk in model.tts(
            text=_row(request.text),
            prompt_text=_row(request.transcript),
            flow_embedding=request.speaker[None],
            llm_embedding=request.speaker[None],
            llm_prompt_speech_token=prompt,
            flow_prompt_speech_token=prompt,
            prompt_speech_feat=request.mel[None],
            stream=case == "stream",
        ):
            yield chunk["tts_speech"]

    def mel(self, codes: Tensor) -> Tensor:
        """codes [N] -> mel [2 N, 80] behind the request's recording."""
        request = self.request
        token, prompt, mel = codes[None].int(), request.codes[None].int(), request.mel[None]
        return self.model.flow.inference(
            token, _size(token), prompt, _size(prompt), mel, _size(mel), request.speaker[None],
            True, True,
        )[0][0].T  # fmt: skip

    def samples(self, mel: Tensor) -> Tensor:
        """mel [1, 80, n] -> samples [1, S] for a tone as the excitation."""
        return self.model.hift.decode(x=mel, s=excitation(mel.shape[2] * 480))

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N] -> logits [X] after the request's prompt, its text and these, one by one."""
        request, llm = self.request, self.model.llm
        rows = llm.llm.model.model.embed_tokens(
            _row([*request.transcript, *request.text])
        )  # [1, N, D]
        begin, task = (llm.llm_embedding.weight[i].view(1, 1, -1) for i in (llm.sos, llm.task_id))
        line = torch.cat(
            [begin, rows, task, llm.speech_embedding(request.codes[None])], dim=1
        )  # [1, T, D]
        cache, steps = None, [line, *llm.speech_embedding(codes)[:, None, None]]
        for step in steps:
            ones = torch.ones(1, step.shape[1], step.shape[1]).tril().bool()  # [1, T, T]
            hidden, cache = llm.llm.forward_one_step(step, ones, cache)  # [1, T, D]
        return llm.llm_decoder(hidden[0, -1])  # [X]


def _folder(path: str, variable: str) -> Path | None:
    """Return the folder ``path``, else the environment variable's, if it is there."""
    path = path or os.environ.get(variable, "")
    return Path(path) if path and Path(path).is_dir() else None


def _row(ids: list[int]) -> Tensor:
    return torch.tensor([ids], dtype=torch.int32)  # [1, N]


def _size(x: Tensor) -> Tensor:
    return torch.tensor([x.shape[1]], dtype=torch.int32)  # [1]


def _version(name: str) -> str:
    return getattr(sys.modules.get(name), "__version__", "") or version_of(name)


@contextmanager
def _helped() -> Iterator[None]:
    """Replace modules that nobody needs here, and restore random generators afterwards."""
    empty = {"conformer": ("ConformerBlock",), "matcha.utils": (), "matcha.utils.pylogger": ()}
    hidden = [name for name in IN_THE_WAY if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    for name, inside in empty.items():
        sys.modules[name] = module = types.ModuleType(name)
        for class_name in inside:
            setattr(module, class_name, type(class_name, (torch.nn.Module,), {}))
    sys.modules["matcha.utils.pylogger"].get_pylogger = lambda name: None
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(state)
    # einops takes a name for a package that is there
    for name in hidden:
        sys.modules.pop(name, None)


def _build(folder: Path) -> Any:
    """Build ``CosyVoice2Model`` from classes of the checkout, without its weights."""
    # before transformers, of which diffusers would import a great part
    hidden, sys.modules["transformers"] = sys.modules.get("transformers"), None
    try:
        importlib.import_module("matcha.models.components.decoder")
    finally:
        del sys.modules["transformers"]
        if hidden is not None:
            sys.modules["transformers"] = hidden
    from cosyvoice.cli.model import CosyVoice2Model

    with torch.device("meta"):
        llm = _language_model(folder)
    _repair(llm)
    return CosyVoice2Model(llm, _flow_model(), _vocoder())


def _fill(model: Any, folder: Path) -> None:
    """Load as ``CosyVoiceModel.load`` does, but map files and do not read them twice."""
    for part, name in ((model.llm, "llm.pt"), (model.flow, "flow.pt"), (model.hift, "hift.pt")):
        tensors = torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
        tensors = {key.replace("generator.", ""): row for key, row in tensors.items()}
        # dtypes as the classes have them, whatever a file holds, and a table of two names once
        expected, copies = part.state_dict(), {}
        for key, row in tensors.items():
            place = row.data_ptr(), row.shape
            if place not in copies:
                copies[place] = row.to(expected[key].dtype, copy=True)
            tensors[key] = copies[place]
        part.load_state_dict(tensors, strict=True, assign=True)
        part.eval()


def _language_model(folder: Path) -> Any:
    from cosyvoice.llm.llm import Qwen2Encoder, Qwen2LM
    from cosyvoice.utils.common import ras_sampling
    from transformers import Qwen2Config, Qwen2ForCausalLM

    path = folder / "CosyVoice-BlankEN" / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config = Qwen2Config(**{key: values.get(key, value) for key, value in BODY.items()})
    encoder = Qwen2Encoder.__new__(Qwen2Encoder)
    torch.nn.Module.__init__(encoder)
    encoder.model = Qwen2ForCausalLM(config)
    width = config.hidden_size
    draw = partial(ras_sampling, top_p=0.8, top_k=25, win_size=10, tau_r=0.1)
    return Qwen2LM(width, width, CODES, encoder, draw, True, 0, [5, 15])


def _repair(llm: Any) -> None:
    """Compute the waves of rotary positions, which no file holds."""
    body = llm.llm.model
    rotary = body.model.rotary_emb
    computed = type(rotary)(config=body.config)
    rotary.register_buffer("inv_freq", computed.inv_freq, persistent=False)
    rotary.original_inv_freq = computed.inv_freq


def _flow_model() -> Any:
    from cosyvoice.flow.decoder import CausalConditionalDecoder
    from cosyvoice.flow.flow import CausalMaskedDiffWithXvec
    from cosyvoice.flow.flow_matching import CausalConditionalCFM
    from cosyvoice.transformer.upsample_encoder import UpsampleConformerEncoder
    from omegaconf import DictConfig

    encoder = UpsampleConformerEncoder(
        input_size=512, output_size=512, attention_heads=8, linear_units=2048, num_blocks=6,
        input_layer="linear", pos_enc_layer_type="rel_pos_espnet",
        selfattention_layer_type="rel_selfattn", use_cnn_module=False, macaron_style=False,
        static_chunk_size=25,
    )  # fmt: skip
    estimator = CausalConditionalDecoder(
        in_channels=320, out_channels=80, channels=[256], dropout=0.0, attention_head_dim=64,
        n_blocks=4, num_mid_blocks=12, num_heads=8, act_fn="gelu", static_chunk_size=50,
        num_decoding_left_chunks=-1,
    )  # fmt: skip
    settings = DictConfig({
        "sigma_min": 1e-6, "solver": "euler", "t_scheduler": "cosine",
        "training_cfg_rate": 0.2, "inference_cfg_rate": 0.7, "reg_loss_type": "l1",
    })  # fmt: skip
    decoder = CausalConditionalCFM(240, settings, 1, 80, estimator)
    return CausalMaskedDiffWithXvec(
        input_size=512, output_size=80, spk_embed_dim=192, vocab_size=CODES, input_frame_rate=25,
        token_mel_ratio=2, pre_lookahead_len=3, encoder=encoder, decoder=decoder,
    )  # fmt: skip


def _vocoder() -> Any:
    from cosyvoice.hifigan.f0_predictor import ConvRNNF0Predictor
    from cosyvoice.hifigan.generator import HiFTGenerator

    return HiFTGenerator(
        in_channels=80, base_channels=512, nb_harmonics=8, sampling_rate=24_000, nsf_alpha=0.1,
        nsf_sigma=0.003, nsf_voiced_threshold=10, upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7], istft_params={"n_fft": 16, "hop_len": 4},
        resblock_kernel_sizes=[3, 7, 11], resblock_dilation_sizes=[[1, 3, 5]] * 3,
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=[[1, 3, 5]] * 3, lrelu_slope=0.1, audio_limit=0.99,
        f0_predictor=ConvRNNF0Predictor(1, 80, 512),
    )  # fmt: skip
