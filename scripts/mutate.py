"""Makes mutants of a module: copies of its text with one small mistake each.

Left alone: docstrings, annotations, numbers of module constants (tuning), and lines that only log.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    **{"is": "is not", "is not": "is", "in": "not in", "not in": "in"},
}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*"}
LOGIC = {"and": "or", "or": "and"}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
STATEMENT = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE)\b")
IN_SQL = {
    **{" AND ": " OR ", " OR ": " AND ", " < ": " <= ", " <= ": " < ", " > ": " >= "},
    **{" >= ": " > ", " = 1": " = 0", " = 0": " = 1", " + ": " - ", " - ": " + "},
    **{"max(": "min(", "min(": "max(", " DESC": "", " IS NULL": " IS NOT NULL"},
}
MOST_LETTERS = 60
SQL_TOKEN = re.compile("|".join(map(re.escape, sorted(IN_SQL, key=len, reverse=True))))


@dataclass(frozen=True)
class Mutant:
    """`text`: the whole module with the mistake. `line`: the line where it is, as it was."""

    number: int
    line: str
    change: str
    text: str


def mutants(text: str) -> list[Mutant]:
    """All that differ from `text` and still compile, in the order of their places."""
    source = text.encode()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    found = {}
    for start, end, new in sorted(Edits(source, starts).of(ast.parse(text))):
        mutated = (source[:start] + new.encode() + source[end:]).decode()
        if mutated == text or not compiles(mutated):
            continue
        number = source.count(b"\n", 0, start) + 1
        line = text.splitlines()[number - 1].strip()
        old = textwrap.shorten(source[start:end].decode(), MOST_LETTERS, placeholder=" …")
        change = f"{old} → {new.strip() or 'nothing'}"
        found[mutated] = Mutant(number, line, change, mutated)
    return list(found.values())


def compiles(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


class Edits:
    """Where to put which mistake: first byte, end, and the new text."""

    def __init__(self, source: bytes, starts: list[int]) -> None:
        self._source = source
        self._starts = starts

    def of(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        """Those of the node and all below it."""
        yield from self._own(node)
        for name, child in children(node):
            # A constant of a module is for tuning; an annotation does nothing.
            is_tuning = isinstance(node, ast.Module) and is_number_constant(child)
            if not (name in ("annotation", "returns") or is_tuning or is_log_line(child)):
                yield from self.of(child)

    def _own(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        if isinstance(node, ast.Compare):
            yield from self._between([node.left, *node.comparators], COMPARISONS)
        elif isinstance(node, ast.BoolOp):
            yield from self._between(node.values, LOGIC)
        elif isinstance(node, ast.BinOp):
            yield from self._between([node.left, node.right], ARITHMETIC)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield (self._start(node), self._start(node.operand), "")
        elif isinstance(node, ast.Constant):
            yield from self._constant(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in CALLS:
                yield (self._start(node.func), self._end(node.func), CALLS[node.func.id])
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            for value in ("True", "False"):
                yield (self._start(node.test), self._end(node.test), value)
        elif is_action(node):
            yield (self._start(node), self._end(node), "pass")
        elif isinstance(node, ast.Return) and node.value is not None:
            yield (self._start(node.value), self._end(node.value), "None")

    def _between(
        self, operands: list[ast.expr], others: dict[str, str]
    ) -> Iterator[tuple[int, int, str]]:
        """The operators between operands; brackets and line ends may be beside them."""
        for left, right in itertools.pairwise(operands):
            begin, gap = self._end(left), self._source[self._end(left) : self._start(right)]
            operator = gap.decode().strip("() \n\\")
            if operator in others:
                at = begin + gap.index(operator.encode())
                yield (at, at + len(operator.encode()), others[operator])

    def _constant(self, node: ast.Constant) -> Iterator[tuple[int, int, str]]:
        start, end = self._start(node), self._end(node)
        if isinstance(node.value, bool):
            yield (start, end, str(not node.value))
        elif isinstance(node.value, int | float):
            yield (start, end, repr(node.value + 1))
        elif isinstance(node.value, str) and STATEMENT.search(node.value):
            for token in SQL_TOKEN.finditer(self._source[start:end].decode()):
                at = start + len(self._source[start:end].decode()[: token.start()].encode())
                yield (at, at + len(token[0].encode()), IN_SQL[token[0]])

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)


def children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """With the names of the fields that have them."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def is_number_constant(node: ast.AST) -> bool:
    constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    assigns = isinstance(node, ast.Assign | ast.AnnAssign)
    return assigns and not any(isinstance(one, str) for one in constants)


def is_log_line(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("LOGGER.")


def is_action(node: ast.AST) -> bool:
    """A statement that can be left out: a call, or a value for an attribute."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Attribute) for target in node.targets)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Delete)
