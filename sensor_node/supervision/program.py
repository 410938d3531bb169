"""Keeps the program as it was at the start: later imports come from memory, not from the disk.

An upgrade replaces the files of a running node, perhaps long before the node is restarted.
"""

import importlib
import importlib.abc
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

# A worker may import modules of these packages after the fork.
LATER = (
    "sensor_node.delivery",
    "sensor_node.processes",
    "sensor_node.sensors",
    "sensor_node.storage",
)


class Program(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of LATER that were not imported yet when it was made."""

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
        """None: the file on the disk may be another version's."""


def keep_program() -> None:
    """Raises OSError or SyntaxError if the program's files are being replaced right now."""
    sys.meta_path.insert(0, Program())


def _specs_in(directories: Sequence[str], prefix: str) -> Iterator[ModuleSpec]:
    """The specs of all modules in these directories and below, without importing them."""
    for module in pkgutil.iter_modules(directories, prefix):
        spec = module.module_finder.find_spec(module.name, None)
        if spec is None:
            continue
        yield spec
        if spec.submodule_search_locations:
            yield from _specs_in(spec.submodule_search_locations, f"{module.name}.")
