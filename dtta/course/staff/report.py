"""What came of it: scores by task, the mistakes that many made, a plot, and a table that a LMS takes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd

from dtta.course.staff import dates, grade, lms, roster
from dtta.course.staff.source import CourseError, submissions
from dtta.pages import figures

MISTAKES = 5  # the most frequent ones of each cell


def write(folder: Path, keys: list[str], platform: str = "moodle") -> list[Path]:
    """Write report/scores.csv, tasks.csv, mistakes.csv, report.md, scores.png and what `lms.write` does; their paths.

    Args:
        folder: a course folder with graded submissions.
        keys: which assignments; empty: all that were graded.
        platform: "moodle" or "canvas", whose columns lms.csv has.

    Raises:
        CourseError: nothing was graded, or course.toml is not understood.
    """
    deadlines = dates.read(folder)
    scores_of = {key: grade.scores(folder, key) for key in keys or sorted({k for k, _ in submissions(folder)})}
    if empty := [key for key, scores in scores_of.items() if not scores]:
        raise CourseError(f"nothing is graded for {', '.join(empty)}; call: dtta course grade {folder}")
    if not scores_of:
        raise CourseError(f"nothing was handed in: {folder / 'submitted'} is empty")
    out = folder / "report"
    out.mkdir(exist_ok=True)
    table = pd.DataFrame(
        [{"assignment": key, **vars(score)} for key, scores in scores_of.items() for score in scores],
        columns=["assignment", "student", "cell", "points", "most"],
    )
    tasks = by_task(table)
    wrong = pd.DataFrame(mistakes(folder, list(scores_of)), columns=["assignment", "cell", "mistake", "students"])
    for name, rows in {"scores": table, "tasks": tasks, "mistakes": wrong}.items():
        roster.write_table(out / f"{name}.csv", list(rows), rows.astype(object).where(rows.notna(), "").values.tolist())
    figure = plot(table, tasks)
    figure.savefig(out / "scores.png", dpi=130)
    plt.close(figure)
    without = {place: why for place, why in grade.not_graded(folder).items() if place[0] in scores_of}
    (out / "report.md").write_text(_words(table, tasks, wrong, without), encoding="utf-8")
    totals = {key: list(dates.totals(folder, key, scores, deadlines)) for key, scores in scores_of.items()}
    tables = lms.write(folder, totals, platform)
    return [*(out / n for n in ("report.md", "scores.csv", "tasks.csv", "mistakes.csv", "scores.png")), *tables]


def by_task(table: pd.DataFrame) -> pd.DataFrame:
    """For each graded cell: how many were graded, the mean share of its points, how many got all and how many none."""
    rows = []
    for (key, cell), group in table.groupby(["assignment", "cell"], sort=False):
        share = group.points.astype(float) / group.most
        rows.append(
            {
                "assignment": key,
                "cell": cell,
                "points": group.most.iloc[0],
                "graded": int(share.notna().sum()),
                "waiting": int(share.isna().sum()),
                "mean share": round(share.mean(), 3),
                "all": int((share == 1).sum()),
                "none": int((share == 0).sum()),
            }
        )
    return pd.DataFrame(rows)


def mistakes(folder: Path, keys: list[str]) -> list[tuple[str, str, str, int]]:
    """What the checks told students, by cell, with the number of students who were told it; the most frequent first."""
    told: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for key in keys:
        for path in sorted((folder / "autograded").glob(f"*/{key}/*.ipynb")):
            for cell in nbformat.read(path, as_version=4).cells:
                about = cell.metadata.get("nbgrader", {})
                errors = [o.evalue for o in cell.get("outputs", []) if o.output_type == "error"]
                if about.get("grade") and errors:
                    told[key, about.grade_id][_mistake(errors[0])] += 1
    return [(*place, what, n) for place, counts in told.items() for what, n in counts.most_common(MISTAKES)]


def _mistake(message: str) -> str:
    """The likely reason in a message of a check, or else its first line, without the numbers of one student."""
    reason = re.search(r"a likely reason: (.*)", message)
    if reason:
        return reason[1].strip()
    first = message.strip().splitlines()[0] if message.strip() else "an error without words"
    return re.sub(r" \(most at .*\)$", "", first.removeprefix("✗ "))


def plot(table: pd.DataFrame, tasks: pd.DataFrame) -> plt.Figure:
    """Left: the mean share of points by graded cell. Right: the totals of all students, by assignment."""
    figures.style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 1.5 + 0.24 * len(tasks)), layout="constrained")
    names = [f"{row.assignment} {row.cell}" for row in tasks.itertuples()]
    left.barh(names, 100 * tasks["mean share"].fillna(0), color=figures.BLUE)
    left.invert_yaxis()
    left.set(xlim=(0, 100), xlabel="mean share of the points in %", title="By task")
    totals = table.assign(points=table.points.astype(float).fillna(0)).groupby(["assignment", "student"], sort=False)
    totals = totals[["points", "most"]].sum()
    keys = list(dict.fromkeys(table.assignment))
    right.boxplot([100 * (t := totals.loc[key]).points / t.most for key in keys], tick_labels=keys, showmeans=True)
    right.set(ylim=(-2, 102), ylabel="share of the points in %", title="Students, by assignment")
    return fig


def _words(table: pd.DataFrame, tasks: pd.DataFrame, wrong: pd.DataFrame, without: dict) -> str:
    lines = ["# Report", "", "![Shares of points by task, and of students by assignment](scores.png)", ""]
    if without:
        lines += ["## Not graded", "", *(f"* {key} {student}: {why}" for (key, student), why in without.items()), ""]
    for key in dict.fromkeys(table.assignment):
        mine = tasks[tasks.assignment == key]
        students = table[table.assignment == key].student.nunique()
        lines += [
            f"## {key}",
            "",
            f"{students} students. {int(mine.waiting.sum())} answers wait to be graded by hand.",
            "",
        ]
        lines += ["| cell | points | mean share | all | none | waiting |", "|---|---|---|---|---|---|"]
        for row in mine.to_dict("records"):
            share = "" if pd.isna(row["mean share"]) else f"{100 * row['mean share']:.0f}%"
            cells = [row["cell"], f"{row['points']:g}", share, row["all"], row["none"], row["waiting"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines += ["", "What the checks said most often:", ""]
        for row in wrong[wrong.assignment == key].itertuples():
            lines.append(f"* {row.cell}, {row.students} students: {row.mistake}")
        lines.append("")
    return "\n".join(lines)
