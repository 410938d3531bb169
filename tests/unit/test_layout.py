"""Who may import whom, so that what must not touch cannot; and files that one can still read."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from sensor_node.sensors import SOURCES

ROOT = Path(__file__).parents[2]
PACKAGE = "sensor_node"
# control → supervision → processes → delivery → storage → config → {sensors, formats} → system
# → core
RANKS = {
    "control": 8,
    "supervision": 7,
    "processes": 6,
    "delivery": 5,
    "storage": 4,
    "config": 3,
    "sensors": 2,
    "formats": 2,
    "system": 1,
    "core": 0,
    "version": 0,
}
# The same within storage: repository → repair → queue → journal → engine
WINGS = {"repository": 4, "repair": 3, "queue": 2, "journal": 1, "engine": 0}
MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 45
HTTP_LIBRARIES = {"requests", "urllib3", "http.client"}
# Of what core may import nothing reads or writes: no file, no socket, no database, no log.
PURE = {
    *(
        "collections.abc",
        "dataclasses",
        "datetime",
        "enum",
        "re",
        "types",
        "typing",
        "urllib.parse",
    ),
}
IMPURE = {"sensor_node.core.clock": {"time"}, "sensor_node.core.schedule": {"backoff"}}


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted((ROOT / PACKAGE).rglob("*.py"))}
TREES = {name: ast.parse(file.read_text()) for name, file in FILES.items()}


def package_of(module):
    """control, storage, …; `version` for sensor_node itself; None for others' modules."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 else "version"


def wing_of(module):
    """engine, queue, … of a module of storage; None for others, and for storage itself."""
    parts = module.split(".")
    return parts[2] if parts[:2] == [PACKAGE, "storage"] and len(parts) > 2 else None


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(tree, *, lazy):
    """Every statement that runs: with `lazy` also those in functions; types only never."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if is_type_checking(node):
            continue
        yield node
        if lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


@cache
def imports_of(module, *, lazy):
    """The modules that a module of ours imports, whole dotted names."""
    found = set()
    for node in statements(TREES[module], lazy=lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    # `from package import name` may mean a module or something in one.
    return {name for name in found if not name.startswith(PACKAGE) or name in FILES}


def reach_of(module, *, lazy):
    """All that is imported with a module, directly or not, ours and others'."""
    reached, pending = set(), [module]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            if name in FILES:
                pending += imports_of(name, lazy=lazy)
                pending += [parent for parent in parents(name) if parent in FILES]
    return reached


def parents(module):
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def is_name_in(name, modules):
    """Whether it is one of the names that `from module import name` adds to its module."""
    return name.rpartition(".")[0] in modules


def test_the_parser_sees_imports_wherever_they_are() -> None:
    worker = "sensor_node.supervision.worker"
    assert "sensor_node.storage.repository" in imports_of(worker, lazy=True)
    assert "sensor_node.storage.repository" not in imports_of(worker, lazy=False)
    network = "sensor_node.processes.network"
    assert "requests" in reach_of(network, lazy=True)
    assert "requests" not in reach_of(network, lazy=False)
    assert len(FILES) > 60


class TestTheArrows:
    @pytest.mark.parametrize("module", FILES)
    def test_point_only_down(self, module) -> None:
        package = package_of(module)
        if package == "sink" or module == f"{PACKAGE}.__main__":
            return
        for name in imports_of(module, lazy=True):
            other = package_of(name)
            if other in (None, package) or (package == "control" and other == "sink"):
                continue
            assert other in RANKS, f"{module} imports {name}"
            assert RANKS[other] < RANKS[package], f"{module} imports {name}"

    @pytest.mark.parametrize("module", [name for name in FILES if wing_of(name)])
    def test_point_only_down_between_the_wings_of_storage(self, module) -> None:
        for name in imports_of(module, lazy=True):
            wing = wing_of(name)
            if wing not in (None, wing_of(module)):
                assert WINGS[wing] < WINGS[wing_of(module)], f"{module} imports {name}"

    def test_leave_out_the_development_sink(self) -> None:
        """It shares values with the rest, and nothing but a command shares anything with it."""
        for module in FILES:
            packages = {package_of(name) for name in imports_of(module, lazy=True)}
            if package_of(module) == "sink":
                assert packages <= {None, "version", "core", "system", "sink"}, module
            elif package_of(module) != "control":
                assert "sink" not in packages, module

    def test_lead_from_capture_to_no_http_however_far_one_follows_them(self) -> None:
        reached = reach_of("sensor_node.processes.sensor_service", lazy=True)
        for source in SOURCES:
            reached |= reach_of(source.module, lazy=True)
        assert not {name for name in reached if package_of(name) == "delivery"}
        assert not reached & HTTP_LIBRARIES

    def test_do_not_join_the_http_client_and_the_repository(self) -> None:
        client = reach_of("sensor_node.delivery.client", lazy=True)
        assert not {name for name in client if package_of(name) == "storage"}
        repository = reach_of("sensor_node.storage.repository", lazy=True)
        assert not {name for name in repository if package_of(name) == "delivery"}

    @pytest.mark.parametrize(
        "module", [name for name in FILES if package_of(name) == "supervision"]
    )
    def test_lead_from_the_supervisor_to_neither_database_nor_network(self, module) -> None:
        """What its children need is imported after the fork."""
        reached = reach_of(module, lazy=False)
        assert not {name for name in reached if package_of(name) in ("storage", "delivery")}
        assert not reached & ({"sqlite3"} | HTTP_LIBRARIES)


