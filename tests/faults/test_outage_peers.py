"""P2, P4, P8: where others lose or repeat records, nothing is lost and nothing stored twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.peers import SPELLS, Result, spell

RATE = 2000


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All spells side by side: much of each is waiting."""

    def short(name: str) -> Result:
        place = tmp_path_factory.mktemp("spell")
        return spell(place, SPELLS[name], rate=RATE, before=0.5, lasts=2.0, after=0.5)

    with ThreadPoolExecutor(len(SPELLS)) as pool:
        return dict(zip(SPELLS, pool.map(short, SPELLS), strict=True))


@pytest.mark.parametrize("name", SPELLS)
def test_a_spell_of_a_bad_sink_loses_nothing_and_stores_nothing_twice(results, name):
    result = results[name]
    found = result.verdict
    print(f"{name}: {result.requests} requests in the spell; {found}")
    found.assert_good()
    assert result.is_good
    assert found.captured >= 3 * RATE
    assert found.stored == found.captured
    # None was repeated but where an answer was lost.
    assert bool(found.stored_twice) == (name == "stored, then connection reset")
