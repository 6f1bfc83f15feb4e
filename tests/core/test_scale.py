"""Commands in parts: the part of a process, executors and their files, what becomes of kills."""

import json
import os
import signal
import sys
import textwrap
import time
from functools import partial

import pytest

from wishbone.core.contract.errors import ConfigError, MissingExtra, UsageError, WishboneError
from wishbone.core.scale import launch as launching
from wishbone.core.scale.executors import Executor, read_executor
from wishbone.core.scale.launch import launch
from wishbone.core.scale.part_process import LAUNCHED, PartCommand
from wishbone.core.scale.pipelines import _require_room
from wishbone.core.scale.share import which_part
from wishbone.core.scale.step import Done, do_part, work_of

SLURM = {
    "sinfo": 'echo "debug"; echo "main*"',
    "squeue": "exit 0",
    "scontrol": "echo here",
    "srun": """while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done; exec "$@" """,
    "sbatch": """
        for script; do :; done
        [ -f "$SCRIPTS/refuse" ] && { echo "no such account" >&2; exit 1; }
        cp "$script" "$SCRIPTS/script-$(ls "$SCRIPTS" | grep -c script)"
        # Slurm would bring no modules, and the stand-in's Python is not beside its programs
        sed -i 's/^export PATH=.*/true/' "$script"
        if ! grep -q merge_stats "$script"; then
            last=$(sed -n 's/.*--array=0-\\([0-9]*\\).*/\\1/p' "$script")
            for task in $(seq 0 "$last"); do
                SLURM_ARRAY_TASK_ID=$task RUN_OFFSET=0 SLURM_NODELIST=here bash "$script" \\
                    >> "$SCRIPTS/output" 2>&1
            done
        fi
        echo "Submitted batch job 17"
    """,
}
"""Slurm's programs, as far as they are called: jobs run at once, one after another."""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "scripts").mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text("#!/bin/bash\n" + textwrap.dedent(text) + "\n")
        (programs / name).chmod(0o755)
    beside = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), beside, os.environ["PATH"]]))
    monkeypatch.setenv("SCRIPTS", str(tmp_path / "scripts"))
    return tmp_path / "scripts"


