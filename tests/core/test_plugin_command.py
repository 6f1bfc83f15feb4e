"""``wishbone plugins``: what it prints, its verdicts, and the packages it writes."""

import importlib
import json
import re
import tomllib

import pytest

from wishbone.core.cli import plugins
from wishbone.core.cli.look.list import main as list_main
from wishbone.core.cli.plugins import fields_of, main
from wishbone.core.config.compose import find
from wishbone.core.contract.errors import ConfigError, GateFailed, UnknownName, UsageError
from wishbone.core.evaluate.prompts.prompt_lists import find_prompts
from wishbone.core.registry import scaffold, shipped
from wishbone.core.registry.loader import Loaded, PluginStatus, registry
from wishbone.core.registry.registry import Registry, import_target
from wishbone.core.system.spec import read
from wishbone.core.testing import CheckResult, check_class


def test_the_list_can_be_narrowed(capsys):
    assert main(["list", "--kind", "backbone"]) == 0
    shown = capsys.readouterr().out
    assert "rwkv7" in shown and "cosyvoice2" not in shown
    assert main(["list", "--kind", "layout", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {part["key"] for part in told["parts"]} >= {"cosyvoice2"}
    assert {plugin["status"] for plugin in told["plugins"]} <= {"ok"}


def test_info_shows_every_field_with_its_sentence(capsys):
    assert main(["info", "transformer"]) == 0
    shown = capsys.readouterr().out
    assert "wishbone.plugins.transformer.backbone:Transformer" in shown
    assert "kv_heads: int = " in shown and "Heads of keys and values" in shown


def test_a_key_of_two_kinds_is_shown_twice(capsys):
    assert main(["info", "fsqcodec"]) == 0
    shown = capsys.readouterr().out
    assert "speech_tokenizer 'fsqcodec'" in shown and "decoder 'fsqcodec'" in shown


def test_a_key_nobody_has():
    with pytest.raises(UnknownName) as caught:
        main(["info", "transfromer"])
    assert "Did you mean 'transformer'?" in caught.value.do


def test_check_passes_and_fails_with_a_readable_verdict(capsys, monkeypatch):
    results = [CheckResult("causality", True, "bit-equal"), CheckResult("splits", True, "fine")]
    monkeypatch.setattr("wishbone.core.testing.check", lambda kind, key: results)
    assert main(["check", "transformer"]) == 0
    assert "2 of 2 checks passed" in capsys.readouterr().out
    results[1] = CheckResult("splits", False, "differs by 0.3", "One call equals any split.")
    with pytest.raises(GateFailed, match="1 check") as caught:
        main(["check", "transformer"])
    assert caught.value.exit_code == 4
    shown = capsys.readouterr().out
    assert "FAILED splits" in shown
    assert "differs by 0.3" in shown and "One call equals any split." in shown


@pytest.mark.parametrize("kind", scaffold.kinds())
def test_a_new_package_keeps_its_contract(kind, tmp_path, monkeypatch):
    folder = scaffold.write_package("acme/my-part", kind, tmp_path)
    package = "wishbone_acme_my_part"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    # the module that registers it says what it is called: a class, or the function of a command
    own = Registry("wishbone-acme-my-part", "0.1.0")
    importlib.import_module(f"{package}.plugin").wishbone_register(own)
    (entry,) = own.of(kind)
    cls = import_target(entry)
    assert entry.key == "acme/my-part" and cls.__module__ == f"{package}.{kind}"
    wrong = [r for r in check_class(kind, cls, module=f"{package}.plugin") if not r.passed]
    assert wrong == []
    if hasattr(cls, "Config"):
        assert all(about for _, _, _, about in fields_of(cls.Config))
    for name in [name for name in importlib.sys.modules if name.startswith(package)]:
        del importlib.sys.modules[name]


@pytest.mark.parametrize("kind", scaffold.kinds())
def test_a_new_package_is_a_whole_project(kind, tmp_path):
    folder = scaffold.write_package("acme/x2", kind, tmp_path)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    entry = project["project"]["entry-points"]["wishbone.plugins"]
    assert entry == {"acme": "wishbone_acme_x2.plugin"}
    assert (folder / "wishbone_acme_x2/plugin.py").is_file()
    assert (folder / "tests/test_contract.py").is_file()
    assert "acme/x2" in (folder / "README.md").read_text()
    assert all((folder / name).is_file() for name in (
        "LICENSE", ".gitignore", ".github/workflows/test.yml"))  # fmt: skip
    (needs,) = project["project"]["dependencies"]
    assert re.fullmatch(r"wishbone-tts>=\d+\.\d+,<\d+\.\d+", needs)
    left = [p for p in folder.rglob("*") if p.is_file() and "$" in p.read_text()]
    assert left == []
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_package_brings_systems_and_what_they_name(tmp_path, monkeypatch, capsys):
    """As an installed wheel: its package is importable, and its plug-in is loaded."""
    folder = scaffold.write_package("acme/x", "backbone", tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    inside = folder / "wishbone_acme_x" / "configs"
    assert (inside / "system" / "x.yaml").is_file()
    (inside / "weights").mkdir()
    (inside / "system" / "spoken.yaml").write_text(
        "# a voice of its own\nbase: quickstart-rwkv7\nweights: ../weights\n"
    )
    status = PluginStatus("acme", "wishbone_acme_x.plugin", "wishbone-acme-x", "0.1.0")
    monkeypatch.setattr(shipped, "loaded", lambda: Loaded(registry(), [status]))
    assert read("acme/spoken")["weights"] == str(inside / "weights")
    assert find("acme/x") == inside / "system" / "x.yaml"
    assert list_main(["systems"]) == 0
    assert "acme/spoken" in capsys.readouterr().out
    with pytest.raises(UnknownName, match="acme/spoken"):
        find("acme/spokn")
    status.status = "broken"
    with pytest.raises(UnknownName):
        find("acme/spoken")


def test_its_system_names_the_new_part(tmp_path):
    folder = scaffold.write_package("acme/x", "backbone", tmp_path)
    with pytest.raises(UnknownName, match="acme/x"):
        read(folder / "configs/system.yaml")


def test_without_a_vendor_it_is_yours(tmp_path, capsys):
    assert main(["new", "gru", "--out", str(tmp_path)]) == 0
    assert "plugins check my/gru" in capsys.readouterr().out
    assert (tmp_path / "wishbone-my-gru").is_dir()


@pytest.mark.parametrize(
    "name", ["Acme/x", "acme/", "/x", "/x/y", "acme-my/x", "acme/x y", "acme/2x", "../x", ""]
)
def test_names_that_cannot_be(name, tmp_path):
    with pytest.raises(UsageError, match="cannot be a key"):
        scaffold.write_package(name, "backbone", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    scaffold.write_package("acme/x", "backbone", tmp_path)
    with pytest.raises(UsageError, match="exists"):
        scaffold.write_package("acme/x", "backbone", tmp_path)
    monkeypatch.setattr(scaffold, "kinds", lambda: ["backbone"])
    with pytest.raises(UsageError, match="no template"):
        scaffold.write_package("acme/y", "head", tmp_path)


def test_prompts_and_missing_packages_of_a_plug_in(tmp_path, monkeypatch, capsys):
    folder = scaffold.write_package("acme/x", "metric", tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    prompts = folder / "wishbone_acme_x" / "configs" / "ab" / "hard.txt"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("A sentence.\n")
    dist_info = folder / "wishbone_acme_x-0.1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wishbone-acme-x\nVersion: 0.1.0\n"
        "Requires-Dist: torch>=99\nRequires-Dist: nobody-has-this>=1\nRequires-Dist: numpy\n"
        "Requires-Dist: nor-this; extra == 'more'\nRequires-Dist: nor-that; python_version < '3'\n"
    )
    status = PluginStatus("acme", "wishbone_acme_x.plugin", "wishbone-acme-x", "0.1.0")
    monkeypatch.setattr(shipped, "loaded", lambda: Loaded(registry(), [status]))
    assert find_prompts("acme/hard.txt") == prompts
    with pytest.raises(ConfigError, match="acme/hard.txt"):
        find_prompts("acme/hart.txt")
    monkeypatch.setattr(plugins, "loaded", lambda: Loaded(registry(), [status]))
    assert main(["list", "--kind", "metric"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("acme ")]
    assert "incomplete" in line and "nobody-has-this>=1" in line and "torch>=99 (" in line
    assert "numpy" not in line and "nor-th" not in line
