"""Lets every test import what tests share: sinks, waiting."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
