"""Which ARMs there are, and what a virtual machine of one starts from: made once, then cached."""

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import image
import roots
import vm

# The initrd's shell, and what the unit tests import.
PACKAGES = "busybox-static openssl python3-hypothesis python3-pytest python3-responses"
# Of these, the ones that the kernel has as modules. ext4 asks for crc32c by another name.
DRIVERS = (
    "virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio_rng crc32c_generic ext4"
)
DISK_SIZE = "3G"
MEMORY_MB = 1024
TCG = ("-accel", "tcg,thread=multi,tb-size=512")
CONSOLE = "ttyAMA0"


class Arm(NamedTuple):
    foreign: roots.Foreign
    board: vm.Board


ARMS = {
    "arm64": Arm(
        roots.Foreign("arm64", "linux-image-cloud-arm64"),
        vm.Board(("qemu-system-aarch64", *TCG, "-machine", "virt", "-cpu", "cortex-a57"), CONSOLE),
    ),
    "armhf": Arm(
        roots.Foreign("armhf", "linux-image-armmp"),
        vm.Board(
            ("qemu-system-arm", *TCG, "-machine", "virt,highmem=off", "-cpu", "cortex-a15"), CONSOLE
        ),
    ),
}


@contextlib.contextmanager
def root(arm: Arm, name: str) -> Iterator[Path]:
    """A root of the caller's own, with the tests' tools, without Sensor Node."""
    with roots.copy(name, *PACKAGES.split(), foreign=arm.foreign) as path:
        yield path


@contextlib.contextmanager
def booted(arm: Arm, directory: Path, luggage: Path) -> Iterator[vm.Machine]:
    """With the files of the tar archive `luggage` on /dev/vdb; nothing of it stays."""
    made = _image(arm)
    disk = f"file={made.disk},format=raw,snapshot=on,cache=unsafe"
    with vm.Machine(
        made, directory, disk=disk, memory_mb=MEMORY_MB, board=arm.board, luggage=luggage
    ) as machine:
        yield machine


def _image(arm: Arm) -> image.Image:
    pristine = roots.pristine(*PACKAGES.split(), foreign=arm.foreign)
    key = hashlib.sha256(str(pristine).encode())
    for file in (Path(__file__), Path(image.__file__), *sorted(image.GUEST.iterdir())):
        key.update(file.read_bytes())
    prefix = f"disk-{arm.foreign.architecture}-"
    made = roots.cache() / f"{prefix}{key.hexdigest()[:12]}"
    if not made.exists():
        for old in roots.cache().glob(f"{prefix}*/"):
            roots.remove(old)
        half = Path(tempfile.mkdtemp(prefix=f"{prefix}unfinished-", dir=roots.cache()))
        _make(half, arm)
        half.rename(made)
    return image.Image(made / "kernel", made / "initrd", made / "disk")


def _make(target: Path, arm: Arm) -> None:
    with root(arm, "disk") as path, tempfile.TemporaryDirectory() as directory:
        (deb,) = (path / "boot").glob("linux-image-*.deb")
        unpacked = Path(directory) / "kernel"
        subprocess.run(["dpkg-deb", "-x", str(deb), str(unpacked)], check=True)
        deb.unlink()
        (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, target / "kernel")
        modules = unpacked / "lib/modules"
        there = {file.stem.replace("-", "_") for file in modules.rglob("*.ko")}
        drivers = [name for name in DRIVERS.split() if name in there]
        initrd, tree = target / "initrd", Path(directory) / "initrd"
        image.make_initrd(initrd, tree, modules, path / "bin/busybox", drivers)
        image.make_obedient(path)
        image.make_disk(target / "disk", path, DISK_SIZE)
