"""SQL is made of what stands in the code; what comes from elsewhere is bound to it as a value.

A text that is sent, or that has SQL's words in it, is put together of nothing but literals,
constants, enums, numbers, what is annotated as LiteralString, and what functions annotated so
return. That nothing else is given to or comes out of these is looked at here, too: mypy takes
LiteralString for str. Migrations are not looked at.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "shared/taskflow",
    "services/api/taskflow_api",
    "services/consumer/taskflow_consumer",
    "services/scheduler/taskflow_scheduler",
)
SENDING = {"execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "prepare"}
SENDING |= {"cursor", "copy_from_query", "exec_driver_sql"}
SENT_AS = {"query", "command", "statement"}
BY_SQLALCHEMY = {"text", "literal_column"}
SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|FROM \w+|WHERE|AND|OR|CASE|ORDER BY|SET"
    r" LOCAL)\b"
)
CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]+")
ENUMS = {"DatabaseRole", "JobEvent", "JobState"}
FIXED_TYPES = {"LiteralString", "int", *ENUMS}
VOUCHED_FOR = {
    "state_list": "made of members of JobState",
    "_in_states": "made of members of JobState",
    "_uuid_text": "refuses what is no UUID",
    "_numbered": "made of the invariants' own files",
    "self._renew_statement": "comes from the consumer, which is of the same code",
    "self._beat_statement": "the same",
    "self._surrender_statement": "the same",
}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Takers: TypeAlias = Mapping[str, Mapping[str, int | None]]
"""By a function's name its LiteralString parameters, each with its place unless it has none."""


