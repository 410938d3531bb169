"""No database on a network file system, and a warning where it would not survive a reboot."""

import os
import signal

import pytest

from sensor_node.core.errors import DatabaseUnusable
from sensor_node.storage.engine import filesystem
from sensor_node.storage.engine.connection import open_reader
from sensor_node.storage.engine.filesystem import (
    COMPANIONS,
    complaint,
    file_system_of,
    is_read_only,
    resolved,
)
from sensor_node.storage.repository import SensorDataSQLRepository

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard"


def line(point, kind, options="rw", optional="shared:2 master:1"):
    return f"36 22 0:30 / {point} rw,noatime {optional} - {kind} server:/export {options}"


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    """Says what is mounted."""

    def say(*lines):
        text = tmp_path / "mountinfo"
        text.write_bytes(
            "".join(f"{each}\n" for each in (ROOT, *lines)).encode(errors="surrogateescape")
        )
        monkeypatch.setattr(filesystem, "MOUNTS", text)

    return say


@pytest.mark.parametrize("kind", sorted(filesystem.NETWORK_TYPES))
def test_a_network_file_system_is_refused_with_what_to_do(mounts, place, kind):
    mounts(line(place, kind))
    path = place / "telemetry.db"
    with pytest.raises(DatabaseUnusable) as caught:
        SensorDataSQLRepository(path)
    assert str(caught.value) == (
        f"{path}: is on a network file system ({kind}); move [storage] path to a local disk"
    )
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_file_system_in_memory_is_warned_about_but_used(mounts, place, kind):
    mounts(line(place, kind))
    text, refused = complaint(place / "telemetry.db")
    assert (f"is in memory ({kind})" in text, refused) == (True, False)
    SensorDataSQLRepository(place / "telemetry.db").close()


@pytest.mark.parametrize(
    ("options", "read_only"), [("rw,errors=remount-ro", False), ("rw,emergency_ro", True)]
)
def test_a_file_system_that_the_kernel_has_shut_after_an_error_is_read_only(
    mounts, place, options, read_only
):
    mounts(line(place, "ext4", options))
    assert is_read_only(place / "telemetry.db") == read_only


@pytest.mark.parametrize("use", [SensorDataSQLRepository, open_reader])
def test_a_database_that_is_mounted_by_itself_is_refused(mounts, place, use):
    path, link = place / "telemetry.db", place / "link"
    SensorDataSQLRepository(path).close()
    link.symlink_to(path)
    mounts(line(place, "ext4"), line(path, "ext4"))
    for name in (path, link):
        with pytest.raises(DatabaseUnusable) as caught:
            use(name)
        assert str(caught.value) == f"{path}: is mounted by itself; mount its directory instead"


def test_without_proc_the_commands_that_look_still_read_a_database(monkeypatch, tmp_path, place):
    path = place / "telemetry.db"
    SensorDataSQLRepository(path).close()
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "none")
    open_reader(path).close()
    assert (complaint(path), is_read_only(path)) == (("", False), False)


def test_a_link_to_itself_is_refused(place):
    path = place / "telemetry.db"
    path.symlink_to(path)
    with pytest.raises(DatabaseUnusable, match="is a symbolic link to itself; remove it"):
        resolved(path)


def test_a_local_disk_is_not_complained_of(mounts, place):
    mounts(line("/elsewhere", "nfs"))
    assert complaint(place / "telemetry.db") == ("", False)


@pytest.mark.parametrize(
    ("upper", "volatile"), [("/run/upper", True), ("/data/upper", False), ("/runaway/upper", False)]
)
def test_an_overlay_is_as_volatile_as_its_upper_directory(mounts, place, upper, volatile):
    options = f"rw,lowerdir=/a:/b,upperdir={upper},workdir=/run/work"
    mounts(line("/run", "tmpfs"), line(place, "overlay", options))
    text, refused = complaint(place / "telemetry.db")
    assert (bool(text), refused) == (volatile, False)


