"""Root file systems of a clean Debian: made once by mmdebstrap, kept in a cache, copied for a test.

The cache is $SENSOR_NODE_CACHE, else /var/cache/sensor-node-tests; delete it to have all made anew.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What an edge box has, and what Sensor Node depends on: containers have no network.
PACKAGES = (
    "systemd systemd-sysv dbus udev libpam-systemd libnss-systemd iproute2 procps ca-certificates"
    " python3 python3-requests python3-urllib3 python3-backoff python3-psutil"
)
SUITE = "bookworm"
# Of apt's settings on this machine, those without which the archive may be out of reach.
CARRIED = re.compile(r"Acquire::(https?::|Check-|Retries|Force|Languages|GzipIndexes)")

# Puts the .deb of a kernel, and nothing else of it, into the root's /boot.
FETCH_KERNEL = (
    'cd "$1/boot" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && apt-get -q'
    " -o APT::Sandbox::User=root download"
    " $(apt-cache depends {kernel} | sed -n 's/.*Depends: \\(linux-image-.*\\)/\\1/p')"
)
# To trust no authority: hashing their certificates takes emulated minutes.
NO_CERTIFICATES = (
    "echo ca-certificates ca-certificates/trust_new_crts select no |"
    ' chroot "$1" debconf-set-selections'
)


class Foreign(NamedTuple):
    """An architecture whose programs run here by binfmt_misc, and the package of its kernel."""

    architecture: str
    kernel: str


def cache() -> Path:
    directory = Path(os.environ.get("SENSOR_NODE_CACHE") or "/var/cache/sensor-node-tests")
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    return directory


def pristine(*more: str, suite: str = SUITE, foreign: Foreign | None = None) -> Path:
    """A root with `more` packages too. It is shared: copy it, never boot or change it.

    What else a copy needs, its apt-get installs after an update: there are no package lists in it.
    A foreign one has its kernel's .deb in /boot.
    """
    packages = sorted({*PACKAGES.split(), *more})
    named = [_sources(suite, foreign), *(foreign or ()), *packages]
    key = hashlib.sha256(" ".join(named).encode()).hexdigest()[:12]
    name = f"{suite}-{foreign.architecture}-{key}" if foreign else f"{suite}-{key}"
    return _made_once(name, suite, packages, foreign)


def minbase(suite: str = SUITE) -> Path:
    """A tarball for piuparts: apt, and systemd, for whose leftovers our package need not answer."""
    key = hashlib.sha256(_sources(suite).encode()).hexdigest()[:12]
    return _made_once(f"{suite}-minbase-systemd-{key}.tar.gz", suite, ["systemd"])


@contextlib.contextmanager
def copy(
    name: str, *more: str, suite: str = SUITE, foreign: Foreign | None = None
) -> Iterator[Path]:
    """A root of the caller's own, removed at the end."""
    source = pristine(*more, suite=suite, foreign=foreign)
    with contextlib.ExitStack() as stack:
        with _locked():
            _remove_stale()
            directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_copies()))
            stack.callback(remove, directory)
            in_use = stack.enter_context((directory / "in-use").open("w"))
            fcntl.flock(in_use, fcntl.LOCK_EX)
        root = directory / "root"
        if _overlay(source, directory, root):
            stack.callback(_unmount, root)
        else:
            subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(root)], check=True)
        yield root


def _remove_stale() -> None:
    """What tests that were killed have left."""
    for directory in _copies().iterdir():
        with (directory / "in-use").open("a") as in_use, contextlib.suppress(BlockingIOError):
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (directory / "root").is_mount():
                _unmount(directory / "root")
            remove(directory)


def _unmount(root: Path) -> None:
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def _overlay(source: Path, directory: Path, root: Path) -> bool:
    """A copy takes a second, or ten beside others; an overlay, where it is possible, takes none."""
    for name in ("upper", "work", "root"):
        (directory / name).mkdir(mode=0o755)
    layers = f"lowerdir={source},upperdir={directory}/upper,workdir={directory}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(root)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def remove(path: Path) -> None:
    """All below, but never into another file system that somebody mounted there."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def _copies() -> Path:
    directory = cache() / "copies"
    directory.mkdir(exist_ok=True)
    return directory


@contextlib.contextmanager
def _locked(name: str = "lock") -> Iterator[None]:
    with (cache() / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made_once(name: str, suite: str, packages: list[str], foreign: Foreign | None = None) -> Path:
    made = cache() / name
    with _locked(f"lock-{foreign.architecture}" if foreign else "lock"):
        if not made.exists():
            half = made.with_name(f"unfinished-{name}")  # the suffix tells mmdebstrap the format
            remove(half)
            _mmdebstrap(half, suite, packages, foreign)
            half.rename(made)
    return made


def _mmdebstrap(target: Path, suite: str, packages: list[str], foreign: Foreign | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        conf, sources = Path(directory) / "apt.conf", Path(directory) / "debian.sources"
        conf.write_text(_apt_conf())
        sources.write_text(_sources(suite, foreign))
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root"]
        # It leaves these settings in the root, as 99mmdebstrap.
        command += [f"--aptopt={conf}", '--customize-hook=echo edge-01 >"$1/etc/hostname"']
        if foreign:
            # Emulated it takes minutes; a power cut is for the roots of this architecture.
            command += [f"--architectures={foreign.architecture}", "--dpkgopt=force-unsafe-io"]
            command.append(f"--essential-hook={NO_CERTIFICATES}")
            command.append(f"--customize-hook={FETCH_KERNEL.format(kernel=foreign.kernel)}")
        if packages:
            command.append(f"--include={','.join(packages)}")
        done = subprocess.run(
            [*command, suite, str(target), str(sources)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        remove(target)
        raise RuntimeError(f"mmdebstrap {suite}: exit {done.returncode}\n{done.stdout}")


def _apt_conf() -> str:
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    return "".join(line for line in dump.stdout.splitlines(True) if CARRIED.match(line))


def _sources(suite: str, foreign: Foreign | None = None) -> str:
    """This machine's own Debian sources, for that suite.

    A foreign root does without security updates: mirrors have those of rare architectures in part.
    """
    one_line, deb822 = Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")
    source, end = (deb822, "\n\n") if deb822.exists() else (one_line, "\n")
    text = source.read_text()
    if foreign:
        text = end.join(one for one in text.split(end) if "-security" not in one)
    return text.replace(SUITE, suite)
