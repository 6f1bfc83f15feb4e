"""Metrics whose weights lie in a folder, with random weights in the published shapes; and VERSA.

No network of these is bundled: that they give the published numbers is not tested here, but that
the published tensors fit, and that they are used as the published code uses them.
"""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, DataError, WishboneError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan, Prompt, read_plan
from wishbone.core.evaluate.judging import judge_missing
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.statistics.metrics import choose, signature
from wishbone.plugins.metrics import utmos
from wishbone.plugins.metrics.aesthetics import Complexity, Enjoyment, Production, Usefulness
from wishbone.plugins.metrics.utmos import UTMOS
from wishbone.plugins.metrics.versa import Versa, VersaOptions
from wishbone.plugins.metrics.wavlm_similarity import WavLMSimilarity
from wishbone.plugins.metrics.weights_folder import WeightsOptions

HF = "install the extra: pip install wishbone-tts[hf]"
RATE = 16_000


def clip(seed, seconds=1.0):
    """A buzz of its own pitch, with some noise."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * (100 + 20 * seed) * k * time) / k for k in range(1, 12))
    audio = 0.1 * voice + 0.01 * random.normal(size=len(time))
    return Clip(f"{seed:03d}", "two words", audio.astype(np.float32), RATE)


METRICS = (WavLMSimilarity, UTMOS, Enjoyment, Usefulness, Complexity, Production)


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.info.key)
def test_a_missing_folder_is_an_error_of_three_lines(cls, tmp_path):
    with pytest.raises(ConfigError, match="none is named") as caught:
        cls(WeightsOptions()).prepare()
    assert f"name: {cls.info.key}, weights: FOLDER" in caught.value.do
    with pytest.raises(ConfigError, match="not there: .*model.safetensors"):
        cls(WeightsOptions(str(tmp_path))).prepare()


def test_it_is_an_error_before_any_work(tmp_path):
    path = tmp_path / "try.yaml"
    path.write_text("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nmetrics: [utmos]\n")
    with pytest.raises(ConfigError, match="utmos"):
        read_plan(path)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason=HF)
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(0)
    # the base size, as it is published, but for its depth
    model = transformers.WavLMForXVector(transformers.WavLMConfig(num_hidden_layers=2))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder, model.eval()


def test_wavlm_gives_the_vectors_of_its_own_library(wavlm):
    folder, model = wavlm
    metric = WavLMSimilarity(WeightsOptions(str(folder)))
    metric.prepare()
    one = clip(1)
    vector = metric.embed(one)
    # its extractor brings the audio to mean 0 and variance 1
    audio = torch.from_numpy((one.audio - one.audio.mean()) / one.audio.std())[None]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model(audio).embeddings, dim=-1)[0].numpy()
    np.testing.assert_allclose(vector, expected, atol=2e-4)
    assert len(vector) == 512 and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    metric.set_reference([clip(2), clip(3)])
    assert -1 <= metric.score(one)["wavlm_similarity"] <= 1
    assert np.isfinite(metric.embed(clip(4, 0.02))).all()
    assert "xvector:none" not in signature(metric)


def published(network):
    """The tensors of a network under the names of the published checkpoint."""
    back = [
        ("listener.feature_projection.layer_norm.", "listener.layer_norm."),
        ("listener.feature_projection.projection.", "listener.post_extract_proj."),
        (".conv_layers.0.layer_norm.", ".conv_layers.0.2."),
        (".conv.weight", ".0.weight") , (".conv.bias", ".0.bias"),
        ("pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.0.weight_g"),
        ("pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.0.weight_v"),
        ("pos_conv_embed.0.bias", "pos_conv.0.bias"),
        (".attention.", ".self_attn."), ("feed_forward.intermediate_dense.", "fc1."),
        ("feed_forward.output_dense.", "fc2."),
        ("listener.masked_spec_embed", "listener.mask_emb"),
    ]  # fmt: skip
    owners = {
        "listener": "feature_extractors.0.ssl_model", "domains": "feature_extractors.1.embedding",
        "judges": "output_layers.0.judge_embedding", "memory": "output_layers.0.decoder_rnn",
        "projection": "output_layers.1.net",
    }  # fmt: skip
    tensors = {}
    for name, tensor in network.state_dict().items():
        inner = name
        if ".encoder.layers." in name and ".layer_norm." in name and "final" not in name:
            inner = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        for here, there in back:
            inner = inner.replace(here, there)
        owner, _, rest = inner.partition(".")
        tensors[f"{owners[owner]}.{rest}"] = tensor.clone()
    return tensors


@pytest.fixture(scope="module")
def strong(tmp_path_factory):
    pytest.importorskip("transformers", reason=HF)
    folder = tmp_path_factory.mktemp("utmos")
    torch.manual_seed(0)
    network = utmos.Network().eval()
    save_file(published(network), folder / "model.safetensors")
    return folder, network


def test_utmos_reads_the_published_names_and_computes_as_published(strong):
    folder, network = strong
    metric = UTMOS(WeightsOptions(str(folder)))
    audio = torch.from_numpy(clip(1).audio)[None]
    with torch.inference_mode():
        frames = network.listener(audio).last_hidden_state[0]
        rows = []
        for frame in frames:
            rows.append(torch.cat([frame, network.domains.weight[0], network.judges.weight[288]]))
        score = network.projection(network.memory(torch.stack(rows)[None])[0]).mean() * 2 + 3
    assert metric.score(clip(1))["utmos"] == pytest.approx(float(score), abs=1e-4)
    assert metric.score(clip(2))["utmos"] != metric.score(clip(1))["utmos"]
    assert np.isfinite(metric.score(clip(3, 0.01))["utmos"])
    # the names are the published ones: ten of them, as the checkpoint has them
    names = set(published(network))
    assert {
        "feature_extractors.0.ssl_model.feature_extractor.conv_layers.0.0.weight",
        "feature_extractors.0.ssl_model.feature_extractor.conv_layers.0.2.weight",
        "feature_extractors.0.ssl_model.post_extract_proj.weight",
        "feature_extractors.0.ssl_model.layer_norm.weight",
        "feature_extractors.0.ssl_model.encoder.pos_conv.0.weight_g",
        "feature_extractors.0.ssl_model.encoder.layers.11.self_attn.k_proj.weight",
        "feature_extractors.0.ssl_model.encoder.layers.11.fc1.weight",
        "feature_extractors.1.embedding.weight", "output_layers.0.decoder_rnn.weight_hh_l0_reverse",
        "output_layers.1.net.3.weight",
    } <= names  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in published(network).items()}
    assert shapes["output_layers.0.judge_embedding.weight"] == (3000, 128)
    assert shapes["output_layers.0.decoder_rnn.weight_ih_l0"] == (2048, 1024)


def test_other_weights_are_refused(strong, tmp_path):
    _, network = strong
    tensors = published(network)
    del tensors["output_layers.1.net.3.weight"]
    with pytest.raises(DataError, match="no weights of UTMOS's strong learner: projection.3"):
        utmos.read(tensors, "here")
    tensors = {**published(network), "output_layers.1.net.3.weight": torch.zeros(1, 7)}
    with pytest.raises(DataError, match="another shape"):
        utmos.read(tensors, "here")


@pytest.fixture(scope="module")
def audiobox(tmp_path_factory):
    aes = pytest.importorskip(
        "audiobox_aesthetics.model.aes", reason="pip install wishbone-tts[aesthetics]"
    )
    torch.manual_seed(0)
    scales = {
        axis: {"mean": 5.0 + n, "std": 1.0} for n, axis in enumerate(("CE", "CU", "PC", "PQ"))
    }
    model = aes.AesMultiOutput(proj_num_layer=1, target_transform=scales).eval()
    folder = tmp_path_factory.mktemp("aesthetics")
    model.save_pretrained(folder)
    return folder, model


def test_the_four_axes_are_those_of_the_package(audiobox):
    from audiobox_aesthetics.infer import AXES_NAME, AesPredictor, Normalize

    folder, model = audiobox
    predictor = object.__new__(AesPredictor)
    predictor.data_col, predictor.sample_rate = "path", RATE
    predictor.device, predictor.model = torch.device("cpu"), model
    predictor.target_transform = {
        axis: Normalize(**model.target_transform[axis]) for axis in AXES_NAME
    }
    # longer than a window, whose rest weighs less
    given = clip(1, 12.0)
    (expected,) = predictor.forward(
        [{"path": torch.from_numpy(given.audio)[None], "sample_rate": RATE}]
    )
    for cls in (Enjoyment, Usefulness, Complexity, Production):
        metric = cls(WeightsOptions(str(folder)))
        metric.prepare()
        assert metric.score(given)[cls.info.key] == pytest.approx(expected[cls.axis], abs=1e-4)
    assert len({round(value, 3) for value in expected.values()}) == 4


FAKE = """
import argparse, json, sys, wave
options = argparse.ArgumentParser()
for name in ("score_config", "pred", "text", "output_file", "io"):
    options.add_argument(f"--{name}", required=True)
