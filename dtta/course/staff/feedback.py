"""What students may see of hidden tests: their kind and their messages, never their source."""

from __future__ import annotations

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from dtta.course.staff.source import student_source

MESSAGE = "a hidden test failed"  # where an error has no message


class HideTests(NbGraderPreprocessor):
    """Take hidden tests out of a graded notebook before it becomes a page of feedback."""

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        """Show a cell of hidden tests as students got it, and its errors as messages without a traceback."""
        if "### BEGIN HIDDEN TESTS" in cell.source:
            cell.source = student_source(cell).strip()
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    output.evalue = output.evalue or MESSAGE
                    output.traceback = output.evalue.splitlines()
        return cell, resources
