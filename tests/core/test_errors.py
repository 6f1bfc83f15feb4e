"""Errors of three sentences."""

import pickle

import pytest

from wishbone.core.contract import errors


def test_three_lines_whatever_is_given():
    lines = errors.ConfigError("a\nb", "file.yaml:3", "change it").lines()
    assert lines == ["error: a b", "where: file.yaml:3", "do: change it"]
    assert len(errors.WishboneError("only what").lines()) == 3
    assert all(len(line.split(": ", 1)[1]) > 3 for line in errors.WishboneError("what").lines())


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.WishboneError, 5),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.UnknownName, 2),
        (errors.CapabilityError, 2),
        (errors.PluginError, 3),
        (errors.PluginBroken, 3),
        (errors.PluginIncompatible, 3),
        (errors.PluginConflict, 3),
        (errors.MissingExtra, 3),
        (errors.GateFailed, 4),
        (errors.CheckpointError, 5),
        (errors.DataError, 5),
    ],
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code


def test_survives_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(errors.DataError("what", "where", "do")))
    assert (type(error), error.lines()) == (
        errors.DataError,
        ["error: what", "where: where", "do: do"],
    )


def test_did_you_mean():
    assert errors.did_you_mean("rwvk7", ["rwkv7", "linear"]) == "Did you mean 'rwkv7'?"
    assert errors.did_you_mean("zzz", ["rwkv7"]) == ""