given = options.parse_args()
assert given.io == "soundfile"
text = dict(line.rstrip("\\n").split(" ", 1) for line in open(given.text))
with open(given.output_file, "w") as out, open(COUNT, "a") as count:
    count.write("x")
    for line in open(given.pred):
        key, path = line.split()
        with wave.open(path) as sound:
            row = {"key": key, "utmos": sound.getnframes() / 16000, "words": len(text[key].split())}
        out.write(json.dumps(row) + "\\n")
"""


@pytest.fixture
def versa(tmp_path):
    """Options of a command that writes VERSA's lines, and the file that counts its runs."""
    count = tmp_path / "count"
    script = tmp_path / "fake.py"
    script.write_text(FAKE.replace("COUNT", repr(str(count))))
    (tmp_path / "score.yaml").write_text("- name: utmos\n")
    command = f"{sys.executable} {script}"
    return VersaOptions(str(tmp_path / "score.yaml"), "utmos", command), count


def test_versa_is_run_once_for_many_recordings(versa):
    options, count = versa
    metric = Versa(options)
    clips = [clip(1), clip(1, 2.0), clip(3, 0.5)]
    metric.prepare()
    metric.listen(clips)
    assert [metric.score(one)["versa"] for one in clips] == [1.0, 2.0, 0.5]
    assert count.read_text() == "x"
    assert metric.score(clip(4, 1.5))["versa"] == 1.5 and count.read_text() == "xx"
    words = Versa(VersaOptions(options.score_config, "words", options.command))
    assert words.score(clip(1))["versa"] == 2
    assert metric.signature().startswith("versa|utmos|- name: utmos")


