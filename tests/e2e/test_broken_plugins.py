"""A machine with every kind of bad plug-in: all else works, and each has its own clear error."""

import json
import os
import subprocess
import sys

import pytest

SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2}
backbone: {name: transformer, width: 32, layers: 1, heads: 2, kv_heads: 1, ffn_width: 48}
head: {name: linear}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
"""
PLUGIN = """\
from wishbone.core.registry.loader import hookimpl

WISHBONE_API = "{api}"


@hookimpl
def wishbone_register(registry):
    registry.add("backbone", "{key}", "{target}")
"""
OLD = """\
from wishbone.core.registry.loader import hookimpl

WISHBONE_API = "1.0"


@hookimpl
def wishbone_converters():
    return [("theirs", "old_part:X", "a hook of Wishbone 0.1")]
"""
# distribution, version, entry point, source of its module
INSTALLED = [
    ("wishbone-torn", "0.2", "torn", "import package_that_nobody_has\n"),
    ("wishbone-raising", "0.3", "raising", "raise SystemExit('not today')\n"),
    ("wishbone-future", "3.0", "future", PLUGIN.format(api="2.0", key="future/x", target="a:B")),
    ("wishbone-first", "1.1", "first", PLUGIN.format(api="1.0", key="both/x", target="a:B")),
    ("wishbone-second", "1.2", "second", PLUGIN.format(api="1.0", key="both/x", target="c:D")),
    ("wishbone-thief", "0.1", "thief", PLUGIN.format(api="1.0", key="rwkv7", target="a:B")),
    ("wishbone-old", "0.9", "old", OLD),
    ("wishbone-late", "0.4", "late", PLUGIN.format(api="1.0", key="late/x", target="torn_part:X")),
    ("wishbone-good", "1.0", "good", PLUGIN.format(
        api="1.0", key="good/x", target="wishbone.plugins.rwkv7.backbone:RWKV7")),
]  # fmt: skip


BAD = {
    "torn/x": ["wishbone-torn 0.2", "package_that_nobody_has"],
    "raising/x": ["wishbone-raising 0.3", "not today"],
    "future/x": ["wishbone-future 3.0", "2.0", "1.1"],
    "old/x": ["wishbone-old 0.9", "unknown hook 'wishbone_converters'", "wishbone_register"],
    "both/x": ["wishbone-first 1.1", "wishbone-second 1.2"],
    "late/x": ["wishbone-late 0.4", "half written"],
}
"""Key -> what its error must say."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed distributions, as pip leaves them."""
    folder = tmp_path_factory.mktemp("site")
    for distribution, version, name, source in INSTALLED:
        (folder / f"{name}_plugin.py").write_text(source)
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[wishbone.plugins]\n{name} = {name}_plugin\n")
    (folder / "torn_part.py").write_text("raise ValueError('half written')\n")
    for key in ("transformer", "good/x", "both/x", "future/x", "torn/x", "late/x"):
        text = SYSTEM.replace("transformer, ", f"{key}, ")
        if key != "transformer":
            text = text.replace("heads: 2, kv_heads: 1, ffn_width: 48", "head_size: 32")
        (folder / f"{key.replace('/', '-')}.yaml").write_text(text)
    return folder


def run(site, *words, **variables):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *words], cwd=site, env=environment, capture_output=True, text=True
    )


def wishbone(site, *words, **variables):
    return run(site, "-m", "wishbone", *words, **variables)


def test_the_list_says_how_each_fared(site):
    result = wishbone(site, "plugins", "list", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    listing = json.loads(result.stdout)
    status = {plugin["name"]: plugin["status"] for plugin in listing["plugins"]}
    assert {name: status[name] for _, _, name, _ in INSTALLED} == {
        "torn": "broken",
        "raising": "broken",
        "future": "incompatible",
        "first": "conflict",
        "second": "conflict",
        "thief": "broken",
        "old": "incompatible",
        "late": "ok",
        "good": "ok",
    }
    keys = {part["key"]: part["distribution"] for part in listing["parts"]}
    assert keys["rwkv7"] == "wishbone-tts" and keys["good/x"] == "wishbone-good"
    assert "both/x" not in keys


def test_everything_else_keeps_working(site):
    code = (
        "from wishbone import build; from wishbone.core.system.spec import read\n"
        "for name in ('transformer.yaml', 'good-x.yaml'):\n"
        "    print(type(build(read(name), 'meta').model.backbone).__name__)\n"
    )
    result = run(site, "-c", code)
    assert result.stdout.split() == ["Transformer", "RWKV7"], result.stderr


@pytest.mark.parametrize(("key", "words"), BAD.items())
def test_using_a_bad_one_names_it_its_version_and_the_cause(site, key, words):
    result = wishbone(site, "plugins", "check", key)
    assert_three_lines(result.returncode, result.stderr, words)


def assert_three_lines(code, stderr, words):
    assert code == 3, stderr
    assert [line.split(":")[0] for line in stderr.splitlines()] == ["error", "where", "do"], stderr
    for piece in words:
        assert piece in stderr


def test_a_configuration_that_names_a_bad_one_gets_the_same_error(site):
    code = (
        "import contextlib, io, json\n"
        "from wishbone.core.cli.main import main\n"
        "for name in ('torn-x', 'future-x', 'both-x', 'late-x'):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        code = main(['match', f'{name}.yaml', 'transformer.yaml'])\n"
        "    print(json.dumps([name, code, said.getvalue()]))\n"
    )
    result = run(site, "-c", code)
    listing = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(listing) == 4, result.stderr
    for name, code, stderr in listing:
        assert_three_lines(code, stderr, [BAD[name.replace("-", "/")][0]])


def test_a_thief_does_not_get_the_bare_key(site):
    result = wishbone(site, "plugins", "info", "rwkv7")
    assert result.returncode == 0 and "wishbone-tts" in result.stdout
    result = wishbone(site, "plugins", "list")
    assert "reserved for wishbone-tts" in result.stdout


def test_the_doctor_names_the_broken_ones(site):
    result = wishbone(site, "doctor")
    assert result.returncode == 3
    for name in ("wishbone-torn 0.2: broken", "wishbone-future 3.0: incompatible"):
        assert name in result.stdout


def test_strict_stops_at_the_first(site):
    result = wishbone(site, "plugins", "list", WISHBONE_STRICT_PLUGINS="1")
    assert result.returncode == 3 and len(result.stderr.splitlines()) == 3
