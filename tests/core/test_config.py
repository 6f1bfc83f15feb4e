"""From YAML to a system: composition, schema, facts between slots."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from wishbone.core.config import compose
from wishbone.core.config.compose import dump
from wishbone.core.config.schema import structured
from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError, UnknownName
from wishbone.core.contract.text import TextSpace
from wishbone.core.speak.speaker import build
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.system.compatibility import Parts, check_fit
from wishbone.core.system.spec import read, require
from wishbone.core.weights.tensor_files import write_tensors

SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2}
backbone:
  name: transformer
  width: 32
  layers: 2
  heads: 2
  kv_heads: 1
  ffn_width: 48
head: {name: linear}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
"""


@pytest.fixture
def system(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SYSTEM)
    return path


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


# composition


def test_a_diff_on_a_base(system):
    diff = write(system.parent, "diff.yaml", "base: tiny\nbackbone: {layers: 3}\nvoice: lj\n")
    config = read(diff)
    assert (config["backbone"]["layers"], config["backbone"]["width"]) == (3, 32)
    assert config["voice"] == "lj"


def test_another_name_replaces_the_whole_slot(system):
    diff = write(
        system.parent, "diff.yaml", "base: tiny\nbackbone: {name: rwkv7, width: 64, layers: 1}\n"
    )
    config = read(diff)
    # the transformer's fields would be unknown to RWKV7
    assert "heads" not in config["backbone"] and config["backbone"]["head_size"] == 64
    assert read(system, ["backbone.name=rwkv7"])["backbone"]["width"] != 32


def test_overrides_come_last_and_have_types(system):
    config = read(system, ["backbone.layers=4", "sampling.greedy=true", "layout.mix=[4,12]"])
    assert config["backbone"]["layers"] == 4
    assert config["sampling"]["greedy"] is True
    assert config["layout"]["mix"] == [4, 12]


@pytest.mark.parametrize("word", ["backbone.layers", "=3", "back bone=3", "a..b=3"])
def test_what_is_not_an_override(system, word):
    with pytest.raises(ConfigError, match="not an override"):
        read(system, [word])


def test_bases_that_go_in_circles(tmp_path):
    write(tmp_path, "a.yaml", "base: b\n")
    path = write(tmp_path, "b.yaml", "base: a\n")
    with pytest.raises(ConfigError, match="based on each other"):
        read(path)


def test_a_file_may_share_the_name_of_its_base(tmp_path, monkeypatch):
    (tmp_path / "home/system").mkdir(parents=True)
    write(tmp_path / "home/system", "tiny.yaml", SYSTEM)
    monkeypatch.setattr(compose, "bundled", lambda: tmp_path / "home")
    file = write(tmp_path, "tiny.yaml", "base: tiny\nbackbone: {layers: 3}\n")
    assert read(file)["backbone"]["layers"] == 3


def test_a_name_nobody_has(tmp_path, monkeypatch):
    (tmp_path / "system").mkdir()
    write(tmp_path / "system", "quickstart.yaml", SYSTEM)
    monkeypatch.setattr(compose, "bundled", lambda: tmp_path)
    assert read("quickstart")["backbone"]["layers"] == 2
    with pytest.raises(UnknownName) as caught:
        read("quikstart")
    assert "Did you mean 'quickstart'?" in caught.value.do


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${oc.env:HOME,x} b", "${other:1}"])
def test_a_configuration_cannot_reach_outside(system, text):
    path = write(system.parent, "out.yaml", f"base: tiny\nvoice: '{text}'\n")
    with pytest.raises(ConfigError, match="resolver") as caught:
        read(path)
    assert caught.value.where == f"{path}:2"
    with pytest.raises(ConfigError, match="resolver"):
        read(system, [f"voice={text}"])


def test_references_inside_are_allowed(system):
    path = write(
        system.parent, "in.yaml", "base: tiny\nspeech_tokenizer: {width: '${backbone.width}'}\n"
    )
    assert read(path)["speech_tokenizer"]["width"] == 32


@pytest.mark.parametrize(
    "text",
    ["a: [1", "- 1\n- 2", "word", "[one, two]", "7", "a: 1\na: 2", "a: !!python/name:os.system"],
)
def test_what_is_not_a_configuration(tmp_path, text):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in caught.value.where


# schema


