"""What a virtual machine starts from: kernel, small initrd, and a disk with the package installed.

Made once for each .deb; the cache of roots.py keeps the last two.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import roots

HERE = Path(__file__).parent
GUEST = HERE / "guest"
DISK_SIZE = "1G"
KERNEL = "linux-image-cloud-amd64"
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng")
# Jobs of Debian's own that would run at some moment of a test, above all when its clock jumps.
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer"
    " systemd-tmpfiles-clean.timer e2scrub_reap.service serial-getty@ttyS0.service"
    " getty@tty1.service"
)
SERVICE = """[Unit]
Description={description}
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/agent.py {arguments}
Restart=always
RestartSec=1s
OOMScoreAdjust=-900
[Install]
WantedBy=multi-user.target
"""
MACHINE_ID = "5e4501d0de5e4501d0de5e4501d0de00"


class Image(NamedTuple):
    """`disk` is shared: copy it, or write to a snapshot of it."""

    kernel: Path
    initrd: Path
    disk: Path


def build(deb: Path) -> Image:
    """A minute for a new .deb, else at once."""
    key = hashlib.sha256(str(roots.pristine()).encode())
    for file in (deb, Path(__file__), *sorted(GUEST.iterdir())):
        key.update(file.read_bytes())
    made = roots.cache() / f"vm-{key.hexdigest()[:12]}"
    with (roots.cache() / "vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _forget_old()
            half = Path(tempfile.mkdtemp(prefix="vm-unfinished-", dir=roots.cache()))
            _make(half, deb)
            half.rename(made)
    return Image(made / "kernel", made / "initrd", made / "disk")


def _forget_old() -> None:
    """All but the last one, which another run may be using."""
    found = sorted(roots.cache().glob("vm-*/"), key=lambda made: made.stat().st_mtime)
    for old in found[:-1]:
        roots.remove(old)


def _make(target: Path, deb: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        _make_kernel(target, Path(directory))
    with roots.copy("vm") as root:
        _install(root, deb)
        make_obedient(root)
        make_disk(target / "disk", root)


def _make_kernel(target: Path, work: Path) -> None:
    """The newest cloud kernel of the archive, and an initrd with busybox and the virtio drivers."""
    told = _run("apt-cache", "depends", KERNEL)
    name = next(line.split()[1] for line in told.splitlines() if "Depends: linux-image" in line)
    # As root: where apt's own user may not write.
    _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name, cwd=work)
    (deb,) = work.glob("*.deb")
    _run("dpkg-deb", "-x", str(deb), str(work / "kernel"))
    (kernel,) = (work / "kernel/boot").glob("vmlinuz-*")
    shutil.copy(kernel, target / "kernel")
    make_initrd(target / "initrd", work / "initrd", work / "kernel/lib/modules")


def make_disk(disk: Path, root: Path, size: str = DISK_SIZE) -> None:
    options = ["-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    _run("mke2fs", *options, "-d", str(root), str(disk), size)


def make_initrd(
    initrd: Path,
    tree: Path,
    modules: Path,
    busybox: Path = Path("/bin/busybox"),
    drivers: Iterable[str] = DRIVERS,
) -> None:
    (tree / "modules").mkdir(parents=True)
    order = _with_dependencies(modules, drivers)
    for module in order:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in order))
    shutil.copy(busybox, tree / "busybox")
    shutil.copy(GUEST / "init", tree / "init")
    (tree / "init").chmod(0o755)
    with initrd.open("wb") as file:
        found = subprocess.run(["find", "."], cwd=tree, capture_output=True, check=True).stdout
        pack = ["busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(pack, cwd=tree, input=found, stdout=file, stderr=subprocess.PIPE, check=True)


def _with_dependencies(modules: Path, drivers: Iterable[str]) -> list[Path]:
    """Files of the drivers and of what they need, in the order of loading."""
    files = {file.stem.replace("-", "_"): file for file in modules.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        file = files[name.replace("-", "_")]
        found = re.search(rb"\0depends=([^\0]*)\0", file.read_bytes())  # as modinfo(8) would say
        for needed in found[1].decode().split(",") if found and found[1] else []:
            add(needed)
        if file not in order:
            order.append(file)

    for driver in drivers:
        add(driver)
    return order


def _install(root: Path, deb: Path) -> None:
    """As a person would; nothing can be started in a chroot, as on an image being built."""
    shutil.copy(deb, root / "root")
    install = ["apt-get", "install", "--yes", "--quiet", f"/root/{deb.name}"]
    _run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *install)


def make_obedient(root: Path) -> None:
    """The agent, a fixed machine id (an absent one makes systemd enable all), no timed jobs."""
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text(f"{MACHINE_ID}\n")
    shutil.copy(GUEST / "agent.py", root / "usr/local/lib/agent.py")
    units = root / "etc/systemd/system"
    for name, arguments in (("agent", ""), ("watch", "watch /var/lib/sensor-node/telemetry.db")):
        text = SERVICE.format(description=f"The tests' {name}", arguments=arguments)
        (units / f"test-{name}.service").write_text(text)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "test-agent.service").symlink_to("/etc/systemd/system/test-agent.service")
    for unit in MASKED.split():
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
    return done.stdout
