"""Small changes to the source that a test should notice, one line each.

In function bodies alone: Python, Triton's included, by its syntax tree; C++ and CUDA by rules on
the tokens of a line.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`before`, which is line `line` (from 1) of `path`, becomes `after`."""

    path: str
    line: int
    rule: str
    before: str
    after: str

    def apply(self, text: str) -> str:
        """The file with its line replaced."""
        lines = text.split("\n")
        assert lines[self.line - 1] == self.before, f"{self.path} is not what it was"
        lines[self.line - 1] = self.after
        return "\n".join(lines)


COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
SIGNS = {"+": "-", "-": "+", "+=": "-=", "-=": "+="}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
EXTREMES |= {"fmaxf": "fminf", "fminf": "fmaxf", "amax": "amin", "amin": "amax"}


# -- tokens ---------------------------------------------------------------------------------------


def _swap(pattern: str, table: dict[str, str]):
    def changes(line: str) -> Iterator[str]:
        for m in re.finditer(pattern, line):
            yield line[: m.start(1)] + table[m[1]] + line[m.end(1) :]

    return changes


def _next_integer(line: str) -> Iterator[str]:
    for m in re.finditer(r"(?<![\w.'])(\d+)(?![\w.'])", line):
        yield line[: m.start()] + str(int(m[1]) + 1) + line[m.end() :]


def _next_index(line: str) -> Iterator[str]:
    for m in re.finditer(r"(?<=\w)\[([^\[\]{}]+)\](?!\()", line):
        yield line[: m.start(1)] + f"({m[1]}) + 1" + line[m.end(1) :]


def _negated(line: str) -> Iterator[str]:
    m = re.match(r"(\s*(?:\} else )?if )\((.*)\)( \{| continue;| return;| break;)?$", line)
    if m:
        yield f"{m[1]}(!({m[2]})){m[3] or ''}"


def _dropped(line: str) -> Iterator[str]:
    if re.fullmatch(r"\s+(?!return\b)[\w.\->\[\]() +*/&%,:]+ [-+|&]?= .*;", line):
        if not re.match(r"\s+(const|auto|constexpr|using|\w+(<.*>)?[&*]? \w+(\[.*\])? =)", line):
            yield re.match(r"\s+", line)[0] + ";"
    elif re.fullmatch(r"\s+((?!return\b)[\w:.<>]+\(.*\)|continue|break|\+\+\w+);", line):
        yield re.match(r"\s+", line)[0] + ";"


def _without_sign(line: str) -> Iterator[str]:
    for m in re.finditer(r"(?:(?<=[=(,?:] )|(?<=[(\[])|(?<=return ))-(?=[A-Za-z(])", line):
        yield line[: m.start()] + line[m.end() :]


TOKENS = {
    "comparison": _swap(r" (<=|>=|==|!=|<|>) ", COMPARISONS),
    "sign": _swap(r" (\+=|-=|\+|-) ", SIGNS),
    "and, or": _swap(r" (&&|\|\|) ", {"&&": "||", "||": "&&"}),
    "extreme": _swap(r"\b(min|max|fmaxf|fminf|minimum|maximum)(?=[(<])", EXTREMES),
    "constant": _next_integer,
    "index": _next_index,
    "negation": _negated,
    "statement": _dropped,
    "minus": _without_sign,
}
# Not arithmetic: what the compiler checks or counts, messages, launches.
LEFT_OUT = re.compile(r"static_assert|STD_TORCH_CHECK|GGNET_LAUNCH|TORCH_BOX|pragma|asm |template")


def of_tokens(path: str, text: str) -> list[Mutant]:
    """Mutants of a C++ or CUDA file."""
    found = []
    for number, line in _body_lines(text):
        code = line.split("//")[0].rstrip()
        if '"' in code or LEFT_OUT.search(code):
            continue
        for rule, changes in TOKENS.items():
            for after in changes(code):
                found.append(Mutant(path, number, rule, line, after))
    return found


def _body_lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if re.match(r"  +\S", line) and not re.match(r"\s*(//|#|\*)", line):
            yield number, line


# -- Python's syntax tree -------------------------------------------------------------------------

OPERATORS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


def of_python(path: str, text: str) -> list[Mutant]:
    """Mutants of the functions of a Python file, but for messages, annotations and defaults."""
    lines = text.split("\n")
    found = []

    def change(rule: str, line: int, first: int, last: int, new: str) -> None:
        before = lines[line - 1]
        if before.isascii():  # columns are bytes
            after = before[:first] + new + before[last:]
            found.append(Mutant(path, line, rule, before, after))

    def between(rule: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        if left.end_lineno != right.lineno:
            return
        gap = lines[right.lineno - 1][left.end_col_offset : right.col_offset]
        if old in gap:
            first = left.end_col_offset + gap.index(old)
            change(rule, right.lineno, first, first + len(old), new)

    def whole(rule: str, node: ast.AST, new: str) -> None:
        if node.lineno == node.end_lineno:
            change(rule, node.lineno, node.col_offset, node.end_col_offset, new)

    for node in _mutable(ast.parse(text)):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            old = OPERATORS[type(node.ops[0])]
            between("comparison", node.left, node.comparators[0], old, COMPARISONS[old])
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            old = "+" if isinstance(node.op, ast.Add) else "-"
            between("sign", node.left, node.right, old, SIGNS[old])
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            between("and, or", node.values[0], node.values[1], old, new)
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            whole("constant", node, str(node.value + 1))
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            whole("constant", node, str(not node.value))
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in EXTREMES:
                end = node.end_col_offset
                change("extreme", node.end_lineno, end - len(name), end, EXTREMES[name])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            whole("minus", node, ast.unparse(node.operand))
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            whole("negation", node.test, f"(not ({ast.unparse(node.test)}))")
        elif isinstance(node, ast.AugAssign | ast.Continue | ast.Break) or _is_call(node):
            whole("statement", node, "pass")
    return found


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _mutable(tree: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """Nodes of function bodies, without messages and annotations."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.arguments | ast.Import):
            continue
        function = isinstance(child, ast.FunctionDef)
        parts = ("annotation", "returns")
        if any(child is getattr(tree, part, None) for part in parts):
            continue
        if child in getattr(tree, "decorator_list", ()):
            continue
        if inside:
            yield child
        yield from _mutable(child, inside or function)
