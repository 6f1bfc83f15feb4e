"""Folders in the format of CosyVoice2-0.5B, with random weights: tiny ones, or of full size.

``python tests/plugins/cosyvoice2_release.py FOLDER [--full]`` writes one to play with.
"""

import json
import re
import sys
from pathlib import Path

import torch
from cosyvoice2_onnx import random_state, speaker_encoder, speech_tokenizer

from wishbone.core.audio.files import Audio
from wishbone.core.config.compose import Config
from wishbone.core.speak import text_to_speech
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve
from wishbone.core.testing import trained_looking_
from wishbone.core.weights.tensor_files import translate
from wishbone.plugins.cosyvoice2.decoder import CosyVoice2Decoder
from wishbone.plugins.cosyvoice2.flow.names import FLOW_NAMES
from wishbone.plugins.cosyvoice2.marks import SECOND as MARKS
from wishbone.plugins.cosyvoice2.tokenizer import PIECES
from wishbone.plugins.cosyvoice2.vocoder.names import DIRECTION, LENGTH, table
from wishbone.plugins.transformer.convert import COSYVOICE2, to_qwen2

GOLDEN = Path(__file__).parent / "golden" / "cosyvoice2_names.json"
SPEAKER = 192
TINY = {
    "backbone": {"name": "transformer", "width": 64, "layers": 2, "heads": 4, "kv_heads": 2,
                 "ffn_width": 96, "rope_theta": 1e6},
    "tokenizer": {"name": "cosyvoice2"},
    "decoder": {"name": "cosyvoice2", "encoder_width": 32, "encoder_heads": 2, "encoder_inner": 48,
                "encoder_blocks": 2, "encoder_fine_blocks": 1, "width": 16, "units": 1,
                "blocks": 1, "heads": 2, "head_size": 8, "vocoder_width": 16,
                "vocoder_pitch_width": 8, "steps": 2, "chunk": 5},
}  # fmt: skip
"""What a tiny system says beside ``base: cosyvoice2``."""
SHORT = {"layout": {"name": "cosyvoice2", "min_code_ratio": 1.0, "max_code_ratio": 2.0}}
"""Few codes: what is said is noise anyway."""
SAID = "Hello there, [laughter] how are you?"
PROSE = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps. We went there and back again."
    " 今天天气真好，我们去公园玩吧。他说这本书很有意思！ Hello world, how are you? one two three"
)
SETTINGS = """\
__set_seed1: !apply:random.seed [1986]
__set_seed3: !apply:torch.manual_seed [1986]
sample_rate: 24000
llm_input_size: {width}
qwen_pretrain_path: ''
token_frame_rate: 25
token_mel_ratio: 2
chunk_size: 25
llm: !new:cosyvoice.llm.llm.Qwen2LM
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_input_size>
    speech_token_size: 6561
    mix_ratio: [5, 15]
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_pretrain_path>
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.8
        top_k: 25
        win_size: 10
        tau_r: 0.1
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
get_tokenizer: !name:cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer
    token_path: !ref <qwen_pretrain_path>
data_pipeline: [
    !ref <get_tokenizer>,
]
"""


def names(what):
    """Name -> shape of every tensor of the public ``llm``, ``flow`` or ``hift``."""
    rows = json.loads(GOLDEN.read_text())[what]
    return {name: shape for pattern, shape in rows.items() for name in expand(pattern)}


def expand(pattern):
    """``a.{0-1}.b`` and ``a.{0,2}.b`` as names."""
    match = re.search(r"\{([\d,-]+)\}", pattern)
    if not match:
        return [pattern]
    first, _, last = match[1].partition("-")
    numbers = range(int(first), int(last) + 1) if last else match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in expand(f"{head}{number}{tail}")]


def config(folder=None, full=False, rows=None, **overrides):
    """A resolved system on ``folder``; ``rows`` of the text table where there is no folder."""
    from wishbone.core.config.compose import compose, merge

    values = dict(compose("cosyvoice2"))
    if not full:
        values = merge(values, {slot: dict(fields) for slot, fields in TINY.items()})
    if folder is not None:
        values["weights"] = str(folder)
        values["tokenizer"] = values["tokenizer"] | {"release": str(folder)}
        for slot in ("speech_tokenizer", "decoder"):
            values[slot] = values[slot] | {"weights": str(folder)}
    if rows:
        values["tokenizer"] = values["tokenizer"] | {"rows": rows}
    return resolve(Config(merge(values, overrides)))


def llm(system, device="cpu", seed=0, lively=True):
    """``llm.pt`` of a random language model, by the public names.

    ``lively`` weights let every branch count, and take twice the memory of full size to make.
    """
    model = build_model(system, device)
    if device == "cpu" and lively:
        trained_looking_(model, seed)
    ours = model.state_dict()
    inner = {n.removeprefix("backbone."): t for n, t in ours.items() if n.startswith("backbone.")}
    released = to_qwen2(inner, model.backbone.config, prefix="llm.model.model.")
    released |= {released_name: ours[name] for released_name, name in COSYVOICE2.items()}
    # tied, as in the release: two names, one storage
    released["llm.model.lm_head.weight"] = released["llm.model.model.embed_tokens.weight"]
    return {name: tensor.detach() for name, tensor in released.items()}


