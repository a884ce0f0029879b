"""Figures of the source that may only improve: complexity, sizes of classes, names of constants."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import neglog

SOURCE = Path(neglog.__file__).parent
MAX_COMPLEXITY = 10
MAX_METHODS = 25
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.match_case)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def trees():
    files = sorted(SOURCE.rglob("*.py"))
    return [(f.relative_to(SOURCE).as_posix(), ast.parse(f.read_text(encoding="utf-8"))) for f in files]


def complexity(function):
    """McCabe's number of paths, with boolean operators and comprehensions; inner functions are apart."""
    paths, inside = 1, list(ast.iter_child_nodes(function))
    while inside:
        node = inside.pop()
        if isinstance(node, FUNCTIONS):
            continue
        paths += isinstance(node, BRANCHES)
        paths += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        paths += 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
        inside += ast.iter_child_nodes(node)
    return paths


def test_functions_are_simple():
    found = {
        f"{file} {node.name}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and complexity(node) > MAX_COMPLEXITY
    }
    assert found == set()


def test_classes_are_small():
    found = {
        f"{file} {node.name}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(each, ast.FunctionDef) for each in node.body) > MAX_METHODS
    }
    assert found == set()


def test_no_constant_name_has_two_meanings():
    values = defaultdict(set)
    for _, tree in trees():
        for node in tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id.isupper():
                values[target.id].add(ast.unparse(node.value))
    assert {name for name, found in values.items() if len(found) > 1} == set()


def test_private_names_of_torch_are_in_one_module():
    private = re.compile(r"torch\._|from torch[\w.]*\._|from torch[\w.]* import \(?_")
    found = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if private.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"internals.py"}
