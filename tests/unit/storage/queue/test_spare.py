"""Room is kept free before it is needed: a share of the limit, but enough of a small one (P5)."""

import pytest

from sensor_node.storage.queue.room import Space

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "spare"), [(256 * MIB, 12.8 * MIB), (20 * MIB, MIB), (8 * MIB, MIB), (MIB, MIB / 4)]
)
def test_what_is_kept_free_follows_the_limit(limit, spare):
    space = Space(used=0, limit=limit, file_bytes=0, disk_free=0, growth=0, wal_bytes=0, unmoved=0)
    assert space.spare == pytest.approx(spare)
