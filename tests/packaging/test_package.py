"""The package as an archive sees it: reproducible, without complaints, installed by its tools."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import package
import pytest
import roots
from box import box

BUILD_SECONDS = 300.0
PIUPARTS_SECONDS = 300.0
AUTOPKGTEST_SECONDS = 1200.0
TESTED_WITH = """autopkgtest dpkg-dev openssl procps python3-hypothesis python3-pytest
python3-pytest-xdist python3-responses"""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
BUILDS = [
    ("/tmp", "0022", {"TZ": "UTC", "LANG": "C"}),
    ("/var/tmp", "0077", {"TZ": "Pacific/Kiritimati", "LANG": "C.UTF-8", "USER": "someone"}),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """dist/ of two builds of the same files, elsewhere, with other surroundings."""
    made = []
    for number, (base, umask, environment) in enumerate(BUILDS):
        checkout = tmp_path_factory.mktemp("build") / ("a" * (number + 1))
        package.checkout(checkout)
        command = ["sh", "-c", f'umask {umask}; exec "$1/scripts/build-deb"', "sh", str(checkout)]
        done = _run(command, BUILD_SECONDS, TMPDIR=base, **environment)
        assert done.returncode == 0, done.stdout
        made.append(checkout / "dist")
    return made


def test_two_builds_elsewhere_give_the_same_bytes(built: list[Path]) -> None:
    for pattern in ("*_all.deb", "*.tar.*", "*.dsc"):
        sums = [_sums(dist, pattern) for dist in built]
        print(sums[0])
        assert sums[0] and sums[0] == sums[1]


def test_lintian_has_nothing_to_say(built: list[Path]) -> None:
    [changes] = built[0].glob("*.changes")
    done = _run(["lintian", "--pedantic", "--info", "--allow-root", str(changes)], 120)
    assert (done.returncode, done.stdout) == (0, "")
    # That the tool sees anything at all: an override that nothing needs is a tag of its own.
    done = _run(["lintian", "--info", "--allow-root", "--no-override", str(changes)], 120)
    assert "sensor-node" in done.stdout


def test_piuparts_passes(deb: Path) -> None:
    """Installs, upgrades, removes and purges it in a bare chroot, and looks at what is left."""
    if os.geteuid() != 0:
        pytest.skip("piuparts needs root")
    command = ["piuparts", f"--basetgz={roots.minbase()}", f"--distribution={roots.SUITE}"]
    command += ["--keep-sources-list", "--no-eatmydata", str(deb)]
    done = _run(command, PIUPARTS_SECONDS)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "PASS: All tests." in done.stdout


@pytest.mark.parametrize("test", ["smoke", "suite"])
def test_autopkgtest_passes_on_a_booted_system(deb: Path, built: list[Path], test: str) -> None:
    """`suite` runs the tests of the source package with Debian's versions of what they need."""
    with box("autopkgtest", more=TESTED_WITH.split()) as made:
        [source], [archive] = (list(built[0].glob(kind)) for kind in ("*.dsc", "*.tar.*"))
        for file in (deb, source, archive):
            made.container.copy_in(file)
        # A container it is, which autopkgtest cannot know inside; its /tmp is in memory.
        options = f"--test-name={test} --ignore-restrictions=isolation-container"
        options += " --env=TMPDIR=/var/tmp"
        files = f"/root/{deb.name} /root/{source.name}"
        command = f"autopkgtest {options} --no-built-binaries {files} -- null"
        done = made.run(command, check=False, timeout=AUTOPKGTEST_SECONDS)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert re.search(rf"^{test} +PASS", said, re.MULTILINE), said
        print(said[-1500:])


def _run(
    command: list[str], timeout: float, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        env={"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def _sums(directory: Path, pattern: str) -> dict[str, str]:
    files = sorted(directory.glob(pattern))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
