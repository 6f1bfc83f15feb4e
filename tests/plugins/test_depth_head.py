"""The depth head is CSM's depth decoder, learns frames by heart, and streams them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "adapters")]

from toy_codecs import HOP, RATE, learn, toy_system, utterance  # noqa: E402

from wishbone.adapters.xy import XY  # noqa: E402
from wishbone.core.contract.codec import CodeSpace  # noqa: E402
from wishbone.core.contract.layout import IGNORE  # noqa: E402
from wishbone.core.contract.text import TextSpace  # noqa: E402
from wishbone.core.speak import text_to_speech  # noqa: E402
from wishbone.core.testing import Violation, suite, trained_looking_  # noqa: E402
from wishbone.plugins.heads.depth import DepthHead, DepthHeadConfig  # noqa: E402
from wishbone.plugins.transformer.convert import from_qwen2  # noqa: E402

BOOKS, IDS, WIDTH, INNER = 4, 30, 48, 32


def csm():
    """A CSM depth decoder far from its start, and a head with its weights."""
    transformers = pytest.importorskip(
        "transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'"
    )
    config = transformers.CsmDepthDecoderConfig(
        num_codebooks=BOOKS, backbone_hidden_size=WIDTH, vocab_size=IDS, hidden_size=INNER,
        intermediate_size=72, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=INNER // 4, max_position_embeddings=BOOKS,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.CsmDepthDecoderForCausalLM(config)
    trained_looking_(theirs, 0).eval()
    codes = CodeSpace(size=IDS - 1, rate=12.5, codebooks=BOOKS)
    fields = DepthHeadConfig(INNER, 3, 4, 2, 72, 500.0, config.rms_norm_eps)
    ours = DepthHead(fields, width=WIDTH, codes=codes, extra=1).eval()
    tensors = theirs.state_dict()
    apart = ("model.embed_tokens.weight", "model.inputs_embeds_projector.weight",
             "codebooks_head.weight")  # fmt: skip
    body = from_qwen2({name: t for name, t in tensors.items() if name not in apart})
    ours.load_state_dict(
        {f"depth.{name}": tensor for name, tensor in body.items()}
        | {
            "table.weight": tensors[apart[0]],
            "project.weight": tensors[apart[1]],
            "output": tensors[apart[2]].transpose(1, 2),
            "first.weight": torch.randn(IDS, WIDTH),
        }
    )
    return theirs, ours


@torch.no_grad()
def test_it_is_the_depth_decoder_of_csm_token_by_token():
    theirs, ours = csm()
    hidden = torch.randn(5, WIDTH)
    answers = torch.randint(0, IDS, (5, BOOKS))
    ids = torch.cat((torch.zeros(5, 1, dtype=torch.int64), answers[:, :-1]), 1)
    expected = theirs(ids, backbone_last_hidden_state=hidden).logits
    logits = ours.predict(hidden, answers)
    assert (logits[:, 1:] - expected).abs().max() < 1e-5 < expected.std()
    # the control: the code before makes a difference, the one behind does not
    other = answers.clone()
    other[:, 1] = (other[:, 1] + 1) % IDS
    moved = (ours.predict(hidden, other) - logits).abs().amax((0, 2))
    assert moved[:2].max() < 1e-6 and moved[2:].min() > 1e-2


@torch.no_grad()
def test_it_draws_what_csm_draws():
    theirs, ours = csm()
    hidden = torch.randn(WIDTH)
    drawn = ours.sample(hidden, lambda logits, book: int(logits.argmax()))
    ids = torch.tensor([[0, drawn[0]]])
    for book in range(1, BOOKS):
        logits = theirs(ids, backbone_last_hidden_state=hidden[None]).logits[0, -1]
        assert drawn[book] == int(logits.argmax())
        ids = torch.cat((ids, torch.tensor([[drawn[book]]])), 1)


def test_the_contract_sees_a_head_that_draws_otherwise_than_it_learns():
    class Forgets(DepthHead):
        def predict(self, hidden, answers):
            return super().predict(hidden, torch.full_like(answers, IGNORE))

    check = next(check for check in suite("head") if check.name == "predicts")
    with pytest.raises(Violation, match="sample and predict"):
        check.run(Forgets, DepthHead.small_config(), None)


TOY = CodeSpace(size=20, rate=RATE, codebooks=3)


def test_a_toy_system_learns_and_streams_three_codebooks():
    part = XY(XY.Config(), text=TextSpace(vocabulary=40), codes=TOY)
    fields = DepthHeadConfig(24, 1, depth_heads=2, depth_kv_heads=1, depth_ffn_width=48)
    system = toy_system(part, lambda width: DepthHead(fields, width=width, codes=TOY, extra=1), TOY)
    known = [utterance("hello there", TOY), utterance("go on", TOY)]
    losses = learn(system, known, 60)
    assert losses[0] > 2.0 > 0.1 > losses[-1]
    for text, sample in zip(["hello there", "go on"], known, strict=True):
        record = []
        audio = text_to_speech.say(system, text, record=record)
        assert record[0].codes == list(map(tuple, sample.speech))
        chunks = list(text_to_speech.stream(system, text))
        assert len(chunks) > 1
        assert torch.equal(
            torch.cat([torch.as_tensor(c) for c in chunks]), torch.as_tensor(audio.samples)
        )
        assert len(audio.samples) == HOP * len(sample.speech)
