"""Commands that only look, and ``--dry-run``: what is printed, and that nothing is done."""

import json

import pytest
from tiny_corpus import write_recipe

from wishbone.core.cli import ab, train
from wishbone.core.cli.look import diff, list, runs
from wishbone.core.cli.speech import say
from wishbone.core.config.compose import bundled, parse
from wishbone.core.contract.errors import ConfigError, UnknownName, UsageError, WishboneError
from wishbone.core.train import repeat


def test_lists_name_what_commands_take(capsys):
    assert list.main(["systems"]) == 0
    text = capsys.readouterr().out
    assert "quickstart-rwkv7" in text and "guidance" not in text
    assert list.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"{word}:" in text for word in list.FOLDERS)
    with pytest.raises(UnknownName, match="no list"):
        list.main(["voices"])


def test_runs_are_a_table(tmp_path, capsys):
    run = tmp_path / "one"
    (run / "export").mkdir(parents=True)
    (run / "config.yaml").write_text("steps: 40\nsystem:\n  steps: 3\n")
    lines = [{"step": 20, "loss": 2.5, "elapsed": 90.0}, {"step": 20, "held_out": 2.75}]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2')
    (run / "export" / "provenance.json").write_text('{"notes": {"steps": 20}}')
    assert runs.main([str(tmp_path)]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:6] == ["one", "20", "of", "40", "2.5000", "2.7500"]
    assert "1.5" in row and "(step 20)" in row
    (run / "fitted.json").write_text('{"steps": 25}')
    runs.main([str(run)])
    assert "20 of 25" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no training"):
        runs.main([str(tmp_path / "none")])


def test_diff_prints_the_keys_that_differ(tmp_path, capsys):
    assert diff.main(["quickstart-rwkv7", "quickstart-rwkv7"]) == 0
    assert capsys.readouterr().out == "no key differs\n"
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: quickstart-rwkv7\nsampling: {temperature: 0.5}\n")
    diff.main(["quickstart-rwkv7", str(mine)])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "sampling.temperature" and out.count("temperature") == 1
    diff.main(["quickstart-rwkv7", "quickstart-transformer"])
    assert "backbone.name" in capsys.readouterr().out
    with pytest.raises(UnknownName):
        diff.main(["quickstart-rwkv7", "nothing-of-the-kind"])


