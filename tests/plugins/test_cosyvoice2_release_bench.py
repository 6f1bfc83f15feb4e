"""The suite ``cosyvoice2``: both sides answer one request, and ours does what it is timed for."""

import math

import pytest
import torch
from cosyvoice2_release import write, write_system

from wishbone.core.bench.suite import read_plan
from wishbone.core.contract.extensions.contender import Job
from wishbone.plugins.cosyvoice2.bench.clocks import Shares
from wishbone.plugins.cosyvoice2.bench.public_code import Reference, ReferenceConfig
from wishbone.plugins.cosyvoice2.bench.release import Release, ReleaseConfig
from wishbone.plugins.cosyvoice2.bench.speaking import request

pytest.importorskip("tokenizers", reason="pip install 'wishbone-tts[cosyvoice2]'")
CODES, PROMPT = 23, 10


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    release = write(folder / "release")
    system = write_system(folder / "tiny.yaml", release)
    model = dict(read_plan("cosyvoice2").suite.model)
    return Job(model | {"release": str(release), "system": str(system), "codes": CODES,
                        "prompt": PROMPT})  # fmt: skip


@pytest.fixture(scope="module")
def contender(job):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wishbone.plugins.cosyvoice2.bench.speaking.one_core", lambda job: None)
        bench = Release(ReleaseConfig(engine="eager"), job)
        bench.load()
    return bench


def test_the_request_is_the_same_in_every_process(job):
    one, two = request(job.model), request(job.model)
    assert one.text == two.text and torch.equal(one.codes, two.codes)
    assert torch.equal(one.mel, two.mel) and torch.equal(one.speaker, two.speaker)
    assert len(one.mel) == 2 * len(one.codes) == 2 * PROMPT
    assert int(len(one.text) * one.ratio) == CODES


def test_a_text_of_several_pieces_is_refused(job):
    with pytest.raises(ValueError, match="several pieces"):
        request(job.model | {"text": "One long sentence of many words stands here. " * 12})


@pytest.mark.parametrize("case", ["whole", "stream", "new voice"])
def test_every_case_is_timed(contender, case):
    times = contender.run(case, 2)
    assert all(len(row) == 2 and min(row) > 0 for row in times.values())
    parts = zip(times["language_model"], times["flow"], times["vocoder"], strict=True)
    assert [sum(part) for part in parts] == pytest.approx(times["work"])
    assert times["first_audio"][0] <= times["rtf"][0] * CODES / 25


def test_the_whole_is_solved_without_a_mask_and_the_stream_with_it(contender, monkeypatch):
    masks = []
    estimate = contender.system.decoder.flow.estimator.forward

    def counted(x, t, sees=None, memory=None):
        masks.append((x.shape[1], memory is not None))
        return estimate(x, t, sees, memory)

    monkeypatch.setattr(contender.system.decoder.flow.estimator, "forward", counted)
    contender.run("whole", 1)
    steps = contender.system.decoder.config.steps
    assert masks == [(2 * (PROMPT + CODES), False)] * steps
    masks.clear()
    contender.run("stream", 1)
    masks.clear()
    # what the prompt's first chunk left is kept; its second sees three codes of speech ahead
    contender.run("stream", 1)
    assert {memory for _, memory in masks} == {True}
    assert sum(frames for frames, _ in masks) == steps * 2 * (PROMPT // 2 + CODES)
    masks.clear()
    contender.run("new voice", 1)
    assert sum(frames for frames, _ in masks) == steps * 2 * (PROMPT + CODES)


def test_as_many_codes_as_asked_are_drawn(contender, monkeypatch):
    steps, backbone = [], contender.system.model.backbone
    step, forward = backbone.step_, backbone.forward

    def stepped(x, state):
        steps.append(x.shape[1])
        return step(x, state)

    def counted(x, *others, **options):
        steps.append(x.shape[1])
        return forward(x, *others, **options)

    monkeypatch.setattr(backbone, "step_", stepped)
    monkeypatch.setattr(backbone, "forward", counted)
    contender.run("stream", 1)
    assert steps.count(1) >= CODES - 1 and sum(steps) < CODES + PROMPT + 100


@pytest.mark.parametrize("way", ["language model", "flow", "vocoder"])
def test_what_is_compared_are_numbers_of_the_weights(contender, way):
    (numbers,) = contender.check({"ids": [5, 4000, 6560, 0, 17], "way": way}).values()
    (others,) = contender.check({"ids": [5, 4000, 6560, 1, 17], "way": way}).values()
    assert len(numbers) == {"language model": 6561, "flow": 800, "vocoder": 4800}[way]
    assert all(map(math.isfinite, numbers)) and max(map(abs, numbers)) > 1e-4
    assert (numbers == others) == (way == "vocoder")


def test_nothing_spoken_is_no_time():
    with pytest.raises(RuntimeError, match="nothing was spoken"):
        Shares().listen(iter([torch.zeros(0)]))


def test_who_cannot_take_part_says_what_to_do(job, tmp_path, monkeypatch):
    for variable in ("WISHBONE_COSYVOICE", "WISHBONE_COSYVOICE_PACKAGES"):
        monkeypatch.delenv(variable, raising=False)
    assert "model.release=FOLDER" in Release.missing(ReleaseConfig(), Job({"release": None}))
    assert Release.missing(ReleaseConfig(), job) == ""
    assert "WISHBONE_COSYVOICE" in Reference.missing(ReferenceConfig(), job)
    (tmp_path / "third_party/Matcha-TTS/matcha").mkdir(parents=True)
    packages = tmp_path / "packages"
    for name in ("einops", "diffusers", "transformers", "omegaconf", "scipy"):
        (packages / name).mkdir(parents=True)
    config = ReferenceConfig(str(tmp_path), str(packages))
    assert Reference.missing(config, job) == ""
    assert "model.release=FOLDER" in Reference.missing(config, Job({"release": None}))
