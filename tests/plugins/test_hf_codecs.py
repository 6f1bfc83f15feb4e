"""Codecs of transformers: the same codes and samples as there, whole and in pieces."""

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

from transformers import CONFIG_MAPPING, AutoModel

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import ConfigError
from wishbone.core.system.loading import load_part
from wishbone.core.testing import check_class
from wishbone.plugins.hf.codecs import TINY, HFCodecConfig, HFDecoder, HFSpeechTokenizer

DAC = {
    "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 4],
    "n_codebooks": 3, "codebook_size": 64, "codebook_dim": 4, "sampling_rate": 800,
}  # fmt: skip
VALUES = {"mimi": TINY, "dac": DAC}


@pytest.fixture(scope="module", params=VALUES)
def codec(request, tmp_path_factory):
    """A made-up release, as transformers reads it, and both halves, read from its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    theirs = AutoModel.from_config(CONFIG_MAPPING[request.param](**VALUES[request.param])).eval()
    for module in theirs.modules():
        if hasattr(module, "embed_sum"):
            torch.nn.init.normal_(module.embed_sum)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    halves = []
    for kind in ("speech_tokenizer", "decoder"):
        slot = parse_slot({kind: {"name": "hf", "weights": str(folder)}}, kind)
        half = slot.build().eval()
        load_part(half, slot.weights, kind)
        halves.append(half)
    return theirs, *halves


@torch.no_grad()
def test_the_codes_are_those_of_transformers(codec):
    theirs, tokenizer, _ = codec
    audio = 0.3 * torch.randn(tokenizer.hop * 30)
    expected = theirs.encode(audio[None, None]).audio_codes[0]
    assert torch.equal(tokenizer.encode(audio), expected.T)
    assert len(tokenizer.encode(audio[:-3])) == 30


@torch.no_grad()
def test_pieces_are_the_whole_of_transformers(codec):
    theirs, _, decoder = codec
    frames = 3 * decoder.context + 20
    codes = torch.randint(0, decoder.codes.size, (frames, decoder.codes.codebooks))
    expected = theirs.decode(audio_codes=codes.T[None]).audio_values.flatten()
    assert len(expected) == frames * decoder.hop
    for sizes in (1, 7):
        stream = decoder.start()
        parts = [stream.push(piece) for piece in codes.split(sizes)]
        samples = torch.cat([*parts, stream.finish()])
        assert (samples - expected.clamp(-1, 1)).abs().max() < 1e-5
    early = sum(len(part) for part in parts)
    assert early >= (frames - decoder.lookahead) * decoder.hop
    if decoder.config.model == "mimi":
        # one call of everything is what transformers says to the last bit
        assert torch.equal(decoder.start().push(codes), expected.clamp(-1, 1))
    assert expected.std() > 1e-4
    # the control: with less context than its convolutions see, pieces do not fit
    decoder.context, kept = 1, decoder.context
    try:
        stream = decoder.start()
        parts = [stream.push(piece) for piece in codes.split(1)]
        off = (torch.cat([*parts, stream.finish()]) - expected.clamp(-1, 1)).abs().max()
        assert off > 1e-4 * expected.abs().max()
    finally:
        decoder.context = kept


@pytest.mark.parametrize("cls", [HFSpeechTokenizer, HFDecoder])
def test_dac_keeps_the_contract(cls):
    kind = "decoder" if cls is HFDecoder else "speech_tokenizer"
    results = check_class(kind, cls, HFCodecConfig("dac", config=dict(DAC)))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_fewer_codebooks_and_too_many():
    assert HFDecoder(HFCodecConfig(codebooks=2, config=dict(TINY))).codes.codebooks == 2
    with pytest.raises(ConfigError, match="3 codebooks, not 4"):
        HFDecoder(HFCodecConfig(codebooks=4, config=dict(TINY)))
    with pytest.raises(ConfigError, match="refuses these values"):
        HFDecoder(HFCodecConfig(config={"codebook_size": 40}))
