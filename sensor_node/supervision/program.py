"""The program as it was at the start: what it imports later comes from memory, not from the disk.

An upgrade puts other files in the place of a running node's, long before the node is restarted.
"""

import importlib
import importlib.abc
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

# What a worker may import from after it was forked.
LATER = (
    "sensor_node.delivery",
    "sensor_node.processes",
    "sensor_node.sensors",
    "sensor_node.storage",
)


class Program(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads those modules that nobody had imported when it was made."""

    def __init__(self) -> None:
        self._kept = {
            spec.name: (code, spec)
            for package in map(importlib.import_module, LATER)
            for spec in _specs_in(package.__path__, f"{package.__name__}.")
            if spec.name not in sys.modules
            and isinstance(spec.loader, importlib.abc.InspectLoader)
            and (code := spec.loader.get_code(spec.name))
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._kept:
            return None
        origin = self._kept[name][1].origin
        return importlib.util.spec_from_loader(name, self, origin=origin)

    def is_package(self, name: str) -> bool:
        return self._kept[name][1].submodule_search_locations is not None

    def get_code(self, name: str) -> CodeType:
        return self._kept[name][0]

    def get_source(self, name: str) -> None:
        """None: the file that had it may be another's."""


def keep_program() -> None:
    """Raises OSError or SyntaxError where its files are being replaced right now."""
    sys.meta_path.insert(0, Program())


def _specs_in(directories: Sequence[str], prefix: str) -> Iterator[ModuleSpec]:
    """Of all modules there, without importing them."""
    for found in pkgutil.iter_modules(directories, prefix):
        spec = found.module_finder.find_spec(found.name, None)
        if spec is None:
            continue
        yield spec
        if spec.submodule_search_locations:
            yield from _specs_in(spec.submodule_search_locations, f"{found.name}.")