class Source:
    """A module whose texts are looked at.

    `builders` are the functions that return fixed ones, `takers` those that are given some.
    """

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.nodes = list(ast.walk(self.tree))
        functions = [node for node in self.nodes if isinstance(node, Function)]
        self.own_builders = {
            node.name for node in functions if "LiteralString" in _text(node.returns)
        }
        self.builders = self.own_builders
        # A module that has both sends texts by asyncpg.
        self._is_of_sqlalchemy = "from sqlalchemy" in text and "import asyncpg" not in text
        self._parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.own_takers = {
            self._name_to_call(each): taken for each in functions if (taken := _taken_by(each))
        }
        self.takers: Takers = self.own_takers
        self.imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in self.nodes
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def unbound(self) -> Iterator[ast.expr]:
        """The texts that could have something else in them."""
        for node in self.nodes:
            for text in self._texts_of(node):
                if not self._is_fixed(text):
                    yield text

    def _texts_of(self, node: ast.AST) -> Iterator[ast.expr]:
        """What has to be fixed of this node."""
        match node:
            case ast.Call():
                yield from self._given_by(node)
            case ast.AnnAssign(annotation=ast.Name(id="LiteralString"), value=ast.expr() as value):
                if _text(node.target) not in VOUCHED_FOR:
                    yield value
            case ast.Return(value=ast.expr() as value):
                function = self._function(node)
                if function.name not in VOUCHED_FOR and function.name in self.own_builders:
                    yield value
        if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Call) and _is_sql(node):
            yield node

    def _given_by(self, call: ast.Call) -> Iterator[ast.expr]:
        name = _called(call)
        if name in BY_SQLALCHEMY:
            yield from call.args[:1]
        elif name in SENDING:
            named = [each.value for each in call.keywords if each.arg in SENT_AS]
            for sent in call.args[:1] or named:
                # What is no text SQLAlchemy binds by itself, and a bare text it doesn't take.
                if not (self._is_of_sqlalchemy and isinstance(sent, ast.Call | ast.Name)):
                    yield sent
        else:
            for parameter, place in self.takers.get(name, {}).items():
                yield from _arguments(call, parameter, place)

    def _name_to_call(self, function: Function) -> str:
        parent = self._parents[function]
        if isinstance(parent, ast.ClassDef) and function.name == "__init__":
            return parent.name
        return function.name

    def _is_fixed(self, node: ast.expr) -> bool:  # noqa: C901, PLR0911 - a case for each kind
        match node:
            case ast.Constant():
                return True
            case ast.JoinedStr(values=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                return all(map(self._is_fixed, parts))
            case ast.List(elts=parts):
                return all(map(self._is_fixed, parts))
            case ast.FormattedValue(value=part):
                return self._is_fixed(part)
            case ast.BinOp(left=left, op=ast.Add() | ast.BitOr() | ast.Sub(), right=right):
                return self._is_fixed(left) and self._is_fixed(right)
            case ast.IfExp(body=body, orelse=otherwise):
                return self._is_fixed(body) and self._is_fixed(otherwise)
            case ast.GeneratorExp(elt=part) | ast.ListComp(elt=part):
                return self._is_fixed(part)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._is_fixed_attribute(node, name)
            case ast.Attribute(value=ast.Name(id=name)):
                return name in ENUMS
            case ast.Name(id=name):
                return CONSTANT.fullmatch(name) is not None or self._is_fixed_name(node, name)
            case ast.Call(
                func=ast.Name(id="sorted") | ast.Attribute(value=ast.Constant(), attr="join"),
                args=[joined],
            ):
                return self._is_fixed(joined)
            case ast.Call(func=ast.Name(id=name)):
                # What it is given is looked at by itself.
                return name in VOUCHED_FOR or name in self.builders
        return False

    def _is_fixed_name(self, node: ast.AST, name: str) -> bool:
        """By its parameter's type, or by all that is ever put under it where it is seen."""
        while not isinstance(node, ast.Module):
            node = self._parents[node]
            if not isinstance(node, Function | ast.GeneratorExp | ast.ListComp):
                continue
            values = list(_values(node, name))
            types = _parameter_types(node) if isinstance(node, Function) else {}
            if name in types or values:
                is_typed = types.get(name, "LiteralString") in FIXED_TYPES
                return is_typed and all(map(self._is_fixed, values))
        return False

    def _is_fixed_attribute(self, node: ast.AST, name: str) -> bool:
        while not isinstance(node, ast.ClassDef | ast.Module):
            node = self._parents[node]
        values = list(_values(node, f"self.{name}"))
        return bool(values) and all(map(self._is_fixed, values))

    def _function(self, node: ast.AST) -> Function:
        while not isinstance(node, Function):
            node = self._parents[node]
        return node


def _parameter_types(function: Function) -> dict[str, str]:
    of = function.args
    parameters = (*of.posonlyargs, *of.args, *of.kwonlyargs)
    return {each.arg: _text(each.annotation) for each in parameters}


def _taken_by(function: Function) -> dict[str, int | None]:
    by_place = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if by_place[:1] in (["self"], ["cls"]):
        del by_place[0]
    return {
        name: by_place.index(name) if name in by_place else None
        for name, type_ in _parameter_types(function).items()
        if type_ == "LiteralString"
    }


def _arguments(call: ast.Call, parameter: str, place: int | None) -> Iterator[ast.expr]:
    """What a call gives for a parameter, or may give for it by `*` or `**`."""
    if place is not None:
        yield from call.args[place : place + 1]
        yield from (each for each in call.args[:place] if isinstance(each, ast.Starred))
    yield from (each.value for each in call.keywords if each.arg in {parameter, None})


def _values(node: ast.AST, name: str) -> Iterator[ast.expr]:
    """What is put under a name within a node; for a loop, what it goes through."""
    for each in ast.walk(node):
        match each:
            case ast.AnnAssign(annotation=ast.Name(id="LiteralString"), target=target):
                if name in _names(target):
                    yield ast.Constant("")  # its value is looked at by itself
            case ast.Assign(value=value, targets=targets):
                if any(name in _names(target) for target in targets):
                    yield value
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.NamedExpr(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
                | ast.AugAssign(target=target, value=value)
            ):
                if name in _names(target):
                    yield value


def _names(target: ast.expr) -> list[str]:
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    return [ast.unparse(part) for part in parts]


def _text(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _is_sql(node: ast.expr) -> bool:
    """Whether it puts together, from several parts, a text with SQL's words in it."""
    match node:
        case ast.JoinedStr(values=parts):
            pass
        case ast.BinOp(op=ast.Add() | ast.Mod(), left=left, right=right):
            parts = [left, right]
        case ast.Call(func=ast.Attribute(value=text, attr="format" | "join" | "replace")):
            parts = [text]
        case _:
            return False
    texts = (part.value for part in parts if isinstance(part, ast.Constant))
    return any(isinstance(text, str) and SQL.search(text) for text in texts)


FUNCTION = """
def quoted(name: LiteralString) -> LiteralString:
    return f"({{name}})"

async def by_job(c, query: LiteralString, *, of: LiteralString = "") -> None:
    await c.fetch(query, of)

class Session:
    def __init__(self, begin: LiteralString) -> None:
        self._begin = begin

async def f(c, {}):
    {}
"""


def test_nothing_but_what_is_fixed_becomes_part_of_sql() -> None:
    sources = {
        path.relative_to(ROOT.joinpath(package).parent): Source(path.read_text())
        for package in PACKAGES
        for path in ROOT.joinpath(package).rglob("*.py")
    }
    builders = set().union(*(source.own_builders for source in sources.values()))
    takers = {
        (".".join(path.with_suffix("").parts), name): taken
        for path, source in sources.items()
        for name, taken in source.own_takers.items()
    }
    found = []
    for path, source in sources.items():
        source.builders = builders
        source.takers = source.own_takers | {
            name: takers[origin] for name, origin in source.imported.items() if origin in takers
        }
        found += [f"{path}:{node.lineno}: {_text(node)[:200]}" for node in source.unbound()]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        'await c.execute(f"SELECT {name}")',
        'await c.fetch("SELECT " + name)',
        'await c.fetch("SELECT %s" % name)',
        'await c.fetch("SELECT {}".format(name))',
        "await c.fetchval(name)",
        'query = f"DELETE FROM jobs WHERE name = {name}"',
        'query = " ORDER BY ".join([name])',
        'query = "SELECT 1"; query += name; await c.execute(query)',
        'query = "SELECT " + quoted(name)',
        "query = text(name)",
        'await c.execute(f"SELECT {self.name}")',
        "await c.execute(query=name)",
        "await by_job(c, name)",
        "await by_job(c, query=name)",
        'await by_job(c, "SELECT 1", of=name)',
        "await by_job(*name)",
        "await by_job(c, **name)",
        "Session(name)",
        "quoted(name)",
        "query: LiteralString = name; await c.execute(query)",
    ],
)
def test_what_is_not_fixed_is_found(code: str) -> None:
    for name in ("name", "name: str", "name: Any"):
        assert list(Source(FUNCTION.format(name, code)).unbound())