def test_diff_of_recipes_has_the_system_in_it(tmp_path, capsys):
    write_recipe(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("base: recipe\nsteps: 7\n")
    diff.main([str(tmp_path / "recipe.yaml"), str(other)])
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["steps"]


def test_a_dry_run_prints_what_would_be_used(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    assert train.main([str(recipe), "steps=9", "--dry-run"]) == 0
    assert "steps: 9" in capsys.readouterr().out and not (tmp_path / "run").exists()
    out = tmp_path / "x.wav"
    assert say.main(["Hello.", "sampling.temperature=0.25", "-o", str(out), "--dry-run"]) == 0
    assert "temperature: 0.25" in capsys.readouterr().out and not out.exists()
    assert ab.main(["quickstart", "--dry-run", "--out", str(tmp_path / "ab")]) == 0
    text = capsys.readouterr().out
    assert "not_meant_to_differ: []" in text and "backbone.name" in text
    assert not (tmp_path / "ab").exists()


def test_a_bundled_arms_recipes_are_repeated_in_order(tmp_path, capsys):
    stages = repeat.recipes("quickstart-rwkv7", "quickstart", tmp_path / "mine")
    files = repeat.write_recipes([*stages])
    recipes = [parse(file)[0] for file in files]
    assert [recipe["steps"] for recipe in recipes] == [1600, 800, 900, 1400, 600]
    assert [recipe["seed"] for recipe in recipes] == [1, 3, 4, 5, 6]
    assert [recipe["decay_share"] for recipe in recipes] == [0.5, 0.7, 0.8, 0.7, 0.4]
    assert recipes[4]["out"] == str(tmp_path / "mine")
    assert recipes[1]["weights"] == str(tmp_path / "mine-stage-1" / "export")
    assert all((bundled() / path).is_file() for recipe in recipes for path in recipe["data"])
    # recorded by a path of another machine, found here by the name of its file
    assert {recipe["held_out"] for recipe in recipes} == {"tokens/quickstart/held-out.parquet"}
    # the last stage's data is here to the last bit, that of the first is not
    notes = capsys.readouterr().err
    assert "stage 1 of quickstart-rwkv7 was trained on other data" in notes
    assert "stage 5" not in notes
    with pytest.raises(ConfigError, match="system="):
        repeat.repeat("quickstart-rwkv7", ["out=x"])


def test_a_dry_run_of_a_repeated_recipe_trains_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("base: quickstart\nbackbone: {name: rwkv7, width: 64}\n")
    words = ["--like", "quickstart-rwkv7", f"system={tmp_path}/mine.yaml", f"out={tmp_path}/run"]
    assert train.main([*words, "--dry-run", "steps=5"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("# Stage ") == 5 and shown.count("\nsteps: 5\n") == 5
    mistakes = ["steps=0", "quickstart", f"system={tmp_path}/none.yaml", "stepz=3"]
    for word in mistakes:
        with pytest.raises(ConfigError):
            train.main([*words, word])
    (tmp_path / "mine.yaml").write_text("base: quickstart-rwkv7\nbackbone: {weights: x}\n")
    with pytest.raises(WishboneError):
        train.main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_every_stage_goes_on_from_the_one_before(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    recipe = write_recipe(tmp_path)
    train.main([str(recipe), f"out={tmp_path}/first", "steps=2"])
    train.main([str(recipe), f"out={tmp_path}/second", "steps=3", "seed=2",
                f"weights={tmp_path}/first/export"])  # fmt: skip
    assert "it is fine-tuning" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(
        "base: second/export/config.yaml\nbackbone: {ffn_width: 32}\n"
    )
    words = ["--like", f"{tmp_path}/second/export", f"system={tmp_path}/mine.yaml"]
    assert train.main([*words, f"out={tmp_path}/again"]) == 0
    notes = json.loads((tmp_path / "again/export/provenance.json").read_text())["notes"]
    assert [stage["steps"] for stage in notes["before"]] == [2] and notes["steps"] == 3
    assert notes["recipe"]["seed"] == 2
    # another system, or another number of steps, is not what those stages were
    (tmp_path / "mine.yaml").write_text(
        "base: second/export/config.yaml\nbackbone: {ffn_width: 48}\n"
    )
    with pytest.raises(ConfigError, match="trained with another backbone"):
        train.main([*words, f"out={tmp_path}/again"])


def test_other_start_weights_are_noticed(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    recipe = write_recipe(tmp_path)
    train.main([str(recipe), f"out={tmp_path}/a", "steps=1"])
    words = [str(recipe), f"out={tmp_path}/b", "steps=1", f"weights={tmp_path}/a/export"]
    train.main(words)
    train.main([str(recipe), f"out={tmp_path}/c", "steps=2"])
    weights = tmp_path / "a" / "export" / "model.safetensors"
    weights.write_bytes((tmp_path / "c" / "export" / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="start_weights"):
        train.main(words)


def test_two_runs_are_compared_and_every_example_of_the_help_works(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    train.main([str(recipe), f"out={tmp_path}/a", "steps=1"])
    train.main([str(recipe), f"out={tmp_path}/b", "steps=2"])
    capsys.readouterr()
    assert diff.main([f"{tmp_path}/a", f"{tmp_path}/b"]) == 0
    shown = capsys.readouterr().out
    assert "steps\n" in shown and "backbone" not in shown
    assert diff.main(["lora", "dora"]) == 0
    with pytest.raises(UnknownName):
        diff.main(["quickstart-rwkv7", "nobody"])


@pytest.mark.parametrize("log", [b"5\n", b'{"elapsed": null}\n', b"\xff\xfe{\n"])
def test_a_strange_log_hides_no_run(tmp_path, capsys, log):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.jsonl").write_bytes(b'{"step": 3}\n' + log)
    (tmp_path / "run/config.yaml").write_text("steps: null\n")
    assert runs.main([str(tmp_path)]) == 0
    assert "run  3" in " ".join(capsys.readouterr().out.split()).replace("run 3", "run  3")
