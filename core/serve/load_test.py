"""A load test: a server of its own, many clients, and each answer compared with itself alone.

It tells how many requests failed, whether company changed a sample, how memory grew, and how much
work a second of audio took beside one process for each request.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from wishbone.core.bench.analysis import machine, now, versions
from wishbone.core.contract.errors import WishboneError
from wishbone.core.report.progress import say
from wishbone.core.serve.settings import model_names

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore, and the shells she sells are surely shells.",
    "We waited for the last train until the clock had struck eleven.",
    "A small boat crossed the bay under a grey and heavy sky.",
    "Nobody knew why the lights in the old house had been burning all night.",
    "Please send the report to the office before noon. Then call me back.",
    "The garden was full of roses, and every one of them was red.",
    "He counted the stairs twice, because the number seemed too small.",
)
"""Texts of the requests."""
ALONE = 3
"""Requests that get a process each."""
START = 300.0
"""Seconds that the server may take to be ready."""
SETTLED = 60.0
"""Seconds after which memory is expected to grow no more; a quarter of a shorter test."""
LOOK = 1.0
"""Seconds between two looks at the memory."""
FLAT = 5.0
"""Percent by which memory may vary once it is settled."""


@dataclass
class LoadResult:
    """Figures of a load test."""

    system: str
    clients: int
    seconds: float
    slots: int = 0
    """Requests that spoke at once."""
    began: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    """The first few, in words."""
    failed: int = 0
    unequal: int = 0
    """Answers that differ from the same request alone on this server."""
    audio_seconds: float = 0.0
    first_sound_ms: dict[str, float] = field(default_factory=dict)
    """Quantiles of the time from sending a request to its first samples."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Resident memory: ready, once settled, the least and the most after that, at the end."""
    settled_after: float = 0.0
    """Seconds of load after which memory counts as settled."""
    growth_percent: float = 0.0
    """Growth of memory from then to the end."""
    spread_percent: float = 0.0
    """The most of memory from then on, over the least."""
    work_per_second: dict[str, float] = field(default_factory=dict)
    """Seconds of processor time per second of audio: the server with one client and with all, and
    one process for each request."""
    ratio: float = 0.0
    """Work of processes over work of the server."""
    exit_code: int | None = None
    """Exit code of the server after SIGTERM."""

    @property
    def is_whole(self) -> bool:
        """True where nothing failed and nothing differed."""
        return not self.failed and not self.unequal and self.exit_code == 0

    @property
    def is_flat(self) -> bool:
        """True where memory, once settled, stayed within ``FLAT`` percent, or the test is short."""
        return self.settled_after < SETTLED or self.spread_percent <= FLAT

    def lines(self) -> list[str]:
        """The figures for people."""
        quantiles = ", ".join(f"{k} {v:.0f} ms" for k, v in self.first_sound_ms.items())
        memory = ", ".join(f"{k} {v:.0f} MiB" for k, v in self.memory_mib.items())
        work = ", ".join(f"{k} {v:.3f} s" for k, v in self.work_per_second.items())
        second = f"from second {self.settled_after:.0f} on"
        return [
            f"{self.system}: {self.clients} clients for {self.seconds:.0f} s, {self.slots} slots",
            f"requests: {self.requests}, failed: {self.failed}, unequal: {self.unequal}",
            f"audio: {self.audio_seconds:.0f} s, {self.audio_seconds / self.seconds:.1f} a second",
            f"first sound: {quantiles}",
            f"memory: {memory}",
            f"{second}: {self.growth_percent:+.1f} % to the end,"
            f" spread {self.spread_percent:.1f} %",
            f"processor time per second of audio: {work}; ratio {self.ratio:.1f}",
            f"exit code after SIGTERM: {self.exit_code}",
            *self.failures,
        ]


def run_load_test(
    system: str, words: Sequence[str], clients: int, seconds: float, alone: int = ALONE
) -> LoadResult:
    """Start a server with the options ``words``, load it, stop it, and speak in processes."""
    model = next(iter(model_names([system])))
    result = LoadResult(model, clients, seconds, began=now().isoformat(timespec="seconds"))
    result.machine, result.versions = machine(), versions(())
    result.settled_after = min(SETTLED, seconds / 4)
    requests = [(text, seed) for seed, text in enumerate(SENTENCES)]
    with (
        tempfile.TemporaryDirectory() as folder,
        run_server([system, "--folder", folder, *words]) as (process, port, _),
    ):
        say(f"the server is ready; {len(requests)} requests alone")
        begin = _metrics(port)
        expected = [_ask(port, model, *request)[0] for request in requests]
        before = _metrics(port)
        result.work_per_second["server, one client"] = _work(begin, before)
        result.memory_mib["ready"] = before["memory"]
        say(f"{clients} clients for {seconds:.0f} s")
        _load(result, port, requests, expected)
        after = _metrics(port)
        result.memory_mib["end"] = after["memory"]
        result.slots = round(after["slots"])
        memory = result.memory_mib
        result.growth_percent = 100 * (after["memory"] / memory["settled"] - 1)
        result.spread_percent = 100 * (memory["most"] / memory["least"] - 1)
        result.audio_seconds = after["audio"] - before["audio"]
        result.work_per_second["server"] = _work(before, after)
        process.send_signal(signal.SIGTERM)
        result.exit_code = process.wait(60)
        if alone:
            say(f"{alone} requests in a process each")
            work = _work_of_processes(system, requests[:alone], Path(folder))
            result.work_per_second["a process each"] = work
            result.ratio = work / result.work_per_second["server"]
    return result


