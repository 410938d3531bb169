"""Lets every test import what tests share: sinks, waiting."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test of bytes by its place among the others.

    Bytes may differ in each process (gzip writes the time); xdist's workers must agree on names.
    """
    return argname if isinstance(val, bytes) else None
