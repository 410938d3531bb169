"""What a node must hold on an ARM: one step after the other in one virtual machine."""

import base64
import gzip
import json
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from arm import carried
from box import DATABASE, SERVICE, SINK_DATABASE
from vmbox import CHILDREN, VmBox
from waiting import wait_until

LUGGAGE = "/root/luggage"
NODE = "[sensor:temperature]\nrate = {rate}\n[retry]\nmax_delay = 2s\n"
# Emulated, beside others on few cores.
PATIENCE_SECONDS = 180.0
INSTALL_SECONDS = 400.0
LOOK_SECONDS = 30.0
BACKLOG = 50
# The unit that docs/performance.md counts the work of a node in; a reader times it with this.
LOOP = "python3 -m timeit -p -n 1 -r 5 -u sec -s 's = 0' 'for i in range(300000): s += i * i % 7'"
LOOP_SECONDS = re.compile(r"best of \d+: ([\d.]+) sec")
# While the node is looked at, since how fast the guest is changes with what else the host does.
REST = f"for i in 1 2 3 4 5 6; do sleep 3; {LOOP}; done"
# Of the carried database, what the node still owes the sink.
OWED = """
SELECT count(*) FROM message_status
WHERE id <= {last} AND status NOT IN ('SENT', 'DEAD', 'IN_DOUBT')
"""


