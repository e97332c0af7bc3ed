"""Add the course to the pages: a self-test and the assignment at the end of each chapter; and tables to the guides.

A self-test is data, book/quizzes/NN.yml. Numbers of an assignment are read from its source. They are in the book only,
so that a committed notebook does not depend on them.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

from tools.pages.project import PageError, Project

ASSIGNMENTS = "<!-- assignments -->"
QUESTIONS = 3  # in a self-test
LETTERS = "abcd"
_FIELDS = {"id", "question", "options", "answer", "why"}


def quiz(project: Project, number: str) -> list[dict]:
    """Return the questions of chapter "01"; an empty list if it has no file.

    Raises:
        PageError: a rule is broken; the message lists all broken rules, a sentence each.
    """
    path = project.root / "book" / "quizzes" / f"{number}.yml"
    if not path.exists():
        return []
    questions = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = list(_problems(questions))
    if problems:
        raise PageError("\n".join(f"book/quizzes/{path.name}: {problem}" for problem in problems))
    return questions


def _problems(questions: object):
    if not isinstance(questions, list) or not all(isinstance(q, dict) for q in questions):
        yield "must be a list of questions, each with " + ", ".join(sorted(_FIELDS))
        return
    if len(questions) != QUESTIONS:
        yield f"has {len(questions)} questions; it needs {QUESTIONS}"
    for n, question in enumerate(questions, 1):
        name = question.get("id", f"question {n}")
        if set(question) != _FIELDS:
            yield f"{name}: has {', '.join(sorted(question))}; needs {', '.join(sorted(_FIELDS))}"
            continue
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(name)):
            yield f"{name}: an id is words of small letters, joined by hyphens"
        options = question["options"]
        if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
            yield f"{name}: options must be a list of texts"
            continue
        if not 3 <= len(options) <= len(LETTERS):
            yield f"{name}: has {len(options)} options; it needs 3 or 4"
        if len({" ".join(text.lower().split()) for text in options}) < len(options):
            yield f"{name}: an option appears twice"
        if question["answer"] not in list(LETTERS[: len(options)]):
            yield f"{name}: the answer is {question['answer']!r}; it must be one letter of {LETTERS[: len(options)]!r}"
        if any(not str(question[key]).strip() or "\n" in str(question[key]).strip() for key in ("question", "why")):
            yield f"{name}: question and why are one line each"
    answers = [question.get("answer") for question in questions]
    if len(answers) > 1 and len(set(map(str, answers))) == 1:
        yield f"the answer is always {answers[0]}"
    ids = Counter(str(question.get("id")) for question in questions)
    yield from (f"the id {name} appears twice" for name, count in ids.items() if count > 1)


def assignments(project: Project) -> dict:
    """Return the assignments by key, in order: "a1" and so on, then "project"; empty if the checkout has no course."""
    from dtta.course.staff import source  # needs only jupytext and nbformat, as the book does

    if not (project.root / source.FOLDER).is_dir():
        return {}
    return {key: source.read(project.root, key) for key in source.keys(project.root)}


def end(project: Project, name: str, edition: str) -> list[str]:
    """Return what closes a chapter, as MyST: its self-test and its assignment, if it has them."""
    from dtta.course.staff import source

    number = name.partition("_")[0]
    questions, key = quiz(project, number), f"a{int(number)}" if number.isdecimal() else ""
    parts = [_self_test(questions)] if questions else []
    if key and list((project.root / source.FOLDER).glob(f"{key}_*.py")):
        assignment = source.read(project.root, key)
        parts.append(_block(project, assignment) if edition == "book" else _short_block(project, assignment))
    return parts


def _self_test(questions: list[dict]) -> str:
    lines = ["## Test yourself", "", "Decide before you open the answer.", ""]
    for n, question in enumerate(questions, 1):
        options = [f"- **{letter}.** {text}" for letter, text in zip(LETTERS, question["options"], strict=False)]
        lines += [
            ":::{div} dtta-question",
            f"(quiz-{question['id']})=",
            f"**{n}.** {question['question']}",
            "",
            *options,
            "",
            f"```{{dropdown}} Answer to question {n}",
            f"**{question['answer']}.** {question['why']}",
            "```",
            ":::",
            "",
        ]
    return "\n".join(lines)


def _block(project: Project, assignment) -> str:
    facts = f"{assignment.points} points · about {assignment.minutes} minutes · {len(assignment.tasks)} tasks"
    by_hand = _by_hand(assignment)
    if by_hand:
        facts += f" · {by_hand} of the points graded by a person"
    tasks = [f"{task.number}. {task.title[0].upper()}{task.title[1:]}" for task in assignment.tasks]
    return "\n".join(
        [
            "## Assignment",
            "",
            ":::{div} dtta-assignment",
            f"**{assignment.title}**",
            "",
            facts,
            "",
            *tasks,
            "",
            f"{_colab(project, assignment)} {_notebook(project, assignment)}",
            "",
            "How it is checked and handed in: [the students' guide](../book/students.md).",
            ":::",
        ]
    )


def _short_block(project: Project, assignment) -> str:
    return "\n".join(
        [
            "## Assignment",
            "",
            f"**{assignment.title}**: [open in Colab]({project.colab(f'assignments/{assignment.name}')}).",
            "How it is checked and handed in: [the students' guide](../book/students.md).",
        ]
    )


def _by_hand(assignment) -> int:
    return sum(task.points[cell] for task in assignment.tasks for cell in task.manual)


def _colab(project: Project, assignment, words: str = "Open in Colab") -> str:
    address = project.colab(f"assignments/{assignment.name}")
    return f'<a class="dtta-badge" href="{address}" aria-label="{words}: {assignment.title}">{words}</a>'


def _notebook(project: Project, assignment, words: str = "Download the notebook") -> str:
    """Return a link to the students' notebook: a copy in the book, or the file in the repository."""
    file = f"assignments/{assignment.name}.ipynb"
    if (project.notebooks / file).exists():
        return f"{{download}}`{words} <../notebooks/{file}>`"
    return f"[{words}]({project.url}/raw/{project.ref}/notebooks/{file})"


def table(project: Project, assignments: dict) -> str:
    """Return a table of all assignments in Markdown, for the guides; a phone shows the first column, with the links."""
    lines = [
        "| assignment | points | by hand | minutes | tasks |",
        "|:--|--:|--:|--:|--:|",
    ]
    rows: list[list[int]] = []
    pages = {name.partition("_")[0]: name for name in project.pages_in_toc()}
    for key, one in assignments.items():
        chapter = pages.get(key[1:].zfill(2), "")
        links = [f"[chapter {chapter[:2]}](../notebooks/{chapter}.ipynb)"] if chapter else []
        links += [_notebook(project, one, f"{key}.ipynb"), _colab(project, one, "Colab")]
        title = one.title.partition(": ")[2] or one.title
        numbers = [one.points, _by_hand(one), one.minutes, len(one.tasks)]
        rows.append(numbers)
        lines.append(f"| {key}: {title}<br>{' '.join(links)} | {' | '.join(map(str, numbers))} |")
    sums = [sum(row) for row in zip(*rows, strict=True)]
    lines.append(f"| in all | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


def put_tables(project: Project, folder: Path, assignments: dict) -> None:
    """Replace the marker in the staged prose pages by the table of assignments."""
    for path in folder.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        if ASSIGNMENTS in text:
            path.write_text(text.replace(ASSIGNMENTS, table(project, assignments)), encoding="utf-8")