class Files:
    """A step of seven pieces, each a file with the rank and the number of the process."""

    def __init__(self, folder):
        self.folder = folder

    def prepare(self):
        self.folder.mkdir(exist_ok=True)

    def run(self, data=None, rank=0, world_size=1):
        for piece in range(rank, 7, world_size):
            path = self.folder / f"{piece}"
            if not path.exists():
                path.write_text(f"{rank} {os.getpid()}")
                yield Done(str(piece), 1, 1.5)

    def unfinished(self, rank=0, world_size=1):
        return sum(not (self.folder / f"{n}").exists() for n in range(rank, 7, world_size))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A stand-in for ``python -m wishbone``, which does the part that it is told."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys, time
            from pathlib import Path
            folder, words = Path(sys.argv[3]), sys.argv
            from wishbone.core.scale.part_process import launched
            from wishbone.core.scale.share import which_part
            assert launched() and "WORLD_SIZE" not in os.environ
            part, parts = which_part(words[words.index("--part") + 1], os.environ)
            (folder / f"starts-{part}").open("a").write("x")
            for piece in range(part - 1, 7, parts):
                path = folder / str(piece)
                if path.exists():
                    continue
                flag = folder / f"kill-{piece}"
                if flag.exists():
                    flag.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                if (folder / f"wrong-{piece}").exists():
                    print("error: The piece is wrong.", file=sys.stderr)
                    sys.exit(5)
                if (folder / f"wait-{piece}").exists():
                    time.sleep(60)
                path.write_text(f"{part} {os.getpid()}")
            """
        )
    )
    program = (sys.executable, str(script), "wishbone", "as")
    monkeypatch.setattr(launching, "PartCommand", partial(PartCommand, program=program))
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(launching, "EVERY", 0.2)
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def run(folder, parts=3, words=(), tries=3):
    return launch([str(folder), *words], Files(folder), Executor("local", parts, tries=tries))


def test_every_part_is_a_process_of_its_own_and_complete_parts_are_left_alone(command):
    (command / "1").write_text("before")
    (command / "4").write_text("before")
    assert run(command) == 0
    owners = {(command / str(n)).read_text() for n in (0, 3, 6, 2, 5)}
    assert {owner.split()[0] for owner in owners} == {"1", "3"} and len(owners) == 2
    assert not (command / "starts-2").exists()
    assert run(command) == 0 and (command / "starts-1").read_text() == "x"


def test_a_part_that_is_killed_goes_on_where_it_was(command):
    (command / "kill-3").touch()
    assert run(command) == 0
    assert (command / "starts-1").read_text() == "xx"
    assert (command / "0").read_text() != (command / "3").read_text()


def test_a_part_that_is_killed_every_time_is_an_error_and_the_others_end(command):
    (command / "kill-3").touch()
    with pytest.raises(WishboneError, match="Part 1/3 ended with signal 9") as caught:
        run(command, tries=1)
    assert caught.value.where.endswith("part-00001-of-00003.log")
    assert {n for n in range(7) if (command / str(n)).exists()} == {0, 1, 2, 4, 5}
    assert run(command) == 0


def test_an_error_is_that_of_the_part_and_is_not_tried_again(command):
    (command / "wrong-4").touch()
    with pytest.raises(WishboneError, match="exit code 5: The piece is wrong"):
        run(command)
    assert (command / "starts-2").read_text() == "x"


def test_a_part_ends_with_its_launcher(command):
    (command / "wait-0").touch()
    pid = os.fork()
    if not pid:
        try:
            launching.PartCommand([str(command)], str(command))(None, 0, 7)
        finally:
            os._exit(0)
    for _ in range(200):
        if (command / "starts-1").exists():
            break
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for _ in range(100):
        alive = [p for p in os.listdir("/proc") if p.isdigit() and _runs(p, str(command))]
        if not alive:
            return
        time.sleep(0.05)
    raise AssertionError(f"{alive} live on")


def _runs(number, word):
    try:
        return word in open(f"/proc/{number}/cmdline").read().split("\0")
    except OSError:
        return False


def test_a_part_launches_no_parts(monkeypatch, tmp_path):
    from wishbone.core.cli.bulk.parts import PartOptions, do_in_parts

    done = []
    monkeypatch.setenv(LAUNCHED, "1")
    monkeypatch.setattr("wishbone.core.cli.bulk.parts.launched", lambda: True)
    options = PartOptions(executor="local:2", part="2/2")
    assert do_in_parts(options, ["x"], lambda: "step", lambda *each: done.append(each) or 0) == 0
    assert done == [("step", 2, 2)]


def test_a_part_and_an_executor_are_one_too_many():
    from wishbone.core.cli.bulk.parts import PartOptions, do_in_parts

    options = PartOptions(executor="local:2", part="2/2")
    with pytest.raises(UsageError, match="somebody to do all parts"):
        do_in_parts(options, ["x"], lambda: None, lambda *_: 0)


def test_arrays_of_slurm_with_gaps():
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "4"}
    array["SLURM_ARRAY_TASK_STEP"] = "2"
    assert which_part("", array | {"SLURM_ARRAY_TASK_ID": "6"}) == (4, 4)
    with pytest.raises(UsageError, match="no part"):
        which_part("", array | {"SLURM_ARRAY_TASK_ID": "3"})


def test_executors_by_name_and_from_a_file(tmp_path):
    assert read_executor("local:4") == Executor("local", 4)
    assert read_executor("slurm").count == 64
    file = tmp_path / "c.yaml"
    file.write_text("kind: slurm\nparts: 8\ntime: '01:00:00'\nsbatch: {account: me}\n")
    assert read_executor(str(file)).sbatch == {"account": "me"}
    for words, why in (("lokal:2", "Did you mean 'local'"), ("local:0", "no number of parts"),
                       ("local:x", "no number"), ("none.yaml", "no file")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            read_executor(words)
    file.write_text("kind: slurm\npartision: gpu\n")
    with pytest.raises(ConfigError, match="partision") as caught:
        read_executor(str(file))
    assert caught.value.where == f"{file}:2"
    file.write_text("kind: cloud\n")
    with pytest.raises(ConfigError, match="kind"):
        read_executor(str(file))


def test_the_work_of_a_part_is_written_down_for_every_start(tmp_path):
    step = Files(tmp_path / "out")
    work = do_part(step, 2, 3)
    assert (work.pieces, work.speech_seconds) == (2, 3.0)
    (step.folder / "4").unlink()
    assert do_part(step, 2, 3).pieces == 1 and do_part(step, 2, 3).pieces == 0
    file = step.folder / "logs" / "work-00002-of-00003.jsonl"
    file.write_text(file.read_text() + '{"part": 2, "pa')
    assert [each.pieces for each in work_of(step.folder)] == [2, 1]
    assert json.loads(file.read_text().splitlines()[0])["host"]


def test_steps_stand_in_pipelines_of_datatrove(tmp_path):
    pytest.importorskip("datatrove", reason="pip install 'wishbone-tts[scale]'")
    from datatrove.executor import LocalPipelineExecutor

    step = Files(tmp_path / "out")
    step.prepare()
    LocalPipelineExecutor([step.run], tasks=3, workers=1, logging_dir=str(tmp_path / "l")).run()
    assert step.unfinished() == 0


def test_slurm_gets_an_array_of_the_parts_that_are_missing(slurm, command):
    pytest.importorskip("datatrove", reason="pip install 'wishbone-tts[scale]'")
    (command / "1").write_text("before")
    (command / "4").write_text("before")
    more = {"setup": "module() { :; }; module load gcc", "sbatch": {"account": "speech"}}
    figures = {"at_once": 2, "memory": 3.0, "cpus": 2, "gpus": 1, "time": "01:30:00"}
    choice = Executor("slurm", 3, **figures, **more)
    assert launch([str(command)], Files(command), choice) == 0
    assert (command / "0").read_text().split()[0] == "1"
    assert (command / "2").read_text().split()[0] == "3" and not (command / "starts-2").exists()
    script = (slurm / "script-0").read_text()
    for line in ("array=0-1%2", "partition=main", "time=01:30:00", "cpus-per-task=2", "gpus=1",
                 "mem-per-cpu=3G", "account=speech", "requeue"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert "module load gcc" in script and "launch_pickled_pipeline" in script
    # what ended once and is missing now is not taken for complete
    (command / "5").unlink()
    assert launch([str(command)], Files(command), choice) == 0 and (command / "5").exists()


def test_what_slurm_refuses_is_said(slurm, command):
    pytest.importorskip("datatrove", reason="pip install 'wishbone-tts[scale]'")
    (slurm / "refuse").touch()
    with pytest.raises(WishboneError, match="could not be submitted") as caught:
        launch([str(command)], Files(command), Executor("slurm", 2))
    assert "launch_script.slurm" in caught.value.where


def test_parts_that_fail_on_slurm_are_an_error(slurm, command):
    pytest.importorskip("datatrove", reason="pip install 'wishbone-tts[scale]'")
    (command / "wrong-4").touch()
    with pytest.raises(WishboneError, match="2 pieces are missing"):
        launch([str(command)], Files(command), Executor("slurm", 2))


@pytest.mark.timeout(300)
def test_a_cluster_of_ray_runs_the_parts(command):
    pytest.importorskip("datatrove", reason="pip install 'wishbone-tts[scale]'")
    pytest.importorskip("ray", reason="pip install 'wishbone-tts[ray]'")
    (command / "kill-3").touch()
    choice = Executor("ray", 2, address="local", memory=0.2)
    assert launch([str(command)], Files(command), choice) == 0
    assert (command / "starts-2").read_text() == "xx"
    (command / "0").unlink()
    (command / "wrong-0").touch()
    with pytest.raises(WishboneError, match="1 of 1 parts failed: 1"):
        launch([str(command)], Files(command), choice)


def test_an_executor_without_its_package_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.executor", None)
    for kind in ("slurm", "ray"):
        with pytest.raises(MissingExtra, match="needs datatrove") as caught:
            launch([str(command)], Files(command), Executor(kind, 2, partition="p"))
        assert "wishbone-tts[scale]" in caught.value.do


def test_a_cluster_without_room_for_a_part_is_not_waited_for():
    def node(cpus, memory, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, "memory": memory * 2**30}}

    nodes = [node(1, 32), node(8, 3.5), node(64, 64, alive=False)]
    _require_room(nodes, Executor("ray", 2, cpus=1, memory=4))
    _require_room(nodes, Executor("ray", 2, cpus=7, memory=0.5))
    with pytest.raises(UsageError, match="2 processors, 8 GB and 0 GPUs") as caught:
        _require_room(nodes, Executor("ray", 2, cpus=2, memory=4))
    assert "8 processors, 32.0 GB, 0 GPUs" in caught.value.do
    with pytest.raises(UsageError, match="1 GPUs"):
        _require_room(nodes, Executor("ray", 2, gpus=1))
