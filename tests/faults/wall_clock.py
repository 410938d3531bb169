"""A wall clock of a node's own, which a test sets: no other process and no other clock notices.

A library that is loaded before all others adds an offset to CLOCK_REALTIME. The offset is in a
file that every process of the node has mapped, so that setting it takes effect at once.
"""

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset;

__attribute__((constructor)) static void map_offset(void) {
    const char *name = getenv("WALL_CLOCK_OFFSET");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *found = fd < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (found != MAP_FAILED) offset = found;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (!failed && is_wall && offset) now->tv_sec += *offset;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *into) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (into) *into = found.tv_sec;
    return found.tv_sec;
}
"""


class WallClock:
    """`environment` makes a program live by it; `offset`: whole seconds ahead of the true time."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "offset"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(directory / "wall_clock.so"),
            "WALL_CLOCK_OFFSET": str(self._file),
        }

    def set(self, offset: int) -> None:
        # In place, and whole: it is mapped.
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("l", offset))
        self.offset = offset


def make_wall_clock(directory: Path) -> WallClock:
    """Compiles the library; skips the test where no C compiler is."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to make a wall clock with")
    clock = WallClock(directory)
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(SOURCE)
        source.flush()
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", clock.environment["LD_PRELOAD"]]
        subprocess.run([*command, source.name], check=True)
    return clock