@contextmanager
def run_server(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """Run ``wishbone serve`` with options on a free port -> its process, port and log lines.

    The list of lines grows while the server runs. Raises ``WishboneError`` where it does not start.
    """
    command = [sys.executable, "-m", "wishbone", "serve", "--port", "0", *words]
    environment = {k: v for k, v in os.environ.items() if k != "WISHBONE_TOKEN"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    try:
        port = _port_of(process, lines)
        assert process.stderr is not None
        # a pipe that nobody reads would stop the server
        reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        reader.start()
        yield process, port, lines
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _port_of(process: subprocess.Popen[str], lines: list[str]) -> int:
    """Read the log into ``lines`` until the server is ready."""
    timer = threading.Timer(START, process.kill)
    timer.start()
    try:
        for line in process.stderr or ():
            lines.append(line)
            if match := re.search(r"ready at http://\S+:(\d+)", line):
                return int(match[1])
    finally:
        timer.cancel()
    raise WishboneError(
        "The server did not start.", "wishbone serve", " ".join(lines[-3:]) or "See its log."
    )


def _ask(port: int, system: str, text: str, seed: int) -> tuple[bytes, float]:
    """Send a request -> its samples, and seconds until the first of them. Raises ``OSError``."""
    body = {"model": system, "input": text, "seed": seed, "response_format": "pcm"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        begin = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/audio/speech", json.dumps(body), headers)
        answer = connection.getresponse()
        first = answer.read(2)
        took = time.perf_counter() - begin
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {(first + answer.read())[:200]!r}")
        return first + answer.read(), took
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _load(
    result: LoadResult, port: int, requests: Sequence[tuple[str, int]], expected: Sequence[bytes]
) -> None:
    """Let all clients ask until the time is over."""
    end = time.monotonic() + result.seconds
    times: list[float] = []
    lock = threading.Lock()

    def ask_again_and_again(number: int) -> None:
        dice = Random(number)
        while time.monotonic() < end:
            index = dice.randrange(len(requests))
            try:
                samples, first = _ask(port, result.system, *requests[index])
            except OSError as error:
                with lock:
                    result.requests += 1
                    result.failed += 1
                    result.failures = [*result.failures, f"failed: {error}"][:5]
                continue
            with lock:
                result.requests += 1
                result.unequal += samples != expected[index]
                times.append(1000 * first)

    threads = [
        threading.Thread(target=ask_again_and_again, args=(number,))
        for number in range(result.clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(result.settled_after)
    memory = [_metrics(port)["memory"]]
    while any(thread.is_alive() for thread in threads):
        time.sleep(LOOK)
        memory.append(_metrics(port)["memory"])
    result.memory_mib |= {"settled": memory[0], "least": min(memory), "most": max(memory)}
    if times:
        result.first_sound_ms = {
            name: float(np.quantile(times, quantile))
            for name, quantile in (("median", 0.5), ("95 %", 0.95), ("most", 1.0))
        }


def _metrics(port: int) -> dict[str, float]:
    """Memory in MiB, slots, and seconds of processor time and of audio of the server so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()

    def total(name: str) -> float:
        pattern = rf"^{name}(?:\{{[^}}]*\}})? (\S+)$"
        return sum(map(float, re.findall(pattern, text, re.MULTILINE)))

    return {
        "memory": total("process_resident_memory_bytes") / 2**20,
        "work": total("process_cpu_seconds_total"),
        "audio": total("wishbone_audio_seconds_total"),
        "slots": total("wishbone_slots"),
    }


def _work(before: dict[str, float], after: dict[str, float]) -> float:
    """Seconds of processor time per second of audio between two looks at the metrics."""
    return (after["work"] - before["work"]) / max(after["audio"] - before["audio"], 1e-9)


def _work_of_processes(system: str, requests: Sequence[tuple[str, int]], folder: Path) -> float:
    """Seconds of processor time per second of audio of ``wishbone say`` for each request."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = 0.0
    for number, (text, seed) in enumerate(requests):
        path = folder / f"{number}.wav"
        command = [sys.executable, "-m", "wishbone", "say", text, "-o", str(path)]
        subprocess.run(
            [*command, "--system", system, "--seed", str(seed)], check=True, capture_output=True
        )
        seconds += soundfile.info(path).duration
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return work / seconds
