"""Codecs of transformers: the same codes and samples as there, whole and in pieces."""

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

import transformers
from transformers import CONFIG_MAPPING, AutoModel, DynamicCache

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.system.loading import load_part
from wishbone.core.testing import check_class, trained_looking_
from wishbone.plugins.heads.head import FSQHead, FSQHeadConfig
from wishbone.plugins.hf import codec_families as families
from wishbone.plugins.hf.codecs import CODECS, TINY, HFCodecConfig, HFDecoder, HFSpeechTokenizer

DAC = {
    "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 4],
    "n_codebooks": 3, "codebook_size": 64, "codebook_dim": 4, "sampling_rate": 800,
}  # fmt: skip
ENCODEC = {
    "sampling_rate": 800, "upsampling_ratios": [4, 2], "num_filters": 4, "hidden_size": 16,
    "codebook_size": 64, "target_bandwidths": [0.6, 1.8], "num_lstm_layers": 2,
}  # fmt: skip
HUBERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": [8, 8], "conv_kernel": [4, 2], "conv_stride": [4, 2], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
XCODEC = {
    "sample_rate": 800, "codebook_size": 64, "target_bandwidths": [0.6, 1.8],
    "acoustic_model_config": {
        "model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 16,
        "downsampling_ratios": [4, 2], "upsampling_ratios": [4, 2], "hidden_size": 16,
    },
    "semantic_model_config": {"model_type": "hubert", **HUBERT},
}  # fmt: skip
HIGGS = {
    "sample_rate": 24000, "codebook_size": 64, "codebook_dim": 32,
    "target_bandwidths": [0.15, 0.45],
    "acoustic_model_config": {
        **XCODEC["acoustic_model_config"], "downsampling_ratios": [8, 5, 4, 6],
        "upsampling_ratios": [8, 5, 4, 6],
    },
    # as in the release: 320 samples of 16 kHz a step, of which every second one is used
    "semantic_model_config": {
        "model_type": "hubert", **HUBERT, "conv_dim": [8] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_feat_extract_layers": 7,
    },
}  # fmt: skip
XCODEC2 = {
    "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "encoder_hidden_size": 4, "quantization_dim": 96,
    "quantization_levels": [4, 4, 4],
    "semantic_model_config": {
        "model_type": "wav2vec2-bert", "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 48, "conv_depthwise_kernel_size": 3,
    },
}  # fmt: skip
WAVTOKENIZER = {
    "sampling_rate": 800, "upsampling_ratios": [4, 2], "num_filters": 4, "hidden_size": 16,
    "codebook_size": 64, "codebook_dim": 16, "decoder_hidden_size": 32,
    "decoder_intermediate_size": 48, "decoder_num_layers": 2, "decoder_attention_num_groups": 4,
}  # fmt: skip
VALUES = {
    "mimi": TINY, "dac": DAC, "encodec": ENCODEC, "xcodec": XCODEC,
    "higgs_audio_v2_tokenizer": HIGGS, "xcodec2": XCODEC2, "neucodec": XCODEC2,
    "wavtokenizer": WAVTOKENIZER,
}  # fmt: skip


