"""The folder for listeners: it works by itself and tells nothing; the key tells all."""

import json

import pytest
import soundfile
from listening_toys import make, page_of, recordings

from wishbone.core.cli import main
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.listening import loudness
from wishbone.core.evaluate.listening.stimuli import find_stimuli

pytest.importorskip("jinja2", reason="install the extra: pip install wishbone-tts[ab]")


@pytest.mark.parametrize("design", ["ab", "cmos", "abx", "mos", "mushra"])
def test_the_folder_tells_nothing_about_systems_and_sentences(tmp_path, design):
    written, key = make(tmp_path, ("steady", "fancy"), design=design, listeners=4)
    names = sorted(p.relative_to(written.folder).as_posix() for p in written.folder.rglob("*"))
    assert names[:1] == ["audio"] and names[-1] == "index.html"
    everything = "\n".join([*names, (written.folder / "index.html").read_text()])
    assert not any(secret in everything for secret in ("steady", "fancy", "s0", "s1", "degraded"))
    for clip in (written.folder / "audio").iterdir():
        assert clip.stem in key["clips"]
        assert b"steady" not in clip.read_bytes()
    assert len({path.stat().st_size for path in (written.folder / "audio").iterdir()}) == 1
    assert "http" not in everything.replace('location.protocol.startsWith("http")', "")


def test_the_key_says_what_every_clip_is(tmp_path):
    written, key = make(tmp_path)
    assert written.key.parent == tmp_path and not written.key.is_relative_to(written.folder)
    facts = {(clip["system"], clip["item"]) for clip in key["clips"].values()}
    assert facts == {(s, f"s{i}") for s in ("steady", "fancy") for i in range(4)}
    assert {trial["kind"] for trial in key["trials"].values()} == {"test", "catch", "training"}


def test_names_are_drawn_anew_each_time(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (_, one), (_, two) = make(tmp_path / "one"), make(tmp_path / "two")
    assert not set(one["clips"]) & set(two["clips"]) and one["test"] != two["test"]


def test_clips_are_equally_loud_whatever_they_were(tmp_path):
    written, _ = make(tmp_path, catch=0, training=0)
    for path in (written.folder / "audio").iterdir():
        audio, rate = soundfile.read(path)
        assert loudness.loudness(audio, rate) == pytest.approx(-23, abs=0.1)


def test_no_listener_meets_the_key_or_a_finished_test_is_overwritten(tmp_path):
    recordings(tmp_path / "w")
    sources = [str(tmp_path / "w" / name) for name in ("steady", "fancy")]

    def run(*words):
        return main.main(["listen", "make", *sources, "--out", str(tmp_path / "t"), *words])

    assert run("--key", str(tmp_path / "t" / "key.json")) == 2
    assert run("--key", str(tmp_path / "x" / ".." / "t" / "audio" / "k.json")) == 2
    assert not (tmp_path / "t").exists()
    assert run() == 0
    assert run() == 2, "listeners may be answering it"


def test_every_form_has_the_catch_trials_and_one_spoilt_clip_in_each(tmp_path):
    written, key = make(tmp_path, catch=2, listeners=6)
    data = page_of(written)
    assert len(data["forms"]) == 6
    sides = []
    for form in data["forms"]:
        catches = [t for t in form if key["trials"][t["trial"]]["kind"] == "catch"]
        assert len(form) == 6 and len(catches) == 2 and form[0] not in catches
        for trial in catches:
            bad = [key["clips"][clip]["degraded"] for clip in trial["clips"]]
            assert sorted(bad) == [False, True]
            sides.append(bad.index(True))
    assert 0 < sum(sides) < len(sides)


def test_a_reference_is_given_and_hidden_and_has_anchors(tmp_path):
    written, key = make(
        tmp_path, ("steady", "person"), design="mushra", reference="person", anchors=(1000, 3500)
    )
    assert key["anchors"] == ["anchor-1000", "anchor-3500"]
    for trial in page_of(written)["forms"][0]:
        systems = [key["clips"][clip]["system"] for clip in trial["clips"]]
        assert systems.count("person") >= 1 and "anchor-1000" in systems
        assert trial["reference"] not in trial["clips"]
    with pytest.raises(UsageError, match="no system 'nobody'"):
        make(tmp_path / "again", design="mushra", reference="nobody")


def test_a_text_cannot_leave_its_place_in_the_page(tmp_path):
    written, _ = make(tmp_path, question="</script><script>alert(1)</script>", title="<b>x</b>")
    text = (written.folder / "index.html").read_text()
    assert "<script>alert" not in text and "<b>x" not in text
    assert page_of(written)["question"].startswith("</script>")


def test_the_recordings_of_a_run_without_failed_ones(tmp_path):
    recordings(tmp_path, ("one", "two"))
    rows = [
        {"arm": arm, "prompt": f"s{i}", "repeat": repeat, "text": f"Sentence {i}.",
         "audio": f"{arm}/s{i}.wav", "failure": "silent" if (arm, i) == ("two", 1) else ""}
        for arm in ("one", "two") for i in range(4) for repeat in (0, 1)
    ]  # fmt: skip
    rows.append({"arm": "reference", "prompt": "s0", "repeat": 0, "text": "Sentence 0."})
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"arm": "on')
    stimuli = find_stimuli([str(tmp_path)])
    assert stimuli.systems == ["one", "two"] and stimuli.items == ["s0", "s2", "s3"]
    assert list(stimuli.missing) == ["s1"] and stimuli.texts["s2"] == "Sentence 2."
    assert find_stimuli([str(tmp_path)], ["two"]).systems == ["two"]


def test_folders_that_cannot_be_compared_are_refused(tmp_path):
    one, two = recordings(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        find_stimuli([one, str(tmp_path / "none")])
    with pytest.raises(UsageError, match="called 'steady'"):
        find_stimuli([one, f"steady={two}"])
    assert find_stimuli([f"x={one}", f"y={two}"]).systems == ["x", "y"]
    for path in (tmp_path / "fancy").iterdir():
        path.rename(path.with_name("other-" + path.name))
    with pytest.raises(UsageError, match="No item"):
        find_stimuli([one, two])
