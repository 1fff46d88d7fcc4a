"""Small wrong changes to Python source, each the kind of slip that a test should notice.

`mutants(source)` lists them in a fixed order; `apply(source, index)` gives the changed syntax tree.
Sites are the nodes of the syntax tree in the order of `ast.walk`; a site has one or two mutants:

    arithmetic   a + b -> a - b, a * b -> a / b, a << b -> a >> b, a & b -> a | b, ...; also a += b
    comparison   a < b -> a <= b (the boundary) and a >= b (the opposite), == -> !=, in -> not in
    boolean      and <-> or; not a -> a; if a -> if not a
    sign         -a -> a
    constant     True <-> False; n -> n + 1; x -> 2 x (0.0 -> 1.0); a compared string -> another one
    name         min <-> max, floor <-> ceil, any <-> all, ... as functions and as methods
    arguments    f(a, b) -> f(b, a)
    return       return a -> return None
    deletion     a statement that is a call, an in-place change or a raise -> pass

Left alone, because a change there is no change of behaviour, or of its words only: docstrings,
annotations, decorators, messages of raised errors, f-strings, `__all__`, `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.MatMult: ast.Mult,
}
_COMPARISON: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_NAMES = {
    a: b
    for pair in (
        ("min", "max"),
        ("amin", "amax"),
        ("minimum", "maximum"),
        ("clamp_min", "clamp_max"),
        ("clamp_min_", "clamp_max_"),
        ("floor", "ceil"),
        ("floor_", "ceil_"),
        ("any", "all"),
        ("zeros", "ones"),
        ("zeros_like", "ones_like"),
        ("add_", "sub_"),
        ("mul_", "div_"),
        ("isnan", "isinf"),
        ("__and__", "__or__"),
    )
    for a, b in (pair, pair[::-1])
} | {"round": "floor", "round_": "floor_", "abs": "neg", "abs_": "neg_"}

# Gives the node that takes the site's place.
Change = Callable[[ast.AST], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """One change: `site` is the position of the changed node in `ast.walk` order."""

    site: int
    variant: int
    operator: str
    line: int
    before: str
    after: str


def _with(**fields: object) -> Change:
    """A copy of the node with other fields."""

    def change(node: ast.AST) -> ast.AST:
        node = copy.copy(node)
        for name, value in fields.items():
            setattr(node, name, value)
        return node

    return change


def _constant(node: ast.Constant, compared: bool) -> object | None:
    value = node.value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 2.0 * value if value and abs(value) != float("inf") else 1.0
    if isinstance(value, str) and compared:
        return value + "?"
    return None


def _changes(node: ast.AST, compared: bool) -> Iterator[tuple[str, Change]]:
    """The mutants of one node: operator name and change."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            yield "arithmetic", _with(op=_ARITHMETIC[type(op)]())
        case ast.Compare(ops=[op, *rest]):
            for other in _COMPARISON[type(op)]:
                yield "comparison", _with(ops=[other(), *rest])
        case ast.BoolOp(op=op):
            yield "boolean", _with(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", lambda _: operand
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "sign", lambda _: operand
        case ast.Constant() if (value := _constant(node, compared)) is not None:
            yield "constant", _with(value=value)
        case ast.Name(id=name) if name in _NAMES:
            yield "name", _with(id=_NAMES[name])
        case ast.Attribute(attr=name) if name in _NAMES:
            yield "name", _with(attr=_NAMES[name])
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", _with(value=ast.Constant(None))
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "boolean", _with(test=ast.UnaryOp(ast.Not(), test))
        case ast.Call(args=[first, second, *others]) if not (
            isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        ) and ast.dump(first) != ast.dump(second):
            yield "arguments", _with(args=[second, first, *others])
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "deletion", lambda _: ast.Pass()


def _hidden(tree: ast.Module) -> set[int]:
    """ids of nodes that are left alone, with everything below them."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                roots += [node.returns, *node.decorator_list]
            case ast.ClassDef():
                roots += node.decorator_list
            case ast.arg() | ast.AnnAssign():
                roots.append(node.annotation)
            case ast.Raise():
                roots.append(node.exc)
            case ast.JoinedStr() | ast.Assert():
                roots.append(node)
            case ast.Expr(value=ast.Constant()):
                roots.append(node)
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                roots.append(node)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                roots.append(node)
    return {id(child) for root in roots if root is not None for child in ast.walk(root)}


def _statement_of(tree: ast.Module) -> dict[int, ast.stmt]:
    """For every node, the innermost statement around it."""
    found: dict[int, ast.stmt] = {}

    def visit(node: ast.AST, statement: ast.stmt | None) -> None:
        if isinstance(node, ast.stmt):
            statement = node
        if statement is not None:
            found[id(node)] = statement
        for child in ast.iter_child_nodes(node):
            visit(child, statement)

    visit(tree, None)
    return found


def _first_line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).split("\n", 1)[0]


def _replace(tree: ast.AST, target: ast.AST, change: Change) -> ast.AST:
    """Put `change(target)` in the place of `target`, in the tree itself."""

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return change(node) if node is target else self.generic_visit(node)

    return ast.fix_missing_locations(Swap().visit(tree))


def mutants(source: str) -> list[Mutant]:
    """Every mutant of `source`, in a fixed order."""
    tree = ast.parse(source)
    hidden, statements = _hidden(tree), _statement_of(tree)
    compared = {
        id(side)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
    }
    found: list[Mutant] = []
    for site, node in enumerate(ast.walk(tree)):
        if id(node) in hidden:
            continue
        for variant, (operator, change) in enumerate(_changes(node, id(node) in compared)):
            statement = statements[id(node)]
            # A change inside a copy of the statement, only to show it.
            shown = copy.deepcopy(statement)
            inner = list(ast.walk(statement)).index(node)
            after = _replace(shown, list(ast.walk(shown))[inner], change)
            line = getattr(node, "lineno", statement.lineno)
            found.append(
                Mutant(site, variant, operator, line, _first_line(statement), _first_line(after))
            )
    return found


def apply(source: str, mutant: Mutant) -> ast.Module:
    """The syntax tree of `source` with `mutant` in it."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[mutant.site]
    compared = True  # only offers more variants, and only of constants, which have one
    change = [change for _, change in _changes(node, compared)][mutant.variant]
    changed = _replace(tree, node, change)
    assert isinstance(changed, ast.Module)
    return changed
