"""A new version finds the old schema with a backlog, and is killed while it brings it up to date.

There is one schema so far, so the new version is made up: this one with a step more.
"""

import os
import random
import time

from checker import judge
from crash import proc
from crash.node import Node
from sinks import SinkProcess, answer, ok
from waiting import wait_until

from sensor_node.storage.engine.schema import newest_version

KILLS = 4
OLD = newest_version()
MUCH = 2_000_000
# It changes every row, and takes a second or so.
NEW_VERSION = """
from sensor_node.storage.engine import schema

schema.STEPS += ((
    "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
    "ALTER TABLE sink ADD COLUMN mood TEXT NOT NULL DEFAULT 'well'",
    "INSERT INTO note SELECT id, hex(randomblob(20)) FROM message",
    '''CREATE TABLE long AS
       WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000000)
       SELECT n FROM c''',
    "DROP TABLE long",
    "UPDATE message SET timestamp_us = timestamp_us + 0",
),)
"""
OBJECTS = "SELECT count(*) FROM sqlite_schema WHERE name IN ('note', 'long')"
NOTES = "SELECT count(*) FROM note"


class NewNode(Node):
    """The same node after an upgrade."""

    def environment(self) -> dict[str, str]:
        """Python runs sitecustomize.py before anything else."""
        directory = self.file.parent / "new"
        directory.mkdir(exist_ok=True)
        (directory / "sitecustomize.py").write_text(NEW_VERSION)
        old = super().environment()
        return old | {"PYTHONPATH": f"{directory}:{old['PYTHONPATH']}"}


def written(node: Node) -> int:
    """Bytes of the WAL; a transaction as large as the migration writes before its COMMIT."""
    wal = node.database.with_name("telemetry.db-wal")
    return wal.stat().st_size if wal.exists() else 0


def kill_in_the_middle(node: Node, after: float) -> None:
    """Every process of a start that has begun to write, and so many seconds more."""
    with node.background("run"):
        wait_until(lambda: proc.holders(node.writer), what="the migration has begun")
        wait_until(lambda: written(node) > MUCH, what="much of it is written")
        time.sleep(after)
        node.kill_all()


def test_a_migration_killed_again_and_again_leaves_the_old_version_or_the_new_one_whole(tmp_path):
    seed = int(os.environ.get("SEED", random.randrange(1000)))
    moments = random.Random(seed)
    print(f"SEED={seed}")
    with SinkProcess(tmp_path) as sink:
        options = {"sensor": {"rate": 20000}, "sink": {"url": sink.url, "batch_size": 2000}}
        with Node(tmp_path / "node", **options) as old:
            old.start()
            old.await_delivered(2000)
            sink.behave(answer(503))
            backlog = old.await_captured(25_000)
            old.stop()
            old.configure(sensor={"rate": 20})
            new = NewNode(tmp_path / "node", **options)
            new.configure(sensor={"rate": 20})
            interrupted = 0
            for number in range(KILLS):
                kill_in_the_middle(new, moments.uniform(0, 0.5) if number else 0.0)
                if (version := new.one("PRAGMA user_version")) == OLD:
                    interrupted += 1
                    assert new.one(OBJECTS) == 0
                    if number == 0:  # going back is still possible
                        old.start()
                        old.await_captured(backlog + 1)
                        old.stop()
                else:
                    assert (version, new.one(OBJECTS)) == (OLD + 1, 1)
                    assert new.one(NOTES) >= backlog
                assert old.captured() >= backlog
                if version == OLD + 1:
                    break  # it was done before the kill: there is nothing more to interrupt
            assert interrupted, f"no kill of seed {seed} was early enough"
            new.start()
            assert new.one("PRAGMA user_version") == OLD + 1
            assert new.one(NOTES) >= backlog
            sink.behave(ok())
            new.await_delivered()
            new.stop()
            assert new.run("audit").returncode == 0
            verdict = judge(new.database, sink.database)
            verdict.assert_good()
            assert verdict.stored == verdict.captured - verdict.undelivered > backlog
            for command, status in (("start", 78), ("status", 4)):
                refused = old.run(command, status=status)
                assert (
                    f"has schema {OLD + 1}, this program knows {OLD}"
                    in refused.stdout + refused.stderr
                )
            assert old.run("start", status=78).stderr.count("\n") == 1
            new.start()
            new.await_captured(verdict.captured + 5)
            new.stop()