def test_what_versa_does_not_do_is_told(versa, tmp_path):
    options, _ = versa
    with pytest.raises(ConfigError, match="what VERSA is to measure"):
        Versa(VersaOptions()).prepare()
    with pytest.raises(WishboneError, match="gave no 'pesq'"):
        Versa(VersaOptions(options.score_config, "pesq", options.command)).score(clip(1))
    with pytest.raises(WishboneError, match="cannot be run"):
        Versa(VersaOptions(options.score_config, "utmos", "no-such-versa")).score(clip(1))
    (tmp_path / "fake.py").write_text("import sys; sys.exit('no module named espnet')")
    with pytest.raises(WishboneError, match="exit code 1.*no module named espnet"):
        Versa(options).score(clip(1))


def test_a_comparison_gives_versa_all_its_recordings_at_once(versa, tmp_path):
    options, count = versa
    plan = Plan(
        name="test", about="", seeds=1, seed=1, vary=[], voice=None, reference=None, quick=False,
        metrics={k: m for k, m in choose(added=["versa"]).items() if k == "versa"},
        arms=[Arm(key, key, Config({})) for key in ("old", "new")],
        prompts=[Prompt(f"{i:03d}", f"sentence {i}") for i in range(3)],
        options={"versa": options},
    )  # fmt: skip
    items = Items(tmp_path / "items.jsonl")
    for arm, length in (("old", 1.0), ("new", 2.0)):
        for prompt in plan.prompts:
            name = f"audio/{arm}/{prompt.key}-0.flac"
            failed = (arm, prompt.key) == ("new", "001")
            generate.write(tmp_path / name, clip(1, length).audio, RATE)
            row = {"text": prompt.text, "audio": name, "failure": "empty" if failed else ""}
            items.add(arm, prompt.key, 0, {**row, "judged": {}, "heard": None})
    judge_missing(plan, items, tmp_path, Panel(2, list(plan.metrics), plan.options))
    assert count.read_text() == "x"
    assert items.get("old", "002", 0).row["versa"] == 1.0
    assert items.get("new", "002", 0).row["versa"] == 2.0
    assert "versa" not in items.get("new", "001", 0).row
    assert json.loads(items.path.read_text().splitlines()[-1])["judged"]
