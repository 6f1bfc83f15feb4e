"""What the doctor says, and that nothing it meets stops it."""

import json
from types import SimpleNamespace

from wishbone.core.cli import doctor
from wishbone.core.registry.loader import PluginStatus


def test_a_report_of_this_machine(capsys):
    assert doctor.main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = {name for checks in told.values() for name, _, _ in checks}
    assert {"wishbone-tts", "torch", "cpu", "cuda", "wishbone.plugins", "folder"} <= names
    assert any(
        name.startswith("kernel wkv7/") and fine for name, fine, _ in told["kernels and parts"]
    )
    assert all(text for checks in told.values() for _, fine, text in checks if not fine)


def test_a_broken_plugin_is_told_and_fails(monkeypatch, capsys):
    status = PluginStatus("acme", "acme", "wishbone-acme", "0.2", "broken", "ImportError: no acme")
    monkeypatch.setattr(doctor, "loaded", lambda: SimpleNamespace(plugins=[status]))
    assert doctor.main([]) == 3
    assert "wishbone-acme 0.2: broken: ImportError: no acme" in capsys.readouterr().out


def test_a_check_that_raises_is_a_failed_check_beside_all_others(monkeypatch, capsys):
    def says(answer):
        def wishbone_doctor():
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return wishbone_doctor

    answers = {
        "raising": RuntimeError("cannot even say"),
        "leaving": SystemExit("not today"),
        "odd": [("two", True)],
        "good": [("a kernel", True, "runs here")],
    }
    plugins = [
        PluginStatus(name, name, f"wishbone-{name}", "0.2", doctor=says(answer))
        for name, answer in answers.items()
    ]
    monkeypatch.setattr(doctor, "loaded", lambda: SimpleNamespace(plugins=plugins))
    assert doctor.main([]) == 3
    shown = capsys.readouterr().out
    assert "wishbone-raising 0.2: its wishbone_doctor fails: RuntimeError: cannot even" in shown
    assert "wishbone-leaving 0.2: its wishbone_doctor fails: SystemExit: not today" in shown
    assert "wishbone-odd 0.2: its wishbone_doctor fails: ValueError" in shown
    assert "a kernel" in shown and "runs here" in shown


def test_the_packages_asked_for_are_those_of_the_installed_distribution():
    needed = doctor.requirements()
    assert {"torch", "pluggy", "omegaconf", "safetensors"} <= set(needed[""])
    assert "wishbone-tts" not in sum(needed.values(), [])
    assert {"train", "ab", "dev"} <= needed.keys()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(
        doctor, "requirements", lambda: {"": ["nobody-has-this"], "ab": ["nor-this"]}
    )
    told = doctor.report()
    assert told["packages"] == [
        ("nobody-has-this", False, "not installed; pip install nobody-has-this")
    ]
    assert told["extras"][0][1:] == (
        False,
        "missing nor-this; pip install 'wishbone-tts[ab]'",
    )


def test_every_folder_of_kernels_answers():
    from wishbone.plugins.kernel_report import kernel_report

    told = kernel_report()
    assert {name.split()[1].split("/")[0] for name, _, _ in told} >= {
        "attention", "elementwise", "linear", "wkv7",
    }  # fmt: skip
    assert [reason for _, _, reason in told if "Error" in reason] == []
