"""Run one notebook, inside the sandbox: python -m dtta.course.staff.execute in.ipynb out.ipynb

Every code cell ends with outputs or with an error, whatever its code does: a cell without either would get full points.
The kernel is reached through sockets in the folder, not through a network.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_output

OUTPUT = 100_000  # characters of one cell that are kept; a loop that prints would fill the memory


class Client(NotebookClient):
    """An nbclient that keeps a flood of output out."""

    def output(self, outs: list, msg: dict, display_id: str, cell_index: int) -> NotebookNode | None:
        """Take one output of a cell, unless the cell has said enough already."""
        content, said = msg["content"], getattr(self, "_said", {}).get(cell_index, 0)
        self._said = {cell_index: said + len(str(content))}
        if msg["msg_type"] != "error" and self._said[cell_index] > OUTPUT:
            if said > OUTPUT:  # the note below has been written
                return None
            text = content.get("text", "")[: OUTPUT - said]
            outs.append(new_output("stream", name="stdout", text=f"{text}\n[more output was dropped]\n"))
            return outs[-1]
        return super().output(outs, msg, display_id, cell_index)


def run(notebook: NotebookNode, seconds: float, cell_seconds: int) -> None:
    """Run all cells of a notebook, in place."""
    stopped = {
        "ename": "TooLong",
        "evalue": f"stopped after {cell_seconds} s",
        "traceback": [f"stopped after {cell_seconds} s"],
    }
    finished = set()

    def answered(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        """The kernel's answer counts, also where outputs were lost on the way. A dead kernel gives none."""
        finished.add(cell_index)
        content = execute_reply["content"]
        if content["status"] != "ok" and not _failed(cell):
            _fail(cell, f"{content.get('ename', content['status'])}: {content.get('evalue', '')}")

    client = Client(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", transport="ipc"),
        timeout=cell_seconds,
        interrupt_on_timeout=True,
        error_on_timeout=stopped,
        allow_errors=True,
        record_timing=False,
        on_cell_executed=answered,
        shutdown_kernel="immediate",
    )
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for _, cell in code:
        cell.outputs, cell.execution_count = [], None
    until, trouble = time.monotonic() + seconds, ""
    try:
        with client.setup_kernel(cleanup_kc=True):
            for i, cell in code:
                client.timeout = max(1, min(cell_seconds, int(until - time.monotonic())))
                if time.monotonic() > until:
                    trouble = f"the notebook was stopped after {seconds:g} s"
                    break
                client.execute_cell(cell, i)
    except Exception as error:  # the kernel died (memory, CPU time, exit) or does not answer
        trouble = f"the kernel stopped: {type(error).__name__}"
    if trouble:
        for i, cell in code:
            if i not in finished and not _failed(cell):
                _fail(cell, trouble)


def _failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def _fail(cell: NotebookNode, why: str) -> None:
    cell.outputs.append(new_output("error", ename="NotRun", evalue=why, traceback=[why]))


def limit(megabytes: int, cpu_seconds: int) -> None:
    """Limits that this process and all that it starts have to keep."""
    for kind, most in (
        (resource.RLIMIT_DATA, megabytes * 2**20),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 100 * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard),) * 2)


def main(arguments: list[str] | None = None) -> None:
    """Run the notebook `source` and write it, with its outputs, to `target`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cell-seconds", type=int, default=120)
    parser.add_argument("--megabytes", type=int, default=4096)
    options = parser.parse_args(arguments)
    limit(options.megabytes, int(options.seconds))
    notebook = nbformat.read(options.source, as_version=4)
    run(notebook, options.seconds, options.cell_seconds)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    notebook.metadata["cpu_seconds"] = round(sum(u.ru_utime + u.ru_stime for u in used), 1)
    options.target.write_text(nbformat.writes(notebook), encoding="utf-8")


if __name__ == "__main__":
    main()
