"""Every number of a schema has a range, and what is outside it ends in three lines."""

from dataclasses import dataclass, field, fields
from typing import Annotated

import pytest

from wishbone.core.cli.arguments import option, parse
from wishbone.core.cli.plugins import fields_of
from wishbone.core.config.compose import Config
from wishbone.core.config.schema import limits_of, structured
from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.contract.part import OneOf, Range, Share, Size
from wishbone.core.model.device import find_device
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import KINDS
from wishbone.core.train.recipe import Recipe

RECIPES = [
    ("learning_rate", float("nan")), ("learning_rate", -1), ("learning_rate", float("inf")),
    ("clip", -1), ("beta1", 2), ("beta2", 1), ("warmup_steps", -5), ("decay_share", 5),
    ("final_rate", -0.1), ("seed", -1), ("keep", 10**9), ("keep", 0), ("steps", 0), ("ema", 1),
    ("batch_positions", 0), ("accumulate", 0), ("segment_positions", -1), ("weight_decay", -1),
    ("epsilon", -1), ("muon_rate", 0), ("log_every", 0), ("evaluate_every", -1),
    ("checkpoint_minutes", -1), ("max_minutes", float("inf")), ("held_out_limit", -1),
    ("schedule", "linear"), ("optimizer", "sgd"), ("precision", "fp16"), ("shard", "half"),
]  # fmt: skip


@pytest.mark.parametrize("field, value", RECIPES)
def test_a_recipe_with_a_value_outside_its_range_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"recipe.{field}: ") as caught:
        structured(Recipe, {field: value}, "recipe", Config({}))
    assert caught.value.do.startswith("Allowed: ")


def test_a_probability_of_a_section_inside_is_checked():
    with pytest.raises(ConfigError, match=r"recipe.drop.text: 1.5"):
        structured(Recipe, {"drop": {"text": 1.5}}, "recipe", Config({}))


def test_the_defaults_of_every_schema_are_inside_its_ranges():
    structured(Recipe, {}, "recipe", Config({}))
    for kind in KINDS:
        for entry in registry().of(kind):
            schema = getattr(registry().get(kind, entry.key), "Config", None)
            required = schema and any(f"{f.default}" == "???" for f in fields(schema))
            if schema and not required:
                structured(schema, {}, kind, Config({}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_a_part_declares_its_range(kind):
    missing = []
    for entry in registry().of(kind):
        schema = getattr(registry().get(kind, entry.key), "Config", None)
        if schema is not None:
            limits = limits_of(schema)
            numbers = [f.name for f in fields(schema) if str(f.type) in ("int", "float")]
            missing += [f"{entry.key}.{name}" for name in numbers if name not in limits]
    assert not missing


@dataclass
class Toy:
    width: Size = 4
    """How wide."""
    share: Share | None = None
    """Of all."""
    form: Annotated[str, OneOf("plain", "fast")] = "plain"
    """The form."""
    mix: Annotated[list[int], Range(1)] = field(default_factory=list)
    """Sizes."""


@pytest.mark.parametrize("name", ["cuda:7", "graphics", "cuda:-1", ""])
def test_a_device_that_is_not_here_ends_in_three_lines(name):
    with pytest.raises(UsageError, match="device") as caught:
        find_device(name)
    assert "Devices here: cpu" in caught.value.do
    assert find_device("meta").type == "meta"


def test_lists_and_absent_values():
    assert structured(Toy, {}, "toy", Config({})).share is None
    assert structured(Toy, {"mix": [1, 2]}, "toy", Config({})).mix == [1, 2]
    with pytest.raises(ConfigError, match="toy.mix: 0 is outside"):
        structured(Toy, {"mix": [1, 0]}, "toy", Config({}))
    with pytest.raises(ConfigError, match="Did you mean 'fast'"):
        structured(Toy, {"form": "fost"}, "toy", Config({}))


def test_the_range_stands_in_what_plugins_info_prints():
    rows = {name: (kind, default) for name, kind, default, _ in fields_of(Toy)}
    assert rows["width"] == ("int", " = 4, at least 1 and at most 1048576")


@dataclass(frozen=True, kw_only=True)
class Words:
    """Say something."""

    start: Annotated[int, Range(0)] = option(0, help="first line")
    rate: Annotated[float, Range(above=0)] | None = option(None, help="rate")


@pytest.mark.parametrize("words", [["--start", "-5"], ["--rate", "nan"], ["--rate=-1"]])
def test_an_option_outside_its_range_is_a_usage_error(words):
    with pytest.raises(UsageError, match="is outside its range"):
        parse(Words, words, "say")
    assert parse(Words, ["--start", "3"], "say").start == 3