@pytest.mark.parametrize(
    "code",
    [
        'await c.fetch("SELECT $1", other)',
        'await c.fetch(f"SELECT {quoted(name)} FROM jobs {_WHERE}")',
        'query = "SELECT 1"; query += name; await c.execute(query)',
        'await c.execute(" AND ".join(f"{name} = {column}" for column in ("a", "b")))',
        "query = f\"SELECT state = '{JobState.RUNNING}'\"",
        "await by_job(c, name, of=quoted(name)); Session(name)",
        'query: LiteralString = name; await c.execute(query + " LIMIT 1")',
    ],
)
def test_what_is_fixed_is_let_through(code: str) -> None:
    assert not list(Source(FUNCTION.format("name: LiteralString, other", code)).unbound())


def test_a_parameter_is_given_nothing_else_within() -> None:
    code = "name = {}; await c.execute(name)"
    assert list(
        Source(FUNCTION.format("name: LiteralString, other", code.format("other"))).unbound()
    )
    fixed = FUNCTION.format("name: LiteralString, other", code.format('"SELECT 1"'))
    assert not list(Source(fixed).unbound())


def test_beside_sqlalchemy_asyncpg_is_sent_no_text_unlooked_at() -> None:
    code = "from sqlalchemy import x\n" + FUNCTION.format("name: str", "await c.execute(name)")
    assert not list(Source(code).unbound())
    assert list(Source("import asyncpg\n" + code).unbound())


def test_a_builder_returns_nothing_else() -> None:
    builder = "def f(name: {}) -> LiteralString:\n    return name"
    assert list(Source(builder.format("str")).unbound())
    assert not list(Source(builder.format("LiteralString")).unbound())