@pytest.fixture(scope="module", params=VALUES)
def codec(request, tmp_path_factory):
    """A made-up release, as transformers reads it, and both halves, read from its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    theirs = AutoModel.from_config(CONFIG_MAPPING[request.param](**VALUES[request.param])).eval()
    families.fill_codebooks(theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
        # as they are made, encoders say hardly anything, so that all frames get one code
        for part in CODECS[request.param].encodes:
            trained_looking_(theirs.get_submodule(part), 0)
        for name, parameter in theirs.named_parameters():
            if "project_in" in name or "in_proj" in name:
                parameter.mul_(30.0)
        if request.param in ("encodec", "wavtokenizer"):
            for name, table in theirs.named_buffers():
                if name.endswith(".embed"):
                    table.mul_(0.05)
    theirs.save_pretrained(folder)
    halves = []
    for kind in ("speech_tokenizer", "decoder"):
        slot = parse_slot({kind: {"name": "hf", "weights": str(folder)}}, kind)
        half = slot.build().eval()
        load_part(half, slot.weights, kind)
        halves.append(half)
    return theirs, *halves


def codes_of_theirs(theirs, audio):
    """Encode as the pages of transformers show it -> [T, Q]."""
    inner = theirs.config
    if inner.model_type in ("xcodec2", "neucodec"):
        name = {"xcodec2": "Xcodec2", "neucodec": "NeuCodec"}[inner.model_type]
        extract = getattr(transformers, f"{name}FeatureExtractor")()
        inputs = extract(audio=audio.numpy(), sampling_rate=16_000, return_tensors="pt")
        return theirs.encode(**inputs).audio_codes[0].T
    bandwidths = getattr(inner, "target_bandwidths", None)
    values = {"bandwidth": bandwidths[-1]} if bandwidths else {}
    codes = theirs.encode(audio[None, None], **values).audio_codes
    return codes.reshape(-1, codes.shape[-1]).T


def sound_of_theirs(theirs, codes):
    """Decode codes [T, Q] in one call -> samples [S]."""
    if theirs.config.model_type == "encodec":
        return theirs.decode(codes.T[None, None], [None]).audio_values.flatten()
    return theirs.decode(audio_codes=codes.T[None]).audio_values.flatten()


def in_pieces(decoder, codes, size):
    stream = decoder.start()
    parts = [stream.push(piece) for piece in codes.split(size)]
    return torch.cat([*parts, stream.finish()]), sum(len(part) for part in parts)


@torch.no_grad()
def test_the_codes_are_those_of_transformers(codec):
    theirs, tokenizer, _ = codec
    audio = 0.3 * torch.randn(tokenizer.hop * 30)
    expected = codes_of_theirs(theirs, audio)
    assert torch.equal(tokenizer.encode(audio), expected)
    assert expected.shape[1] == tokenizer.codes.codebooks and len(expected.unique(dim=0)) > 1
    # a frame that has begun is one, but for families that round otherwise
    assert abs(len(tokenizer.encode(audio[:-3])) - 30) <= 1


@torch.no_grad()
def test_pieces_are_what_transformers_decodes_in_one_call(codec):
    theirs, _, decoder = codec
    frames = 3 * decoder.context + 20
    codes = torch.randint(0, decoder.codes.size, (frames, decoder.codes.codebooks))
    expected = sound_of_theirs(theirs, codes)
    assert len(expected) == frames * decoder.hop and expected.std() > 1e-4
    for size in (1, 7, frames):
        samples, early = in_pieces(decoder, codes, size)
        assert (samples - expected.clamp(-1, 1)).abs().max() < 1e-5
        assert early >= (frames - decoder.lookahead) * decoder.hop
    if decoder.family.streams in (families.CAUSAL, families.LAYERS):
        # of mimi, one call of everything is what transformers says to the last bit
        bits = 0.0 if decoder.config.model == "mimi" else 1e-6
        pushed = decoder.start().push(codes)
        assert (pushed - expected.clamp(-1, 1)).abs().max() <= bits
    # fewer frames than a stream needs to begin
    short = codes[: max(1, min(3, decoder.lookahead))]
    samples, _ = in_pieces(decoder, short, 1)
    assert (samples - sound_of_theirs(theirs, short).clamp(-1, 1)).abs().max() < 1e-5


@torch.no_grad()
def test_pieces_that_forget_do_not_fit(codec, monkeypatch):
    """Negative control: with less context than its layers see, a decoder makes other samples."""
    theirs, _, decoder = codec
    if decoder.family.streams == families.COMPLETE:
        pytest.skip("it is decoded in one call")
    codes = torch.randint(
        0, decoder.codes.size, (3 * decoder.context + 20, decoder.codes.codebooks)
    )
    expected = sound_of_theirs(theirs, codes).clamp(-1, 1)
    monkeypatch.setattr(decoder, "context", 1)
    if decoder.family.streams == families.LAYERS:
        lstm = next(m for m in decoder.model.decoder.modules() if isinstance(m, torch.nn.LSTM))
        forgetful = lstm.forward
        monkeypatch.setattr(lstm, "forward", lambda x, state=None: forgetful(x))
    samples, _ = in_pieces(decoder, codes, 1)
    assert (samples - expected).abs().max() > 1e-4 * expected.abs().max()


@torch.no_grad()
def test_mimi_streams_where_transformers_does():
    """Its cache of the decoder alone gives other samples than one call; ours are those of one."""
    torch.manual_seed(0)
    decoder = HFDecoder(HFCodecConfig(config=dict(TINY))).eval()
    theirs = AutoModel.from_config(CONFIG_MAPPING["mimi"](**TINY)).eval()
    theirs.load_state_dict(decoder.model.state_dict(), strict=False)
    codes = torch.randint(0, 64, (40, 3))
    expected = theirs.decode(audio_codes=codes.T[None]).audio_values.flatten()
    cache, parts = DynamicCache(config=theirs.config), []
    for piece in codes.split(1):
        sound = theirs.decode(audio_codes=piece.T[None], decoder_cache=cache)
        cache, parts = sound.decoder_cache, [*parts, sound.audio_values.flatten()]
    cached = torch.cat(parts)
    ours, early = in_pieces(decoder, codes, 1)
    assert early == len(expected)
    assert (cached - expected).abs().max() > 0.01 * expected.abs().max()
    assert (ours - expected.clamp(-1, 1)).abs().max() < 1e-5
    # what transformers caches rightly, the transformer, is to the bit what ours computes
    assert torch.equal(decoder.start().push(codes), expected.clamp(-1, 1))


SUITES = ("dac", "encodec", "xcodec", "xcodec2", "neucodec", "wavtokenizer")
"""Those that are quick enough for every run; mimi goes through the suite by its own name."""


@pytest.mark.parametrize("cls", [HFSpeechTokenizer, HFDecoder])
@pytest.mark.parametrize("family", SUITES)
def test_a_codec_keeps_the_contract(family, cls):
    kind = "decoder" if cls is HFDecoder else "speech_tokenizer"
    results = check_class(kind, cls, HFCodecConfig(family, config=dict(VALUES[family])))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_every_codec_is_tested_here():
    assert set(VALUES) == set(CODECS)


def test_fewer_codebooks_and_too_many():
    assert HFDecoder(HFCodecConfig(codebooks=2, config=dict(TINY))).codes.codebooks == 2
    two = HFSpeechTokenizer(HFCodecConfig("xcodec", codebooks=2, config=dict(XCODEC))).eval()
    every = HFSpeechTokenizer(HFCodecConfig("xcodec", config=dict(XCODEC))).eval()
    every.load_state_dict(two.state_dict())
    audio = 0.3 * torch.randn(200)
    assert torch.equal(two.encode(audio), every.encode(audio)[:, :2])
    with pytest.raises(ConfigError, match="3 codebooks, not 4"):
        HFDecoder(HFCodecConfig(codebooks=4, config=dict(TINY)))
    with pytest.raises(ConfigError, match="refuses these values"):
        HFDecoder(HFCodecConfig(config={"codebook_size": 40}))


def test_a_codec_of_chunks_is_refused():
    """encodec_48khz: two channels, and a scale for each second that no code holds."""
    values = {**ENCODEC, "audio_channels": 2, "normalize": True, "chunk_length_s": 1.0}
    with pytest.raises(ConfigError, match="numbers that are no codes"):
        HFDecoder(HFCodecConfig("encodec", config=values))
    with pytest.raises(ConfigError, match="not causal"):
        HFDecoder(HFCodecConfig("encodec", config={**ENCODEC, "use_causal_conv": False}))


def test_other_folders_are_refused(tmp_path):
    CONFIG_MAPPING["qwen3"]().save_pretrained(tmp_path)
    with pytest.raises((ConfigError, CheckpointError, ValueError), match="none of the codecs mimi"):
        HFCodecConfig(weights=str(tmp_path))


def test_digits_of_codes_are_those_of_the_quantiser():
    """The head ``fsq`` reads a code as digits, the least significant first; so does neucodec."""
    decoder = HFDecoder(HFCodecConfig("neucodec", config=dict(XCODEC2)))
    head = FSQHead(FSQHeadConfig(rank=2), width=8, codes=decoder.codes, extra=3)
    assert head.levels == (4, 4, 4) and decoder.codes.size == 64
    table = decoder.model.quantizer.quantizer.codebook.reshape(64, 3)
    first, second = table[1] != table[0], table[4] != table[0]
    assert first.tolist() == [True, False, False] and second.tolist() == [False, True, False]
