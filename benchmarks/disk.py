"""Bytes that reach a device: a file system of its own on a loop device, whose counters are read.

Only root may make one. What else writes to the machine's disk is not counted.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.trial import PREFIX, Trial, Unusable

IMAGE_BYTES = 2 * 1024**3  # sparse
SECTOR_BYTES = 512
SECTORS_WRITTEN = 6
# Else the kernel goes on making the file system while the node is measured.
MKFS = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0")


class Disk:
    """Mounted at `place`."""

    def __init__(self, place: Path, device: str) -> None:
        self.place = place
        self._counters = Path("/sys/block", Path(device).name, "stat")

    def written(self) -> int:
        """Bytes so far, with what was still in memory."""
        command("sync", "--file-system", str(self.place))
        return SECTOR_BYTES * int(self._counters.read_text().split()[SECTORS_WRITTEN])


@contextmanager
def own_disk(trial: Trial) -> Iterator[Disk | None]:
    """A fresh ext4; None, and a note why, where that cannot be had."""
    with ExitStack() as stack:
        try:
            own = mounted(stack)
        except Unusable as error:
            trial.note(f"Bytes written by the device's counters: left out; {error}.")
            own = None
        yield own


def mounted(stack: ExitStack) -> Disk:
    """The disk, which `stack` takes away again. Raises Unusable."""
    if os.geteuid():
        raise Unusable("only root may mount an image")
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
    image, place = directory / "image", directory / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    command(*MKFS, str(image))
    device = command("losetup", "--find", "--show", str(image)).strip()
    stack.callback(command, "losetup", "--detach", device)
    command("mount", device, str(place))
    stack.callback(command, "umount", str(place))
    return Disk(place, device)


def command(*words: str) -> str:
    """Its output. Raises Unusable where there is no such program, or it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        raise Unusable(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise Unusable(f"{words[0]} said: {said[-1]}")
    return done.stdout