def failing(system, text):
    path = write(system.parent, "wrong.yaml", f"base: tiny\n\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    return path, caught.value


def test_an_unknown_field_names_the_nearest_and_its_line(system):
    path, error = failing(system, "backbone:\n  widht: 3")
    assert "backbone.widht" in error.what and "Did you mean: 'width'?" in error.what
    assert error.where == f"{path}:4"


def test_a_wrong_type_names_the_full_key(system):
    path, error = failing(system, "layout:\n  mix: [5, many]")
    assert "layout.mix[1]" in error.what and "'many'" in error.what
    assert error.where.startswith(str(path))


def test_an_unknown_part(system):
    _, error = failing(system, "backbone: {name: transfromer}")
    assert "Did you mean 'transformer'?" in error.do


def test_an_unknown_key_of_the_system(system):
    path, error = failing(system, "backbon: {name: transformer}")
    assert "Did you mean 'backbone'?" in error.do and error.where == f"{path}:3"


def test_a_slot_without_a_name(system):
    _, error = failing(system, "head: null")
    assert "'head' does not say which head" in error.what


def test_sampling_has_a_schema_too(system):
    _, error = failing(system, "sampling: {temprature: 1}")
    assert "Did you mean: 'temperature'?" in error.what


def test_a_missing_value_names_the_key():
    @dataclass
    class Needs:
        width: int
        """No default."""
        sizes: list[int] = field(default_factory=list)
        """A list."""

    with pytest.raises(ConfigError, match=r"slot\.width"):
        structured(Needs, {}, "slot", compose.Config({}))
    assert structured(Needs, {"width": 3}, "slot", compose.Config({})).width == 3


def test_resolved_is_complete_and_reads_back_the_same(system, tmp_path):
    config = read(system, ["backbone.layers=3", "about=a test"])
    assert config["backbone"]["rope_theta"] == 10000.0
    saved = write(tmp_path, "saved.yaml", dump(config))
    assert read(saved) == config
    assert dump(read(saved)) == dump(config)


# weights


def test_weights_are_found_beside_the_file_from_anywhere(system, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    path = write(tmp_path, "w.yaml", "base: tiny\nweights: mine\ndecoder: {weights: nowhere}\n")
    config = read(path)
    saved = write(tmp_path, "saved.yaml", dump(config))
    monkeypatch.chdir("/")
    assert compose.weights_folder(read(saved)["weights"]) == tmp_path / "mine"
    assert config["decoder"]["weights"] == "nowhere"
    with pytest.raises(CheckpointError, match="no file of weights"):
        build(config)


def test_bundled_weights_stay_relative(system, tmp_path, monkeypatch):
    (tmp_path / "home/pretrained/voice").mkdir(parents=True)
    monkeypatch.setattr(compose, "bundled", lambda: tmp_path / "home")
    config = read(write(system.parent, "w.yaml", "base: tiny\nweights: pretrained/voice\n"))
    assert config["weights"] == "pretrained/voice"
    assert compose.weights_folder(config["weights"]) == tmp_path / "home/pretrained/voice"


def test_every_part_gets_its_weights(system, tmp_path):
    first = build(read(system))
    (tmp_path / "lm").mkdir()
    (tmp_path / "codec").mkdir()
    write_tensors(tmp_path / "lm/model.safetensors", first.model)
    both = {f"decoder.{k}": v for k, v in first.decoder.state_dict().items()}
    both |= {f"tokenizer.{k}": v for k, v in first.speech_tokenizer.state_dict().items()}
    both["classifier.weight"] = torch.zeros(2)
    write_tensors(tmp_path / "codec/model.safetensors", both)
    words = ["weights=lm", "decoder.weights=codec", "speech_tokenizer.weights=codec"]
    second = build(
        read(write(tmp_path, "w.yaml", SYSTEM), [w.replace("=", f"={tmp_path}/") for w in words])
    )
    for part in ("model", "decoder", "speech_tokenizer"):
        for name, tensor in getattr(first, part).state_dict().items():
            assert torch.equal(tensor, getattr(second, part).state_dict()[name]), (part, name)


# building


def test_build_on_meta_allocates_nothing(system):
    built = build(read(system), "meta")
    assert {p.device.type for p in built.model.parameters()} == {"meta"}


def test_build_model_trains_and_needs_no_codec_weights(system):
    config = read(system, ["decoder.weights=nowhere"])
    model = build_model(config)
    assert all(p.requires_grad for p in model.parameters())
    _, layout, codes = build_layout(config)
    assert layout.tables["speech"] == codes.size + layout.extra


def test_values_a_part_refuses_name_the_slot(system):
    with pytest.raises(ConfigError, match="heads"):
        build(read(system, ["backbone.heads=5"]), "meta")


# facts between slots


class Fits:
    """Six parts that agree, to be broken one at a time."""

    def parts(self):
        codes = CodeSpace(size=9, rate=25.0, levels=(3, 3))
        head = nn.Module()
        head.weight = nn.Parameter(torch.zeros(1))
        head.embed = lambda ids: torch.zeros(*ids.shape[:-1], 8)
        head.forward = lambda hidden: torch.zeros(*hidden.shape[:-1], 1, 11)

        def some(**fields):
            return type("Part", (), fields)()

        return Parts(
            tokenizer=some(space=TextSpace(vocabulary=7)),
            speech_tokenizer=some(codes=codes),
            layout=some(tables={"speech": 11, "text": 7}, extra=2),
            backbone=some(width=8, caps=Caps()),
            head=head,
            decoder=some(codes=codes, sample_rate=24_000, samples_per_frame=None),
        )


def test_parts_that_fit():
    check_fit(Fits().parts())


def misfits():
    def codes(**change):
        def apply(parts):
            for part in (parts.decoder, parts.speech_tokenizer):
                part.codes = replace(part.codes, **change)

        return apply

    def one(slot, **fields):
        def apply(parts):
            for name, value in fields.items():
                setattr(getattr(parts, slot), name, value)

        return apply

    def speech(**change):
        def apply(parts):
            parts.speech_tokenizer.codes = replace(parts.speech_tokenizer.codes, **change)

        return apply

    narrow = one("head", embed=lambda ids: torch.zeros(*ids.shape[:-1], 9))
    short = one("head", forward=lambda hidden: torch.zeros(*hidden.shape[:-1], 1, 9))
    many = one("head", forward=lambda hidden: torch.zeros(*hidden.shape[:-1], 2, 11))
    return {
        "the tokenizer 8 ids": one("tokenizer", space=TextSpace(vocabulary=8)),
        "speech table has 12 rows": one("layout", tables={"speech": 12, "text": 7}),
        "first table is not 'speech'": one("layout", tables={"text": 7, "speech": 11}),
        "make 12 codes": codes(levels=(3, 4)),
        "have size 10": speech(size=10, levels=()),
        "have rate 50.0": speech(rate=50.0),
        "not a whole number": codes(rate=21.0),
        "of 480 samples each": one("decoder", samples_per_frame=480),
        "embeds codes to width 9": narrow,
        "predicts 9 ids": short,
        "predicts 2 codebooks": many,
    }


@pytest.mark.parametrize("sentence", misfits())
def test_every_fact_has_its_own_sentence(sentence):
    parts = Fits().parts()
    misfits()[sentence](parts)
    with pytest.raises(ConfigError, match=sentence):
        check_fit(parts)


def test_all_misfits_are_said_at_once():
    parts = Fits().parts()
    misfits()["the tokenizer 8 ids"](parts)
    misfits()["embeds codes to width 9"](parts)
    with pytest.raises(ConfigError, match="8 ids.*embeds codes to width 9"):
        check_fit(parts)


def test_capabilities_are_asked_before_anything_is_built(system):
    config = read(system)
    require(config, "say --stream", "streaming")
    with pytest.raises(CapabilityError, match="constant_state.*transformer"):
        require(config, "an endless text", "constant_state")


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("base: -1\n", "'base: -1' is no configuration", 1),
        ("base: {a: 1}\n", "is no configuration", 1),
        ("about: x\non: true\n", "'on' is no key: YAML reads it as bool", 2),
        ("about: x\n3: true\n", "'3' is no key: YAML reads it as int", 2),
        ("backbone: !!int 'abc'\n", "A value cannot be read", 0),
        ("about: " + "[" * 3000 + "]" * 3000, "cannot be read", 0),
    ],
)
def test_odd_keys_and_values_of_a_file_are_three_lines(tmp_path, text, said, line):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        read(path)
    assert refused.value.where == (f"{path}:{line}" if line else str(path))


@pytest.mark.parametrize("name", ["v" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(UnknownName, match="cannot be the name"):
        read(name)
