"""A Debian that boots systemd as PID 1, by systemd-nspawn, in a root of its own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import roots
from waiting import wait_until

BOOT_SECONDS = 60.0
POWEROFF_SECONDS = 30.0
RUN_SECONDS = 60.0
GRACE_SECONDS = 5
ENVIRONMENT = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]
# What systemd keeps its units in: cgroup v1, the v2 tree beside it, or v2 alone.
CGROUPS = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]


class Container:
    """`with booted("name") as container: container.run("systemctl status …")`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._leader = 0
        self.console = root.with_name("console")
        # Two systemds that share a cgroup would kill each other's services.
        self._cgroups = [
            Path(tree, root.parent.name) for tree in CGROUPS if Path(tree, "cgroup.procs").exists()
        ]
        for cgroup in self._cgroups:
            cgroup.mkdir()
        with self.console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the test, which then powers it off
            )

    def _command(self, name: str) -> list[str]:
        joins = "; ".join(f"echo $$ >{cgroup}/cgroup.procs" for cgroup in self._cgroups)
        # If the test is killed, nspawn ends the container.
        command = ["sh", "-ec", f'{joins}; exec setpriv --pdeathsig TERM "$@"', "sh"]
        command += ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={name}"]
        command += ["--boot", "--register=no", "--keep-unit", "--link-journal=no"]
        return [*command, "--private-network", "--console=read-only", "--notify-ready=yes"]

    def await_booted(self) -> None:
        wait_until(self._answers, BOOT_SECONDS, "systemd answers", self.console.read_text)
        done = self.run("systemctl is-system-running --wait", check=False, timeout=BOOT_SECONDS)
        failed = self.run("systemctl --failed --no-pager", check=False).stdout
        assert done.stdout.strip() == "running", f"{done.stdout}{failed}"

    def run(
        self,
        command: str | list[str],
        user: str | None = None,
        check: bool = True,
        timeout: float = RUN_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """A shell's command line, or a program's arguments, inside; stderr is kept apart."""
        inside = ["/usr/bin/env", "-i", *ENVIRONMENT]
        if user:
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        inside += ["timeout", "-k", str(GRACE_SECONDS), str(timeout)]
        inside += ["bash", "-c", command] if isinstance(command, str) else command
        done = subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", "--", *inside],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout + 3 * GRACE_SECONDS,
        )
        said = f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def copy_in(self, file: Path, to: str = "/root") -> str:
        """Its path inside."""
        subprocess.run(["cp", str(file), f"{self.root}{to}"], check=True)
        return f"{to}/{file.name}"

    def end(self) -> None:
        """Power off, by force if it must be."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("systemctl poweroff", timeout=GRACE_SECONDS)
            self._nspawn.wait(POWEROFF_SECONDS)
        for pid in self._children():
            os.kill(pid, signal.SIGKILL)  # with PID 1 the kernel kills all of its PID namespace
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nspawn.wait(GRACE_SECONDS)
        self._nspawn.kill()
        self._nspawn.wait()
        for cgroup in self._cgroups:
            wait_until(lambda cgroup=cgroup: _removed(cgroup), what=f"{cgroup} is removed")

    def _children(self) -> list[int]:
        """Of nspawn; at first one that makes PID 1, then PID 1 alone."""
        pid = self._nspawn.pid
        if self._nspawn.poll() is not None:
            return []
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def _answers(self) -> bool:
        assert self._nspawn.poll() is None, self.console.read_text()
        children = self._children()
        if len(children) != 1:
            return False
        self._leader = children[0]
        # Before PID 1 has its mounts, there is nothing to enter.
        return self.run("systemctl show -p Version", check=False, timeout=5).returncode == 0


def _removed(cgroup: Path) -> bool:
    """Its last processes may just be going."""
    for path, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not cgroup.exists()


@contextlib.contextmanager
def booted(name: str, *more: str, suite: str = roots.SUITE) -> Iterator[Container]:
    """A running container in a copy of the pristine root with `more` packages."""
    with roots.copy(name, *more, suite=suite) as root:
        container = Container(root, name)
        try:
            container.await_booted()
            yield container
        finally:
            container.end()
