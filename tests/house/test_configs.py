"""Every YAML file that ships can be built: on the meta device, so in milliseconds and no memory."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from wishbone.core.config.compose import compose, dump, weights_folder
from wishbone.core.contract.errors import MissingExtra
from wishbone.core.evaluate.experiment import config_diff
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.speak.speaker import build
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import TEXT, read, task_of
from wishbone.core.train.recipe import read_recipe

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def in_folder(kind):
    return [path for path in FILES if path.relative_to(CONFIGS).parts[0] == kind]


@contextmanager
def optional_packages():
    try:
        yield
    except MissingExtra as missing:
        pytest.skip(f"{missing.what} {missing.do}")


def name_of(path):
    return path.relative_to(CONFIGS).as_posix()


def test_there_is_something_to_build():
    assert in_folder("system") and in_folder("train") and in_folder("ab")


@pytest.mark.parametrize("path", in_folder("system"), ids=name_of)
def test_a_system_builds(path):
    if "backbone" not in compose(path):
        # what several systems share; each of them is built
        assert any(path.stem in other.read_text() for other in in_folder("system") if other != path)
        return
    config = read(path)
    (build_model if task_of(config) is TEXT else build)(config, "meta")
    for slot in (config, *config.values()):
        if isinstance(slot, dict) and slot.get("weights"):
            assert (weights_folder(slot["weights"]) / "provenance.json").is_file(), slot["weights"]


@pytest.mark.parametrize("path", in_folder("train"), ids=name_of)
def test_a_recipe_builds(path):
    if "system" not in compose(path, kind="train"):
        pytest.skip("trains no language model; its own plug-in reads it")
    _, system = read_recipe(path)
    with optional_packages():
        build_model(system, "meta")


@pytest.mark.parametrize("path", in_folder("ab"), ids=name_of)
def test_every_arm_builds(path):
    arms = read_plan(path).arms
    assert len(arms) >= 2
    for arm in arms:
        if arm.is_outside:
            continue
        with optional_packages():
            build(arm.config, "meta")


def test_the_bundled_arms_differ_in_their_backbone_alone():
    """By how their weights were trained, too: the README's first command begins with this check."""
    plan = read_plan(CONFIGS / "ab" / "quickstart.yaml")
    assert config_diff.refuse_confounds(config_diff.differences(plan), allow=False) == []


@pytest.mark.parametrize("path", in_folder("pretrained"), ids=name_of)
def test_weights_ship_with_a_configuration_that_reads_back(path):
    values = OmegaConf.to_container(OmegaConf.load(path))
    if "backbone" in values:
        config = read(path)
        assert dump(read(path)) == dump(config)
        build_model(config, "meta")
    assert (path.parent / "model.safetensors").is_file()
    said = (path.parent / "provenance.json").read_text()
    # the weights are everybody's, the folders they were made in are not
    assert not re.search(r'["=](/|[A-Z]:\\\\)', said)


def test_every_file_is_in_a_folder_that_a_test_reads():
    read_here = {"system", "train", "ab", "pretrained"}
    others = [p for p in FILES if p.relative_to(CONFIGS).parts[0] not in read_here]
    for path in others:
        assert isinstance(OmegaConf.to_container(OmegaConf.load(path)), dict), path