class Trial:
    """The steps, in their order; each returns its figures, or raises."""

    def __init__(self, box: VmBox, written: carried.Written, directory: Path) -> None:
        self.box = box
        self.written = written
        self.directory = directory

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "installed and started by systemd", self.install
        yield "work at 1 reading/s", self.work
        yield "memory at rest (PSS)", self.memory
        yield "an outage of the sink", self.outage
        yield "kill -9 of each process", self.kill_each
        yield "audit, and the sink's recount", self.recount
        yield "words half written", self.tear
        yield "a database from here goes on there", self.carry_there
        yield "databases from there are good here", self.carry_here

    def install(self) -> str:
        self.box.run(f"mkdir {LUGGAGE} && tar -xf /dev/vdb -C {LUGGAGE}")
        install = f"DEBIAN_FRONTEND=noninteractive apt-get install -y {LUGGAGE}/*.deb"
        self.box.run(install, timeout=INSTALL_SECONDS)
        self._start_sink()
        self.box.ctl("start")
        self.box.await_replaced({})
        self.box.await_captured(5)
        seccomp = self.box.run(f"grep ^Seccomp: /proc/{self.box.main_pid()}/status").stdout
        assert seccomp.split() == ["Seccomp:", "2"], seccomp
        kernel = self.box.run("uname -r").stdout.strip()
        page = int(self.box.run("getconf PAGESIZE").stdout)
        return f"Linux {kernel}, pages of {page // 1024} KiB"

    def work(self) -> str:
        """Seconds of CPU of all processes in a second, by those of the loop on this machine."""
        before = self._cpu_seconds()
        loop = statistics.mean(map(float, LOOP_SECONDS.findall(self.box.run(REST).stdout)))
        after = self._cpu_seconds()
        share = (after[1] - before[1]) / (after[0] - before[0])
        return f"{share / loop:.2f} loops of {loop:.2f} s each second"

    def memory(self) -> str:
        usage = self.box.usage()
        assert usage.keys() == {"supervisor", *CHILDREN}
        return f"{sum(one.pss_mib for one in usage.values()):.1f} MiB"

    def outage(self) -> str:
        self._configure(NODE.format(rate=10))
        self.box.stop_sink()
        self._await_sink("DOWN")
        self.box.await_captured(BACKLOG)
        ((waiting,),) = self.box.query("SELECT count(*) FROM message WHERE status != 'SENT'")
        assert waiting >= BACKLOG, waiting
        self._start_sink()
        self.box.await_delivered(PATIENCE_SECONDS)
        self._await_sink("UP")
        return f"{waiting} readings waited, all delivered"

    def kill_each(self) -> str:
        victims = (*CHILDREN, "supervisor")
        for victim in victims:
            before = self.box.pids()
            self.box.kill(before[victim])
            self.box.await_replaced(before, *(before if victim == "supervisor" else [victim]))
            self.box.await_captured()
        return f"{len(victims)} kills, all came back"

    def recount(self) -> str:
        count = self.box.assert_nothing_lost(PATIENCE_SECONDS)
        self._fetch("own")
        return f"{count} readings, each once"

    def tear(self) -> str:
        script = f"python3 {LUGGAGE}/torn_words.py {LOOK_SECONDS}"
        told = json.loads(self.box.run(script).stdout)
        assert told["ill"] == 0, told
        assert min(told["looks"], told["rounds"]) > 1000, told
        return f"{told['looks']} looks, {told['rounds']} rounds, none ill"

    def carry_there(self) -> str:
        """What was in flight on the build machine has no owner here, and is tried again."""
        written = self.written
        self.box.run(f"systemctl stop sink && rm {SINK_DATABASE} {DATABASE}*")
        place = f"install -o {SERVICE} -g {SERVICE} -m 640 {LUGGAGE}/{written.file.name} {DATABASE}"
        self.box.run(place)
        assert dict(self.box.query(carried.COUNTS)) == written.counts
        assert self.box.status()["counts"]["captured"] == written.last
        self.box.ctl("audit")
        self._start_sink()
        self._configure(NODE.format(rate=1))
        self._await_owed()
        self.box.ctl("requeue", "--dead", "--in-doubt")
        self._await_owed()
        self.box.await_captured()
        self.box.ctl("stop")
        self.box.ctl("audit")
        content = carried.CONTENT.format(last=written.last)
        assert tuple(self.box.query(content)[0]) == written.content
        ((stored, ids),) = self.box.query(
            "SELECT count(*), count(DISTINCT id) FROM message", SINK_DATABASE
        )
        ((sent,),) = self.box.query("SELECT count(*) FROM message WHERE status = 'SENT'")
        assert stored == ids == sent - written.counts["SENT"]
        self._fetch("carried")
        kinds = f"{sum(written.counts.values())} readings in {len(written.counts)} statuses"
        return f"{kinds}, {stored} delivered"

    def carry_here(self) -> str:
        counts = [carried.audit(self.directory / f"{name}.db") for name in ("own", "carried")]
        return f"{counts[0]} and {counts[1]} readings, audits good"

    def _start_sink(self) -> None:
        """Python takes its time to start."""
        self.box.run("systemctl reset-failed sink", check=False)
        command = f"sensor-node-ctl sink --port 8470 --db {SINK_DATABASE}"
        self.box.run(f"systemd-run --quiet --unit=sink {command}")
        greeting = "journalctl --no-pager -o cat _SYSTEMD_INVOCATION_ID="
        greeting += self.box.show("InvocationID", "sink")
        wait_until(
            lambda: "listening" in self.box.run(greeting).stdout,
            PATIENCE_SECONDS,
            "the sink listens",
            self.box.story,
        )

    def _configure(self, text: str) -> None:
        self.box.configure(text)
        self.box.run(f"systemctl restart {SERVICE}")
        self.box.await_replaced({})

    def _await_sink(self, state: str) -> None:
        wait_until(
            lambda: self.box.query("SELECT state FROM sink") == [[state]],
            PATIENCE_SECONDS,
            f"the sink is {state}",
            self.box.story,
        )

    def _await_owed(self) -> None:
        owed = OWED.format(last=self.written.last)
        wait_until(
            lambda: self.box.query(owed) == [[0]],
            PATIENCE_SECONDS,
            "what was carried is delivered",
            self.box.story,
        )

    def _cpu_seconds(self) -> tuple[float, float]:
        """The guest's time, and what all processes have had of its CPUs by then."""
        stats = " ".join(f"/proc/{pid}/stat" for pid in self.box.pids().values())
        told = self.box.run(f"cat /proc/uptime {stats}").stdout.splitlines()
        ticks = sum(sum(map(int, line.rpartition(")")[2].split()[11:13])) for line in told[1:])
        return float(told[0].split()[0]), ticks / 100

    def _fetch(self, name: str) -> None:
        """The node's database, of a node that is stopped."""
        told = self.box.run(f"gzip -c {DATABASE} | base64 -w0").stdout
        (self.directory / f"{name}.db").write_bytes(gzip.decompress(base64.b64decode(told)))
