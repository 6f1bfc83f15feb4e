"""A folder in CosyVoice3's format, tiny and random: its text and its language model are read."""

import json

import cosyvoice2_release as releases
import pytest
import torch

from wishbone.core.config.compose import Config, compose, merge
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.speak.speaker import build
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve
from wishbone.plugins.cosyvoice2 import marks
from wishbone.plugins.cosyvoice2.tokenizer import CosyVoice2Tokenizer
from wishbone.plugins.transformer.convert import to_cosyvoice2

pytest.importorskip(
    "tokenizers", reason="the text tokenizer: pip install 'wishbone-tts[cosyvoice2]'"
)
HOTFIX = "高管也通过[j][ǐ]予好评，it is [IH1][Z]."


def system_on(folder, filled=True):
    values = merge(dict(compose("cosyvoice3")), {k: dict(v) for k, v in releases.TINY.items()})
    values["weights"] = str(folder) if filled else None
    values["tokenizer"] = values["tokenizer"] | {"release": str(folder)}
    for slot in ("speech_tokenizer", "decoder"):
        values[slot] = values[slot] | {"weights": str(folder)}
    return resolve(Config(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("release")
    rows = releases.write_text(path / "CosyVoice-BlankEN") + len(marks.THIRD)
    (path / "CosyVoice-BlankEN" / "config.json").write_text(json.dumps({"vocab_size": rows}))
    text = releases.SETTINGS.format(width=releases.TINY["backbone"]["width"])
    (path / "cosyvoice3.yaml").write_text(text.replace("Qwen2LM", "CosyVoice3LM"))
    model = build_model(system_on(path, filled=False))
    torch.save(to_cosyvoice2(model.state_dict(), model.backbone.config), path / "llm.pt")
    return path


def test_its_language_model_is_read_to_the_last_bit(folder):
    model = build_model(system_on(folder))
    theirs = torch.load(folder / "llm.pt", weights_only=True)
    assert torch.equal(model.head.table.weight, theirs["speech_embedding.weight"])
    assert torch.equal(model.head.output.weight, theirs["llm_decoder.weight"])
    assert len(theirs["llm_decoder.weight"]) == 6761 and list(model.tables) == ["text"]


def test_sounds_are_marks_that_no_normaliser_touches(folder):
    third = CosyVoice2Tokenizer(CosyVoice2Tokenizer.Config(release=str(folder)))
    assert third.space.opening == tuple(third.encode("You are a helpful assistant."))
    ids = third.space.specials
    assert [ids[mark] for mark in marks.THIRD] == list(
        range(min(ids.values()), max(ids.values()) + 1)
    )
    ((piece, encoded),) = third.pieces(HOTFIX)
    assert "[j][ǐ]" in piece and "[IH1][Z]" in piece
    sounds = [ids[f"[{sound}]"] for sound in ("j", "ǐ", "IH1", "Z")]
    assert [row for row in encoded if row in sounds] == sounds
    # the control: CosyVoice2 has no such ids
    second = CosyVoice2Tokenizer(CosyVoice2Tokenizer.Config(release=str(folder), version="2"))
    assert "[j]" not in second.space.specials and not second.space.opening


def test_speaking_is_refused_with_what_is_missing(folder):
    with pytest.raises(
        CheckpointError, match="CosyVoice3, whose (flow|speech tokenizer)"
    ) as caught:
        build(system_on(folder))
    assert "Train or distil" in caught.value.do
