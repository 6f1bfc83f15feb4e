"""A file is there whole or as it was, whoever writes it and whatever goes wrong meanwhile."""

import os
import re
import stat
import subprocess
import sys
import threading

import pytest

from wishbone.core.contract.atomic import (
    contents,
    new_folder,
    replace_folder,
    replacing,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folder_are_made(tmp_path):
    path = tmp_path / "new" / "deep" / "a.json"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode() and names(path.parent) == ["a.json"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_body_that_raises_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_writers_at_once_share_no_temporary_name(tmp_path):
    """Threads of one process have one process number, so that this alone would not do."""
    path, barrier, temporaries = tmp_path / "a.txt", threading.Barrier(8), []

    def write(text):
        with replacing(path) as temporary:
            temporaries.append(temporary)
            barrier.wait()
            temporary.write_text(text)
            barrier.wait()
            assert temporary.read_text() == text
            barrier.wait()

    texts = [str(number) * 9 for number in range(8)]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(temporaries)) == 8
    assert path.read_text() in texts and names(tmp_path) == ["a.txt"]


def test_no_pattern_of_readers_matches_a_temporary_file(tmp_path):
    with replacing(tmp_path / "a.parquet") as temporary:
        temporary.write_text("half")
        assert not list(tmp_path.glob("*.parquet"))


def test_a_file_has_the_rights_that_any_file_has(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "made" / "folder"
    with pytest.raises(ValueError), new_folder(folder) as temporary:
        (temporary / "half").touch()
        raise ValueError
    assert names(folder.parent) == []
    with new_folder(folder) as temporary:
        (temporary / "file").touch()
        assert not folder.exists()
    assert names(folder) == ["file"] and names(folder.parent) == ["folder"]


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    write_text(tmp_path / "folder" / "old", "")
    with pytest.raises(OSError), new_folder(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert names(tmp_path / "folder") == ["old"] and names(tmp_path) == ["folder"]


def test_a_folder_is_replaced_by_a_complete_one(tmp_path):
    target = tmp_path / "export"
    for name in ("first", "second"):
        write_text(tmp_path / "complete" / name, "")
        replace_folder(tmp_path / "complete", target)
        assert names(target) == [name] and names(tmp_path) == ["export"]


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    code = (
        "import os, sys; from wishbone.core.contract.atomic import replacing, scratch_folder\n"
        "with replacing(sys.argv[1] + '/a.txt') as file, scratch_folder(sys.argv[1] + '/b'):\n"
        "    file.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    left = names(tmp_path)
    assert len(left) == 2 and all(name.endswith(".tmp") for name in left)
    assert contents(tmp_path) == []
    # a process that lives goes on with its file, and so does one of another machine
    dead = re.search(r"\.(\d+)-(\w{8})-", left[0])
    alive = left[0].replace(f".{dead[1]}-", f".{os.getpid()}-")
    foreign = left[0].replace(f"-{dead[2]}-", "-00000000-")
    (tmp_path / alive).touch()
    (tmp_path / foreign).touch()
    write_text(tmp_path / "other.txt", "new")
    assert names(tmp_path) == sorted([alive, foreign, "other.txt"])
