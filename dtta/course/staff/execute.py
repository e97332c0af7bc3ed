"""Run a submission and judge it: its own cells run in the sandbox, the tests run here and call its functions there.

Every graded cell ends with outputs or with an error, whatever the submission does: one without would get full points.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import time
from dataclasses import dataclass, field

import torch
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Dict, Int, List, Unicode

from dtta.course.judge import TooSlow, Wrong, usual_dtype
from dtta.course.runner.values import Unsendable
from dtta.course.staff import harmless, variants
from dtta.course.staff.remote import NotGraded, Runner
from dtta.course.staff.sandbox import choose

LEAST = 10.0  # seconds that every cell has, however long others took


@dataclass
class Texts:
    """The lecturer's own text of an assignment's locked cells, by grade id: of them none comes from a submission.

    Args:
        setup: of those that are not graded, such as imports.
        tests: of the graded ones.
    """

    setup: dict[str, str] = field(default_factory=dict)
    tests: dict[str, str] = field(default_factory=dict)


def run(notebook: NotebookNode, texts: Texts, runner: Runner, seconds: float, cell_seconds: float) -> None:
    """Run all code cells of a notebook in place, each graded one against the submission as it is at that place."""
    until, space, taken = time.monotonic() + seconds, {}, set()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in cells]
    first = next((i for i, name in enumerate(names) if name and name not in texts.setup), len(names))
    for name, text in texts.setup.items():
        exec(compile(text, "<setup>", "exec"), space)
        if name not in names[:first]:  # gone, or behind an answer
            runner.cell(text, cell_seconds)
    for name, cell in zip(names, cells, strict=True):
        if name in texts.tests:
            cell.outputs = judged(texts.tests[name], space, runner, taken)
        else:
            most = max(LEAST, min(cell_seconds, until - time.monotonic()))
            cell.source = texts.setup.get(name, cell.source)
            cell.outputs = _ran(cell.source, runner, most)
        cell.execution_count = None


def _ran(source: str, runner: Runner, seconds: float) -> list[NotebookNode]:
    """The outputs of a cell of the submission. Of one that has to be stopped, what it defines is kept."""
    outputs, trouble = runner.cell(source, seconds)
    if not trouble:
        return outputs
    if not outputs and (parts := _definitions(source)):
        runner.cell(parts, LEAST)
    return [*outputs, _error("NotRun", trouble)]


def _definitions(source: str) -> str:
    """The imports, functions and classes of a cell."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ""
    kept = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, kept))


def judged(text: str, space: dict, runner: Runner, taken: set[str]) -> list[NotebookNode]:
    """Run a graded cell here, with stand-ins for what it takes from the submission; its outputs.

    `taken`: the names that earlier cells took, to which this one's are added: functions that they defined read them.
    """
    tree = ast.parse(text)
    taken |= _taken(tree, space)
    outputs, said = [], io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), _apart():
            for name in sorted(taken):
                with contextlib.suppress(NameError):
                    space[name] = runner.value(name)
            value = _executed(tree, space)
        if value is not None:  # part of the points
            outputs.append(new_output("execute_result", data={"text/plain": repr(value)}, execution_count=None))
    except Unsendable as error:
        raise NotGraded(str(error)) from error
    except (Exception, TooSlow) as error:
        outputs.append(_error(type(error).__name__, str(error) if isinstance(error, Exception) else "it took too long"))
    finally:
        for name in taken:
            space.pop(name, None)
    if said.getvalue():
        outputs.insert(0, new_output("stream", name="stdout", text=said.getvalue()))
    return outputs


def _taken(tree: ast.AST, space: dict) -> set[str]:
    """The names that a graded cell reads and neither it nor an earlier one has made."""
    nodes = list(ast.walk(tree))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler)}
    made |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return read - made - space.keys() - vars(builtins).keys()


def _executed(tree: ast.Module, space: dict) -> object:
    """Run a cell's statements; the value of the last, if it is an expression."""
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<test>", "exec"), space)
    return eval(compile(ast.Expression(last.value), "<test>", "eval"), space) if last else None


@contextlib.contextmanager
def _apart():
    """Leave this process's random numbers and settings as they are."""
    with torch.random.fork_rng(devices=[]), usual_dtype():
        yield


def _error(name: str, text: str) -> NotebookNode:
    """An error without any line of a test."""
    lines = text.splitlines() if name == Wrong.__name__ else [f"{name}: {text}"]
    return new_output("error", ename=name, evalue=text, traceback=lines or [name])


class LockedExecute(NbGraderPreprocessor):
    """nbgrader's step that runs a submission, in a sandbox."""

    kind = Unicode("", help="docker, podman, bubblewrap, unshare or none; empty: the first that works").tag(config=True)
    seconds = Int(600, help="for the whole notebook").tag(config=True)
    cell_seconds = Int(120, help="for one cell").tag(config=True)
    megabytes = Int(4096, help="of memory").tag(config=True)
    hide = List(Unicode(), help="folders that a submission must not see").tag(config=True)
    seeds = Dict(help="of students whose data differ from the course's").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Run the notebook, and once again where its sandbox broke down.

        Raises:
            NotGraded: it cannot be run at all.
        """
        about = resources.get("nbgrader", {})
        texts = _locked(about)
        seed = self.seeds.get(about.get("student"))
        texts.setup = {name: variants.personal(text, seed) for name, text in texts.setup.items()}
        warm = any("optim" in text for text in texts.tests.values())
        for attempt in range(2):
            with Runner(choose(self.kind), self.hide, self.megabytes, warm) as runner:
                run(nb, texts, runner, self.seconds, self.cell_seconds)
                if not runner.ended:
                    break
                self.log.warning("The submission's sandbox ended in run %d: %s", attempt + 1, runner.ended)
        harmless.clean(nb)
        return nb, resources


def _locked(about: dict) -> Texts:
    """The locked cells of a notebook, from the gradebook and not from the submission."""
    texts = Texts()
    if "db_url" in about:
        with Gradebook(about["db_url"]) as book:
            notebook = book.find_notebook(about["notebook"], about["assignment"])
            graded = {cell.name for cell in notebook.grade_cells}
            for cell in notebook.source_cells:
                if cell.locked and cell.cell_type == "code":
                    (texts.tests if cell.name in graded else texts.setup)[cell.name] = cell.source
    return texts