def test_a_link_is_judged_by_where_it_leads(mounts, place):
    (place / "far").mkdir()
    (place / "near").symlink_to("far")
    mounts(line(place / "far", "nfs"))
    assert complaint(place / "near" / "telemetry.db")[1]


# Which mount holds a path


def kind_of(path, *lines):
    return file_system_of(place_of(path), "\n".join((ROOT, *lines)) + "\n")[0]


def place_of(path):
    return filesystem.Path(path)


def test_the_deepest_mount_point_above_the_path_holds_it():
    deep = (line("/a", "xfs"), line("/a/b", "nfs4"), line("/a/b/c", "btrfs"))
    for order in (deep, deep[::-1]):
        assert [kind_of(path, *order) for path in ("/x", "/a", "/a/b/x", "/a/b/c/d")] == [
            "ext4",
            "xfs",
            "nfs4",
            "btrfs",
        ]


def test_a_name_that_only_begins_like_a_mount_point_is_not_below_it():
    assert kind_of("/database", line("/data", "nfs")) == "ext4"


def test_a_later_mount_hides_an_earlier_one_on_the_same_point():
    assert kind_of("/a", line("/a", "nfs"), line("/a", "xfs")) == "xfs"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (r"/mnt/with\040a\040space", "/mnt/with a space"),
        (r"/mnt/tab\011line\012back\134slash", "/mnt/tab\tline\nback\\slash"),
        ("/mnt/données", "/mnt/données"),
        ("/mnt/データ", "/mnt/データ"),
        ("/mnt/no-utf8-\udce9", "/mnt/no-utf8-\udce9"),
        ("/mnt/odd\u2028\x85\xa0name", "/mnt/odd\u2028\x85\xa0name"),
        (r"/mnt/n\134040ot", r"/mnt/n\040ot"),
    ],
)
def test_mount_points_of_any_name_are_found(mounts, written, path):
    mounts(line(written, "nfs"))
    assert kind_of(f"{path}/x", line(written, "nfs")) == "nfs"
    assert complaint(filesystem.Path(f"{path}/telemetry.db"))[1]


def test_lines_without_optional_fields_and_with_an_empty_source_are_read():
    bare = "36 22 0:30 / /a rw,noatime - tmpfs  rw,size=1m"
    assert file_system_of(place_of("/a/b"), bare) == ("tmpfs", "rw,size=1m")


def test_the_mounts_of_this_machine_can_be_read(place):
    assert complaint(place / "telemetry.db")[1] is False


class TestALink:
    def test_of_roots_or_ones_own_leads_to_the_database(self, tmp_path):
        (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
        assert resolved(tmp_path / "link.db") == tmp_path.resolve() / "real.db"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
    def test_of_another_user_is_refused(self, tmp_path):
        link = tmp_path / "link.db"
        link.symlink_to(tmp_path / "real.db")
        os.chown(link, 65534, 65534, follow_symlinks=False)
        with pytest.raises(DatabaseUnusable, match=r"link\.db: .* another user made; remove it"):
            resolved(link)

    @pytest.mark.parametrize("suffix", COMPANIONS)
    def test_beside_the_database_is_refused(self, tmp_path, suffix):
        (tmp_path / f"real.db{suffix}").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DatabaseUnusable, match="is a symbolic link; remove it"):
            SensorDataSQLRepository(tmp_path / "real.db")
        with pytest.raises(DatabaseUnusable, match="is a symbolic link; remove it"):
            open_reader(tmp_path / "real.db")
        assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_comes_and_goes_is_no_irregular_one(tmp_path):
    """SQLite has a journal for a moment when it makes a database."""
    path = tmp_path / "telemetry.db"
    journal = path.with_name(f"{path.name}-journal")
    pid = os.fork()
    if not pid:
        while True:
            journal.touch()
            journal.unlink()
    try:
        for _ in range(5000):
            assert resolved(path) == path.resolve()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