class TestCore:
    @pytest.mark.parametrize("module", [name for name in FILES if package_of(name) == "core"])
    def test_does_no_input_or_output(self, module) -> None:
        """The time comes from one class, and one library draws the jitter."""
        others = {name for name in imports_of(module, lazy=True) if package_of(name) is None}
        modules = {name for name in others if not is_name_in(name, others)}
        assert modules <= PURE | IMPURE.get(module, set())

    def test_calls_nothing_builtin_that_opens_a_file_or_a_terminal(self) -> None:
        for module in (name for name in FILES if package_of(name) == "core"):
            calls = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
            names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
            assert not names & {"open", "print", "input", "__import__"}, module


class TestLibraries:
    def test_only_storage_and_the_development_sink_speak_sql(self) -> None:
        users = {package_of(name) for name in FILES if "sqlite3" in imports_of(name, lazy=True)}
        assert users == {"storage", "sink"}

    def test_only_delivery_speaks_http_to_the_sink(self) -> None:
        for name in FILES:
            roots = {imported.split(".")[0] for imported in imports_of(name, lazy=True)}
            if roots & {"requests", "urllib3"} or "http.client" in imports_of(name, lazy=True):
                assert package_of(name) == "delivery", name

    def test_requests_exceptions_are_known_to_one_module(self) -> None:
        users = [name for name, tree in TREES.items() if "RequestException" in ast.unparse(tree)]
        assert users == ["sensor_node.delivery.failures"]

    def test_backoff_is_known_to_one_module(self) -> None:
        users = [name for name in FILES if "backoff" in imports_of(name, lazy=True)]
        assert users == ["sensor_node.core.schedule"]


class TestAProcessThatHasImportedWhatItNeeds:
    """The same once more, by what is really loaded."""

    def loaded(self, *modules):
        program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def test_has_no_database_and_no_network_in_the_supervisor(self) -> None:
        loaded = self.loaded("sensor_node.supervision.appliance")
        assert "sensor_node.supervision.worker" in loaded
        assert not loaded & ({"sqlite3", "psutil"} | HTTP_LIBRARIES)

    def test_has_no_http_in_the_generator(self) -> None:
        loaded = self.loaded(
            "sensor_node.supervision.appliance",
            "sensor_node.processes.sensor_service",
            *(source.module for source in SOURCES),
        )
        assert "sqlite3" in loaded
        assert not loaded & HTTP_LIBRARIES

    def test_has_no_http_in_the_housekeeper(self) -> None:
        assert not self.loaded("sensor_node.processes.housekeeping_service") & HTTP_LIBRARIES

    def test_has_no_backoff_as_long_as_nothing_fails(self) -> None:
        """It brings asyncio: each process would have 2 MiB more, and start 40 ms later."""
        program = """
import os, sys
from sensor_node.core.schedule import BackoffPolicy
from sensor_node.supervision import appliance, worker

def loaded():
    return {"backoff", "asyncio"} & set(sys.modules)

worker.preload()
child = os.fork()
if child == 0:
    import sensor_node.sensors.host
    at_rest = loaded()
    BackoffPolicy(1.0, 2.0, 300.0).delay(1)
    os._exit(0 if not at_rest and loaded() else 1)
assert os.waitpid(child, 0)[1] == 0, "what a worker has"
assert not loaded(), "what the supervisor has"
"""
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 0, done.stderr

    def test_has_only_what_the_command_line_itself_needs(self) -> None:
        loaded = self.loaded("sensor_node.control.main")
        assert not loaded & ({"sqlite3", "psutil", "multiprocessing"} | HTTP_LIBRARIES)


class TestTheSize:
    @pytest.mark.parametrize("module", FILES)
    def test_of_a_file_is_what_one_reads_in_one_go(self, module) -> None:
        assert len(FILES[module].read_text().splitlines()) <= MOST_LINES_OF_A_FILE

    @pytest.mark.parametrize("module", FILES)
    def test_of_a_function_is_what_one_sees_at_once(self, module) -> None:
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_LINES_OF_A_FUNCTION, f"{module}.{node.name}: {lines} lines"

    @pytest.mark.parametrize("module", FILES)
    def test_of_its_job_is_one_line(self, module) -> None:
        docstring = ast.get_docstring(TREES[module])
        assert docstring, module
        assert docstring.splitlines()[0].endswith((".", ":"))
