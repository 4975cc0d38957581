"""Does the suite notice a broken line? Single-line mutations of engine and core, drawn by a seed.

Each is made in a copy of the checkout: a comparison turned round, an operator exchanged, a number
moved by one, a truth value negated, a returned value of its own sign. The tests of engine, core,
causal and circuits run until the first fails. A mutation that none notices is printed with its
line: a gap, or a line that does not matter.

    python benchmarks/mutations.py --n 50 --seed 0
"""

import ast
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
WHERE = ("interp/engine", "interp/core")
TESTS = ("tests/core", "tests/engine", "tests/causal", "tests/circuits")
SWAPS: dict[type, type] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutation:
    """A line of a file, as it was and as it becomes."""

    file: str
    line: int
    before: str
    after: str


def mutations(path: Path) -> Iterator[Mutation]:
    """All that this file has, on lines of their own."""
    text = path.read_text()
    lines = text.split("\n")
    tree = ast.parse(text)
    types = {id(part) for one in ast.walk(tree) for part in _annotation(one)}
    for node in (node for node in ast.walk(tree) if id(node) not in types):
        for changed in _changed(node):
            if node.lineno != node.end_lineno:  # pyright: ignore[reportAttributeAccessIssue]
                continue
            number, start, end = node.lineno, node.col_offset, node.end_col_offset  # pyright: ignore
            line = lines[number - 1]
            raw = line.encode()
            after = (raw[:start] + f"({changed})".encode() + raw[end:]).decode()
            yield Mutation(str(path.relative_to(ROOT)), number, line.strip(), after.strip())


def _annotation(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a node's annotation; types are not run."""
    for name in ("annotation", "returns"):
        if isinstance(found := getattr(node, name, None), ast.AST):
            yield from ast.walk(found)


def _changed(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare(left, [op], [right]) if type(op) in SWAPS:
            yield ast.unparse(ast.Compare(left, [SWAPS[type(op)]()], [right]))
        case ast.BinOp(left, op, right) if type(op) in SWAPS and not _texts(left, right):
            yield ast.unparse(ast.BinOp(left, SWAPS[type(op)](), right))
        case ast.BoolOp(op, values):
            yield ast.unparse(ast.BoolOp(SWAPS[type(op)](), values))
        case ast.Constant(value) if isinstance(value, int) and not isinstance(value, bool):
            yield str(value + 1)
        case ast.UnaryOp(ast.Not(), operand):
            yield ast.unparse(operand)


def _texts(*nodes: ast.expr) -> bool:
    """Types and texts are joined with operators too."""
    kinds = (ast.Name, ast.Attribute, ast.Subscript)
    return all(isinstance(n, kinds) and ast.unparse(n)[:1].isupper() for n in nodes) or any(
        isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", 0), str) for n in nodes
    )


def killed(mutation: Mutation, copy: Path, limit: int) -> str:
    """The test that noticed; "time" if none ended; nothing if all passed."""
    path = copy / mutation.file
    lines = path.read_text().split("\n")
    original = lines[mutation.line - 1]
    indent = original[: len(original) - len(original.lstrip())]
    path.write_text(
        "\n".join([*lines[: mutation.line - 1], indent + mutation.after, *lines[mutation.line :]])
    )
    words = ["-x", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "--cases"]
    command = [sys.executable, "-m", "pytest", *words, "first", *TESTS]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "time"
    finally:
        path.write_text("\n".join(lines))
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:120] if failed else f"exit code {done.returncode}"


def main(n: int = 50, seed: int = 0, limit: int = 1200, json_to: Path | None = None) -> None:
    """Args:
    n: how many are drawn.
    limit: seconds for the tests of one.
    json_to: a file for the outcomes.
    """
    files = [path for place in WHERE for path in sorted((ROOT / place).rglob("*.py"))]
    every = [mutation for path in files for mutation in mutations(path)]
    drawn = random.Random(seed).sample(every, n)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        left = shutil.ignore_patterns(".venv", ".git", "runs")
        shutil.copytree(ROOT, copy, ignore=left)
        for mutation in drawn:
            start = time.perf_counter()
            by = killed(mutation, copy, limit)
            outcomes.append({**asdict(mutation), "killed by": by})
            said = by or "SURVIVED"
            print(f"{mutation.file}:{mutation.line} {mutation.after}\n    {said}", flush=True)
            print(f"    {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{sum(bool(one['killed by']) for one in outcomes)} of {n} are noticed")
    if json_to is not None:
        json_to.write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
