"""The program of scripts/test-arm. Arguments: seconds that it may take, and architectures."""

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import package
import roots
from arm import binfmt, carried, machine
from arm.worker import Luggage, Told, Worker

# To end, to unmount and to let go.
GRACE_SECONDS = 20.0
FORK = multiprocessing.get_context("fork")


def main() -> int:
    """0: everything held; 1: something did not, or was not done in time."""
    began = time.monotonic()
    end = began + float(sys.argv[1])
    names = list(dict.fromkeys(sys.argv[2:])) or list(machine.ARMS)
    # To be interrupted is to unmount and to end what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="sensor-node-arm-"))
    try:
        with alone(), binfmt.registered(names):
            told, done = try_all(names, directory, end)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        shutil.rmtree(directory)
    print_table(names, told)
    say(f"tried for {(time.monotonic() - began) / 60:.0f} minutes")
    for name in set(names) - done:
        say(f"{name}: not done in time")
    bad = [one for one in told if not one.good]
    for one in bad:
        say(f"{one.name}: {one.step}: FAILED, see above")
    return 0 if done == set(names) and not bad else 1


def say(text: str) -> None:
    print(f"test-arm: {text}", flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two runs would take away each other's binary formats."""
    with (roots.cache() / "arm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_all(names: list[str], directory: Path, end: float) -> tuple[list[Told], set[str]]:
    """What all tell, and who came to its end."""
    luggage = pack(directory)
    workers, readers = {}, []
    for place, name in enumerate(names):
        reader, teller = FORK.Pipe(duplex=False)
        worker = Worker(name, luggage, directory / name, teller)
        workers[name] = FORK.Process(target=worker.work, kwargs={"units_first": place % 2 == 1})
        workers[name].start()
        teller.close()
        readers.append(reader)
    try:
        told = list(hear(readers, end))
    finally:
        for process in workers.values():
            stop(process)
    return told, {name for name, process in workers.items() if process.exitcode == 0}


def pack(directory: Path) -> Luggage:
    written = carried.write(directory / "carried.db")
    archive = directory / "luggage.tar"
    with tarfile.open(archive, "w") as tar:
        for file in (package.current(), written.file, Path(__file__).with_name("torn_words.py")):
            tar.add(file, file.name)
    return Luggage(archive, written)


def hear(readers: list[Connection], end: float) -> Iterator[Told]:
    """Step by step, until the last worker has ended or the time is over."""
    left = list(readers)
    while left and (seconds := end - time.monotonic()) > 0:
        for reader in [one for one in left if one in wait(left, seconds)]:
            try:
                told: Told = reader.recv()
            except EOFError:
                left.remove(reader)
                continue
            verdict = told.text if told.good else f"FAILED\n{told.text}"
            say(f"{told.name}: {told.step}: {verdict} ({told.seconds:.0f} s)")
            yield told


def stop(process: multiprocessing.process.BaseProcess) -> None:
    """One that is not done clears up; then nothing of it may be left."""
    assert process.pid
    if process.is_alive():
        os.kill(process.pid, signal.SIGTERM)
        process.join(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def print_table(names: list[str], told: list[Told]) -> None:
    steps = list(dict.fromkeys(one.step for one in told))
    cells = {(one.step, one.name): one.text if one.good else "FAILED" for one in told}
    rows = [["", *names]]
    rows += [[step, *(cells.get((step, name), "not done") for name in names)] for step in steps]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
