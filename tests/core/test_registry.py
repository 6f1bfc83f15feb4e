"""Names, and what happens to those that are wrong."""

import pytest

from wishbone.core.contract.errors import (
    MissingExtra,
    PluginBroken,
    PluginConflict,
    PluginError,
    UnknownName,
)
from wishbone.core.registry.registry import HOME, Registry


def outside(name="wishbone-acme"):
    return Registry(name, "0.2")


def test_a_class_is_imported_only_when_asked_for():
    registry = Registry()
    registry.add("backbone", "late", "no.such.module:Thing")
    assert registry.names("backbone") == ["late"]
    registry.add("head", "real", "collections:OrderedDict")
    assert registry.get("head", "real").__name__ == "OrderedDict"


@pytest.mark.parametrize(
    ("kind", "key", "target", "message"),
    [
        ("backbone", "gla", "a.b:C", "reserved"),
        ("backbones", "acme/gla", "a.b:C", "not a kind"),
        ("backbone", "Acme/GLA", "a.b:C", "not a key"),
        ("backbone", "acme/a/b", "a.b:C", "not a key"),
        ("backbone", "acme/gla", "a.b.C", "not a target"),
        ("backbone", "acme/gla", "a.b:C()", "not a target"),
    ],
)
def test_outsiders_are_told_what_is_wrong_with_a_name(kind, key, target, message):
    with pytest.raises(PluginError, match=message) as caught:
        outside().add(kind, key, target)
    assert "wishbone-acme 0.2" in caught.value.where


def test_the_same_registration_twice_is_once():
    registry = outside()
    registry.add("backbone", "acme/gla", "a.b:C")
    registry.add("backbone", "acme/gla", "a.b:C")
    assert registry.names("backbone") == ["acme/gla"]
    with pytest.raises(PluginError, match="registered twice"):
        registry.add("backbone", "acme/gla", "a.b:D")


def test_two_claims_and_neither_has_it():
    everything = Registry()
    for name in ("one", "two", "three"):
        part = outside(f"wishbone-{name}")
        part.add("backbone", "acme/gla", f"{name}:C")
        part.add("backbone", f"{name}/own", f"{name}:D")
        everything.absorb(part)
    assert everything.names("backbone") == ["one/own", "three/own", "two/own"]
    with pytest.raises(PluginConflict) as caught:
        everything.get("backbone", "acme/gla")
    for name in ("wishbone-one 0.2", "wishbone-two 0.2", "wishbone-three 0.2"):
        assert name in caught.value.what


def test_unknown_names_are_answered_with_the_nearest():
    registry = Registry()
    registry.add("backbone", "rwkv7", "a:B")
    with pytest.raises(UnknownName) as caught:
        registry.get("backbone", "rwvk7")
    assert "Did you mean 'rwkv7'?" in caught.value.do
    with pytest.raises(UnknownName, match="no kind"):
        registry.get("bakcbone", "rwkv7")


def test_a_part_that_does_not_import_names_who_brought_it(tmp_path, monkeypatch):
    (tmp_path / "acme_wrong.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = outside()
    registry.add("backbone", "acme/wrong", "acme_wrong:Thing")
    with pytest.raises(PluginBroken, match="RuntimeError: no luck") as caught:
        registry.get("backbone", "acme/wrong")
    assert "wishbone-acme 0.2" in caught.value.where
    registry.add("backbone", "acme/gone", "collections:NotThere")
    with pytest.raises(PluginBroken, match="NotThere"):
        registry.get("backbone", "acme/gone")


def test_a_built_in_without_its_optional_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "home_part.py").write_text("import package_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry(HOME, "1")
    registry.add("teacher", "t", "home_part:Thing")
    with pytest.raises(MissingExtra) as caught:
        registry.get("teacher", "t")
    assert "package_nobody_has" in caught.value.what and "pip install" in caught.value.do
