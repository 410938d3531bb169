"""What the documents say about the code is there: paths, functions, tables, states, promises."""

import ast
import re
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from sensor_node.core.model import MessageStatus
from sensor_node.storage.engine import schema
from sensor_node.storage.journal import events
from sensor_node.supervision.states import ChildState

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text()
DATABASE = (DOCS / "database.md").read_text()
PROMISES = (DOCS / "promises.md").read_text()
DOCUMENTS = sorted((*ROOT.glob("*.md"), *DOCS.rglob("*.md")))
# Where a path may begin; reliability.md leaves out where its tests are.
BASES = (ROOT, ROOT / "sensor_node", ROOT / "tests", ROOT / "tests/faults")
TERMINAL_COLUMNS = 80


def new_database():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    return closing(connection)


def tables():
    """Of a new database: the columns of each table and view."""
    with new_database() as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_schema"
            " WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        return {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in names
        }


def described_tables():
    """Of database.md: the first column of the table below each heading `### name`."""
    described = {}
    for part in DATABASE.split("\n### `")[1:]:
        name, _, rest = part.partition("`")
        section = re.split(r"\n##+ ", rest)[0]
        described[name] = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    return described


def blocks(text, language=""):
    """The code blocks of a document that are marked as being in this language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for mark, code in fenced if mark == language]


def section(text, heading):
    """From a heading of the second level to the next."""
    return text.split(f"\n## {heading}")[1].split("\n## ")[0]


@cache
def defined(file):
    """The functions, methods, classes and constants of a module; methods also as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = {sub.name for sub in node.body if isinstance(sub, ast.FunctionDef)}
            names |= methods | {f"{node.name}.{method}" for method in methods}
    return names


def located(path):
    return next((base / path for base in BASES if (base / path).exists()), None)


def named_paths(text):
    """Paths in code spans, each with the function or class named behind it, or "" for none.

    `path`, `path::name` and `path name()`.
    """
    span = re.compile(
        r"`((?:[\w-]+/)+[\w.-]*|[\w-]+\.(?:py|ini|md|cfg))(?:(?:::| )([\w.]+)(?:\(\))?)?`"
    )
    return span.findall(text)


def anchors(document):
    """The places that a link may lead to, as GitHub names them by the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_each_link_leads_to_a_file_and_to_a_heading_of_it(document) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if ":" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", [ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))])
def test_each_page_names_only_files_that_are_there_and_what_they_define(document) -> None:
    for path, name in named_paths(document.read_text()):
        file = located(path)
        assert file, path
        assert not name or name in defined(file), f"{path}::{name}"


class TestTheArchitecturePage:
    def test_leads_through_the_code_by_functions(self) -> None:
        names = named_paths(ARCHITECTURE)
        assert len(names) > 50
        assert sum(bool(name) for _, name in names) > 15

    def test_shows_no_name_behind_a_path_in_a_way_that_is_not_looked_up(self) -> None:
        spans = re.findall(
            r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", ARCHITECTURE, flags=re.M | re.S)
        )
        looked_up = {f"{path}{name}" for path, name in named_paths(ARCHITECTURE)}
        for span in spans:
            if ".py" in span or re.match(r"\w+/", span):
                assert re.sub(r"::| |\(\)", "", span) in looked_up, span


class TestTheDatabasePage:
    def test_has_each_table_and_column_and_no_other(self) -> None:
        assert described_tables() == tables()

    def test_says_which_version_of_the_schema_it_describes(self) -> None:
        assert f"version of the schema: {schema.newest_version()}." in DATABASE
        assert f"`0x{schema.APPLICATION_ID:X}`" in DATABASE

    def test_draws_each_status_and_each_state_of_a_child_in_its_diagram(self) -> None:
        [message] = blocks(section(DATABASE, "The life of a message"))
        with new_database() as connection:
            statuses = {status for (status,) in connection.execute("SELECT status FROM tally")}
        for status in statuses | {status.value for status in MessageStatus}:
            assert re.search(rf"\b{status}\b", message), status
        [child] = blocks(section(DATABASE, "The life of a child process"))
        for state in ChildState:
            assert re.search(rf"\b{state.value}\b", child), state

    @pytest.mark.parametrize("diagram", blocks(DATABASE))
    def test_fits_its_diagrams_into_a_terminal(self, diagram) -> None:
        assert max(map(len, diagram.splitlines())) <= TERMINAL_COLUMNS

    @pytest.mark.parametrize("query", blocks(DATABASE, "sql"))
    def test_shows_queries_that_run(self, query) -> None:
        with new_database() as connection:
            connection.execute("PRAGMA query_only = 1")
            connection.execute(query).fetchall()

    def test_shows_a_query_that_says_that_the_account_holds(self) -> None:
        [query] = [query for query in blocks(DATABASE, "sql") if "AS accounted" in query]
        with new_database() as connection:
            for _ in range(5):
                connection.execute(
                    "INSERT INTO message(name, value, timestamp_us) VALUES ('a', 1, 1)"
                )
            connection.execute("INSERT INTO batch(first_id, last_id, status) VALUES (1, 3, 'SENT')")
            assert connection.execute(query).fetchone() == (5, 5)

    def test_asks_only_for_kinds_of_events_that_there_are(self) -> None:
        [query] = [query for query in blocks(DATABASE, "sql") if "kind IN" in query]
        kinds = re.findall(r"'([\w ]+)'", query.split("kind IN")[1].split(")")[0])
        assert kinds
        assert set(kinds) <= set(events.KINDS)


class TestThePromises:
    def test_have_a_section_each(self) -> None:
        assert re.findall(r"^## (P\d):", PROMISES, re.MULTILINE) == [f"P{n}" for n in range(1, 9)]

    def test_that_code_and_documents_name_are_all_explained(self) -> None:
        explained = set(re.findall(r"^## (P\d):", PROMISES, re.MULTILINE))
        files = [
            *(ROOT / "sensor_node").rglob("*.py"),
            *(ROOT / "tests").rglob("*.py"),
            *DOCS.rglob("*.md"),
        ]
        named = {name for file in files for name in re.findall(r"\bP\d\b", file.read_text())}
        assert named <= explained

    def test_name_tests_that_there_are(self) -> None:
        for promise in PROMISES.split("\n## P")[1:]:
            shown_by = re.findall(r"`(tests/[\w/]+\.py)(?:::([\w.]+))?`", promise)
            assert shown_by, promise[:40]
            for path, name in shown_by:
                assert (ROOT / path).is_file(), path
                assert not name or name in defined(ROOT / path), f"{path}::{name}"