def decoder(system, device="cpu", seed=0, lively=True):
    """``flow.pt`` and ``hift.pt`` of a random decoder, by the public names."""
    fields = {k: v for k, v in system["decoder"].items() if k not in ("name", "weights")}
    with torch.device(device):
        part = CosyVoice2Decoder(CosyVoice2Decoder.Config(**fields))
    if device == "cpu":
        trained_looking_(part if lively else part.vocoder, seed)
        _tame_(part.vocoder)
    back = {ours: released for released, ours in FLOW_NAMES.items()}
    flow = translate(part.flow.state_dict(), back)
    names = {ours: released for released, ours in table().items()}
    complete = translate(part.vocoder.state_dict(), names)
    hift = {}
    plain = ("m_source", "source_downs", "f0_predictor.classifier")
    for name, tensor in complete.items():
        if not name.endswith(".weight") or name.startswith(plain):
            hift[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        dims = tuple(range(1, tensor.ndim))
        hift[f"{layer}.{LENGTH}"] = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
        hift[f"{layer}.{DIRECTION}"] = tensor * 1.5
    # a release is float32 throughout; our pitch predictor computes in float64
    return flow, {name: tensor.detach().float() for name, tensor in hift.items()}


@torch.no_grad()
def _tame_(vocoder):
    """Weights through which a signal neither drowns nor blows up, and nothing is clipped."""
    for name, weight in vocoder.named_parameters():
        if weight.ndim > 1:
            length = torch.linalg.vector_norm(weight.flatten(1), dim=1)
            scale = (0.3 if ".narrow." in name else 0.9) / length
            weight *= scale.view(-1, *[1] * (weight.ndim - 1))
    vocoder.get_parameter("exit.convolution.bias")[:9] -= 1.5


def write_text(folder, rows=None, complete=False):
    """``CosyVoice-BlankEN``: a BPE trained on a paragraph -> rows of the table of text.

    ``rows`` pads it to the public number of ids; ``whole`` writes one tokenizer.json.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as cuts

    folder.mkdir(parents=True)
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = cuts.Sequence(
        [cuts.Split(Regex(PIECES), behavior="isolated"),
         cuts.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=cuts.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([PROSE] * 3, trainer)
    if complete:
        bpe.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS[:3]])
        bpe.save(str(folder / "tokenizer.json"))
        return bpe.get_vocab_size() + 32
    bpe.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    if rows:
        for spare in range(len(vocabulary), 151_643):
            vocabulary[f"<spare {spare}>"] = spare
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
    count = len(vocabulary)
    added = {str(count + i): {"content": mark, "special": True} for i, mark in enumerate(MARKS[:3])}
    settings = {"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": MARKS[0], "pad_token": MARKS[0]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return rows or count + 32


def presets():
    """What ``spk2info.pt`` holds: one speaker of a vector, one with a recording."""
    generator = torch.Generator().manual_seed(7)
    vector = torch.randn(1, SPEAKER, generator=generator)
    codes = torch.randint(0, 6561, (1, 9), generator=generator, dtype=torch.int32)
    length = torch.tensor([9], dtype=torch.int32)
    recorded = {
        "prompt_text": torch.tensor([[5, 6, 7]], dtype=torch.int32),
        "prompt_text_len": torch.tensor([3], dtype=torch.int32),
        "llm_prompt_speech_token": codes, "llm_prompt_speech_token_len": length,
        "flow_prompt_speech_token": codes, "flow_prompt_speech_token_len": length,
        "prompt_speech_feat": torch.randn(1, 18, 80, generator=generator) - 5,
        "prompt_speech_feat_len": 2 * length, "llm_embedding": vector, "flow_embedding": vector,
    }  # fmt: skip
    return {"plain": {"embedding": vector}, "recorded": recorded}


def write(folder, full=False, seed=0):
    """A whole release in ``folder`` -> its path. A full one takes 3.5 GB and a minute."""
    folder = Path(folder)
    blank = folder / "CosyVoice-BlankEN"
    rows = write_text(blank, 151_936 if full else None)
    system = config(full=full, rows=rows)
    torch.save(llm(system, seed=seed, lively=not full), folder / "llm.pt")
    flow, hift = decoder(system, seed=seed, lively=not full)
    torch.save(flow, folder / "flow.pt")
    torch.save(hift, folder / "hift.pt")
    torch.save(presets(), folder / "spk2info.pt")
    shape = system["backbone"]
    body = {
        "model_type": "qwen2", "vocab_size": rows, "hidden_size": shape["width"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "intermediate_size": shape["ffn_width"],
        "rope_theta": shape["rope_theta"], "rms_norm_eps": shape["norm_eps"],
        "hidden_act": "silu", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
    }  # fmt: skip
    (blank / "config.json").write_text(json.dumps(body))
    (folder / "cosyvoice2.yaml").write_text(SETTINGS.format(width=shape["width"]))
    width, layers = (1280, 6) if full else (64, 1)
    ears = random_state(width=width, layers=layers, seed=seed)
    speech_tokenizer(folder / "speech_tokenizer_v2.onnx", ears, layers, positions=2048)
    speaker_encoder(folder / "campplus.onnx", width=SPEAKER, seed=seed)
    return folder


def write_system(path, folder, **overrides):
    """A YAML file of the tiny system on ``folder``, which says no more than a user would."""
    from wishbone.core.config.compose import dump, merge

    path.write_text(dump(merge({"base": "cosyvoice2", "weights": str(folder), **TINY}, overrides)))
    return path


def recording(seconds=1.0, rate=16_000):
    """A tone that swells."""
    seconds = torch.arange(round(seconds * rate)) / rate
    return Audio(0.4 * torch.sin(900 * seconds) * torch.sin(5 * seconds), rate)


def spoken(system, text=SAID, **how):
    """Codes and samples of a text."""
    record = []
    audio = text_to_speech.say(system, text, record=record, **how)
    assert audio.sample_rate == 24_000 and torch.isfinite(audio.samples).all()
    return [code for utterance in record for code in utterance.codes], audio.samples


if __name__ == "__main__":
    print(write(sys.argv[1], full="--full" in sys.argv[2:]))
