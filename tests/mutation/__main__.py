"""``make mutation``: whether the tests notice small mistakes in code that computes numbers.

A mutant is a file with one mistake: a comparison that is off by its equality, a constant that is off by one,
a sum instead of a difference, a negated condition, a missing statement. A sample of all possible mutants is
drawn. Each runs against the tests of its file in a forked process, which has PyTorch loaded already. Mutants
that no test notices are printed with their change. The score is the share of mutants that a test noticed.
"""

import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
TESTS: Mapping[str, tuple[str, ...]] = {
    "benchmark/images/dataset.py": ("tests/images/test_dataset.py",),
    "benchmark/training/loop.py": ("tests/training/test_loop.py",),
    "benchmark/training/learners.py": (
        "tests/training/test_stages.py::test_gradients_that_are_not_finite_are_a_divergence",
        "tests/training/test_stages.py::test_a_resumed_training_still_knows_when_it_diverges",
        "tests/training/test_stages.py::test_the_learning_rate_scale_is_recorded_and_printed",
        "tests/training/test_stages.py::test_retraining_moves_the_classifier_alone",
        "tests/training/test_meta.py::test_the_classifier_and_what_the_step_learns_change_alone",
        "tests/training/test_reference_loop.py",
        "tests/training/test_stages.py::test_fewer_images_at_once_train_the_same_model",
    ),
}
"""The tests of every file that is mutated, cheap ones first."""

SHARE = {
    "benchmark/images/dataset.py": 16,
    "benchmark/training/loop.py": 16,
    "benchmark/training/learners.py": 12,
}
"""Mutants of each file in a sample."""

LOADED = ("lightning_fabric", "hypothesis", "pycocotools.mask", "scipy.sparse", "torchvision.transforms.v2")
CPU_LIMIT = 120  # seconds of CPU time; a mutant that needs more loops forever and counts as noticed
HANGS = 1800  # seconds after which a mutant counts as noticed because it waits forever
EQUIVALENT = (
    "non_blocking=",  # of copies to a GPU
    "torch.cuda",
    "fabric.barrier()",  # between processes
    "zip(totals, strict=False)",  # one total for each learner
    "total >= self._limit",  # equality of two floats
    "parameter.requires_grad_(False)",  # of what is passed without gradients anyway
    "generator=generator) < flip",  # equality occurs in one draw of 2^24
)
"""Parts of statements, before or after the mistake, whose mutants are the same program in one process on a
CPU."""

COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.Mult}


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake: the changed line before and after, and the whole source."""

    path: str
    line: int
    before: str
    after: str
    source: str


def mutants(path: str) -> Iterator[Mutant]:
    """Every mutant of a file."""
    tree = ast.parse((ROOT / path).read_text())
    number = 0
    while True:
        mutated = copy.deepcopy(tree)
        change = _changed(mutated, number)
        if change is None:
            return
        number += 1
        node, before = change
        known = ast.unparse(node) if not isinstance(node, ast.Pass) else "pass"
        if not any(part in text for part in EQUIVALENT for text in (before, known)):
            yield Mutant(path, node.lineno, before, known, ast.unparse(ast.fix_missing_locations(mutated)))


def _changed(tree: ast.Module, number: int) -> tuple[ast.stmt, str] | None:
    """Make the mistake with this number; returns the changed statement, and the original one as text."""
    counted = 0
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for place, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(item, ast.stmt) or _is_docstring(item) or isinstance(item, _LEFT_OUT):
                    continue
                before = ast.unparse(_head(item))
                for change in _changes(item):
                    if counted == number:
                        changed = change()
                        if changed is not item and place is not None:
                            getattr(parent, name)[place] = changed
                        return (_head(changed) if changed is item else changed), before
                    counted += 1
    return None


_LEFT_OUT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AnnAssign, ast.Assert, ast.Pass)
_WITH_BODY = ("body", "orelse", "finalbody", "handlers")


def _head(statement: ast.stmt) -> ast.stmt:
    """A compound statement without its body."""
    if not any(getattr(statement, name, None) for name in _WITH_BODY):
        return statement
    short = copy.copy(statement)
    for name in _WITH_BODY:
        if hasattr(short, name):
            setattr(short, name, [ast.Pass()] if name == "body" else [])
    return short


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement without those of nested statements and of error messages."""
    queue = [value for name, value in ast.iter_fields(statement) if name not in _WITH_BODY]
    while queue:
        value = queue.pop(0)
        if isinstance(value, list):
            queue = [*value, *queue]
        elif isinstance(value, ast.AST) and not isinstance(value, ast.JoinedStr):
            yield value
            if not isinstance(statement, ast.Raise):
                queue = [item for _, item in ast.iter_fields(value)] + queue


def _changes(statement: ast.stmt) -> Iterator[Callable[[], ast.stmt]]:
    """The possible mistakes in a statement."""
    for node in _own_expressions(statement):
        if isinstance(node, ast.Compare):
            yield lambda node=node: _set(
                statement, node, "ops", [COMPARED[type(node.ops[0])](), *node.ops[1:]]
            )
        elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
            yield lambda node=node: _set(statement, node, "op", COMPUTED[type(node.op)]())
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield lambda node=node, other=other: _set(statement, node, "op", other)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield lambda node=node: _set(statement, node, "operand", ast.UnaryOp(ast.Not(), node.operand))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            value = not node.value if type(node.value) is bool else node.value + 1
            yield lambda node=node, value=value: _set(statement, node, "value", value)
    if isinstance(statement, ast.If | ast.While):
        yield lambda: _set(statement, statement, "test", ast.UnaryOp(ast.Not(), statement.test))
    if isinstance(statement, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break):
        yield lambda: ast.copy_location(ast.Pass(), statement)


def _set(statement: ast.stmt, node: ast.AST, name: str, value: object) -> ast.stmt:
    setattr(node, name, value)
    return statement


class _Finder(importlib.abc.MetaPathFinder):
    """Loads a module from the mutant's source instead of its file."""

    def __init__(self, mutant: Mutant) -> None:
        self.name, self.mutant = mutant.path.removesuffix(".py").replace("/", "."), mutant

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> object:
        if fullname != self.name:
            return None
        source = self.mutant.source

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> object:
                return compile(source, self.path, "exec")

        file = str(ROOT / self.mutant.path)
        return importlib.util.spec_from_file_location(fullname, file, loader=Loader(fullname, file))


def noticed(mutant: Mutant) -> bool:
    """Whether a test fails for the mutant, in a process of its own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, _Finder(mutant))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", "--tb=no"]
        os._exit(int(pytest.main([*options, *TESTS[mutant.path]])))
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in LOADED:
        importlib.import_module(name)
    failed = total = 0
    for path in sys.argv[1:] or SHARE:
        every = list(mutants(path))
        number = min(SHARE[path], len(every))
        drawn = sorted(random.Random(path).sample(every, number), key=lambda mutant: mutant.line)
        results = [noticed(mutant) for mutant in drawn]
        failed, total = failed + sum(results), total + len(results)
        print(
            f"{path}: {sum(results)} of {len(results)} noticed, of {len(every)} that are possible", flush=True
        )
        for mutant in (mutant for mutant, found in zip(drawn, results, strict=True) if not found):
            print(f"  line {mutant.line}\n    - {mutant.before}\n    + {mutant.after}", flush=True)
    print(f"score: {failed} of {total}, {failed / total:.0%}")
    return 0 if failed == total else 1


if __name__ == "__main__":
    sys.exit(main())
