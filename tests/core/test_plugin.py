"""The loader: each plug-in alone, and a broken one costs only its own users."""

import subprocess
import sys
from types import ModuleType

import pytest

from wishbone.core.contract.errors import (
    PluginBroken,
    PluginConflict,
    PluginError,
    PluginIncompatible,
)
from wishbone.core.registry import entry_points, loader


def a_plugin(key, *, api="1.0", after=None, **hooks):
    """A module as a third party would write it."""
    module = ModuleType(key.replace("/", "_"))
    if api is not None:
        module.WISHBONE_API = api

    @loader.hookimpl
    def wishbone_register(registry):
        registry.add("backbone", key, "collections:OrderedDict")
        if after:
            raise after

    module.wishbone_register = wishbone_register
    for name, hook in hooks.items():
        setattr(module, name, hook)
    return module


def point(module, name=None, distribution=None):
    name = name or module.__name__
    distribution = distribution or f"wishbone-{name}"
    return entry_points.Point(name, f"{name}.plugin", distribution, "0.2", lambda: module)


def broken(name, error):
    def load():
        raise error

    return entry_points.Point(name, f"{name}.plugin", f"wishbone-{name}", "0.2", load)


def statuses(result):
    return {p.name: p.status for p in result.plugins}


def test_the_built_in_parts_come_by_the_same_door():
    everything = loader.loaded()
    built_in = [p for p in everything.plugins if p.distribution == "wishbone-tts"]
    assert [p.status for p in built_in] == ["ok", "ok", "ok"]
    assert {"rwkv7", "transformer"} <= set(loader.names("backbone"))
    assert "cosyvoice2" in loader.names("layout")


@pytest.mark.parametrize(
    "error", [ImportError("no acme"), RuntimeError("boom"), SystemExit(1), SyntaxError("bad")]
)
def test_a_plugin_that_fails_to_import_costs_only_itself(error):
    result = loader.load([broken("acme", error), point(a_plugin("good/one"))])
    assert statuses(result) == {"acme": "broken", "good_one": "ok"}
    assert result.registry.names("backbone") == ["good/one"]
    with pytest.raises(PluginBroken, match=str(error)) as caught:
        result.registry.get("backbone", "acme/anything")
    assert caught.value.where == "wishbone-acme 0.2"


def test_a_plugin_that_fails_half_way_leaves_nothing_behind():
    bad = a_plugin("acme/half", after=ValueError("half way"))
    result = loader.load([point(bad, "strange"), point(a_plugin("good/one"))])
    assert result.registry.names("backbone") == ["good/one"]
    # the key it managed to register still leads to its error
    with pytest.raises(PluginBroken, match="half way"):
        result.registry.get("backbone", "acme/half")


@pytest.mark.parametrize(
    ("api", "fits"), [("1.0", True), ("1.1", True), ("2.0", False), ("0.9", False), ("1.7", False),
                      (None, False), ("one", False), ("1", False)]
)  # fmt: skip
def test_versions_are_negotiated(api, fits):
    result = loader.load([point(a_plugin("acme/gla", api=api), "acme")])
    assert statuses(result) == {"acme": "ok" if fits else "incompatible"}
    if not fits:
        with pytest.raises(PluginIncompatible) as caught:
            result.registry.get("backbone", "acme/gla")
        assert "1.1" in caught.value.what and "wishbone-acme" in caught.value.do


def test_an_older_minor_is_still_welcome(monkeypatch):
    monkeypatch.setattr(loader, "API", (1, 3))
    assert statuses(loader.load([point(a_plugin("a/b", api="1.2"), "a")])) == {"a": "ok"}


def test_hooks_that_do_not_exist_are_incompatible():
    @loader.hookimpl
    def wishbone_regsiter(registry):
        pass

    @loader.hookimpl
    def wishbone_register(registry, more):
        pass

    misspelt = a_plugin("acme/gla", wishbone_regsiter=wishbone_regsiter)
    greedy = a_plugin("other/gla")
    greedy.wishbone_register = wishbone_register
    result = loader.load([point(misspelt, "acme"), point(greedy, "other")])
    assert statuses(result) == {"acme": "incompatible", "other": "incompatible"}
    assert "wishbone_regsiter" in result.plugins[0].detail


def test_a_hook_of_the_future_may_be_optional():
    @loader.hookimpl(optionalhook=True)
    def wishbone_from_the_future(thing):
        pass

    future = a_plugin("acme/gla", wishbone_from_the_future=wishbone_from_the_future)
    assert statuses(loader.load([point(future, "acme")])) == {"acme": "ok"}


def test_two_that_claim_one_key_both_lose_it():
    points = [
        point(a_plugin("acme/gla"), "one"),
        point(a_plugin("acme/gla"), "two"),
        point(a_plugin("good/one"), "three"),
    ]
    result = loader.load(points)
    assert statuses(result) == {"one": "conflict", "two": "conflict", "three": "ok"}
    assert "wishbone-two" in result.plugins[0].detail
    with pytest.raises(PluginConflict):
        result.registry.get("backbone", "acme/gla")


def test_an_outsider_cannot_take_a_bare_key():
    result = loader.load([*entry_points.built_in_points(), point(a_plugin("rwkv7"), "thief")])
    assert statuses(result)["thief"] == "broken"
    assert result.registry.entry("backbone", "rwkv7").distribution == "wishbone-tts"


def test_plugins_can_be_left_out(monkeypatch):
    points = [point(a_plugin("a/x"), "a"), point(a_plugin("b/x"), "b")]
    monkeypatch.setenv("WISHBONE_DISABLE_PLUGINS", "a")
    result = loader.load(points)
    assert statuses(result) == {"a": "disabled", "b": "ok"}
    with pytest.raises(PluginError, match="WISHBONE_DISABLE_PLUGINS"):
        result.registry.get("backbone", "a/x")
    monkeypatch.setenv("WISHBONE_PLUGINS", "")
    assert statuses(loader.load(points)) == {"a": "disabled", "b": "disabled"}
    assert statuses(loader.load(entry_points.built_in_points())) == dict.fromkeys(
        entry_points.BUILT_IN, "ok"
    )


def test_strict_raises_at_once(monkeypatch):
    monkeypatch.setenv("WISHBONE_STRICT_PLUGINS", "1")
    with pytest.raises(PluginBroken, match="boom"):
        loader.load([broken("acme", RuntimeError("boom"))])


def test_loading_is_light():
    """Without torch and omegaconf, which cost a second and a fifth of one."""
    code = (
        "import sys, wishbone; wishbone.names('backbone'); "
        "print([m for m in ('torch', 'omegaconf', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("contents", [None, "", "Metadata-Version: 2.1\n"])
def test_a_distribution_removed_by_halves_harms_nobody(tmp_path, contents):
    info = tmp_path / "acme_gru-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[wishbone.plugins]\ngru = acme_gru\n")
    if contents is not None:
        (info / "METADATA").write_text(contents)
    result = subprocess.run(
        [sys.executable, "-m", "wishbone", "plugins", "list"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "broken" in result.stdout and "acme_gru" in result.stdout
    assert "rwkv7" in result.stdout
