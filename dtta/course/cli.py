"""The command line of the course: dtta course build, collect, doctor, grade, report, similar and solutions.

It needs pip install "dtta[course]".
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(commands) -> None:
    """Register ``course`` and its own commands among those of ``dtta``."""
    text = "build the assignments, and collect, repair, grade and report what students hand in"
    course = commands.add_parser("course", help=text, description=text[0].upper() + text[1:] + ".")
    own = course.add_subparsers(required=True, metavar="command")

    build = _command(own, "build", _build, "make assignments: students' notebooks, and a course folder for nbgrader")
    build.add_argument("names", nargs="*", metavar="ASSIGNMENT", help="a1, a2 and so on (default: all)")
    build.add_argument("--to", type=Path, default=Path("course"), help="the course folder (default: course)")
    text = "variant of the data in tests and experiments, for each year or group (default: 0)"
    build.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "another variant for each student of this table: release_each/; its column seed, if any, says which"
    build.add_argument("--each", type=Path, metavar="CSV", help=text)
    text = "a clone or unpacked archive of the book's repository, which has the sources (default: here)"
    build.add_argument("--root", type=Path, default=Path(), help=text)
    build.add_argument("--solutions", action="store_true", help="also run the solutions, for you alone: TO/solutions")
    build.add_argument(
        "--publish", action="store_true", help="also copy the students' notebooks to notebooks/assignments"
    )

    collect = _command(
        own, "collect", _collect, "put the zip files of Canvas, Moodle or Google Classroom into submitted/"
    )
    collect.add_argument("archives", type=Path, nargs="+", metavar="ZIP", help="all parts, if it came in several")
    collect.add_argument("--to", type=Path, default=Path("course"), help="the course folder (default: course)")
    collect.add_argument("--assignment", default="", metavar="ASSIGNMENT", help="default: by the names in the zip")
    text = "the platform's table of students, kept for next time; lists who is missing"
    collect.add_argument("--roster", type=Path, metavar="CSV", help=text)
    text = "the dates of the files in the zip are when they were handed in (default: only Moodle's worksheet tells)"
    collect.add_argument("--zip-times", action="store_true", help=text)

    text = "find what is wrong with submissions, and mend what is safe; before grading"
    doctor = _command(own, "doctor", _doctor, text)
    _chosen(doctor)
    doctor.add_argument("--dry-run", action="store_true", help="find only")

    grade = _command(own, "grade", _grade, "run submissions in a sandbox, store scores, write feedback and grades.csv")
    _chosen(grade)
    grade.add_argument("--student", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    grade.add_argument("--again", action="store_true", help="also submissions that were graded and have not changed")
    kinds = "docker, podman, bubblewrap or unshare (default: the first that works); none: for code that you trust"
    grade.add_argument("--sandbox", default="", metavar="KIND", help=kinds)

    report = _command(own, "report", _report, "scores by task, common mistakes, a plot, and a table for your LMS")
    _chosen(report)
    report.add_argument(
        "--lms", choices=("moodle", "canvas"), default="moodle", help="form of lms.csv (default: moodle)"
    )

    similar = _command(own, "similar", _similar, "list pairs of submissions that share passages of code or words")
    _chosen(similar)
    text = "print pairs from this score on, and show their passages (default: 0.5)"
    similar.add_argument("--at-least", type=_share, default=0.5, metavar="SCORE", help=text)

    text = "run the solutions and write them, without hidden tests, for students: released_solutions/"
    solutions = _command(own, "solutions", _solutions, text)
    solutions.add_argument("folder", type=Path, help="the course folder")
    solutions.add_argument("names", nargs="+", metavar="ASSIGNMENT", help="a1, a2 and so on")
    solutions.add_argument("--force", action="store_true", help="also before the last deadline, or without one")


def _chosen(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=_course_folder, help="the course folder, with submitted/NAME/a1/a1_NAME.ipynb")
    command.add_argument("names", nargs="*", metavar="ASSIGNMENT", help="a1, a2 and so on (default: all)")


def _course_folder(text: str) -> Path:
    folder = Path(text).expanduser()
    if not (folder / "submitted").is_dir():
        reason = "has no folder submitted/ with submitted/NAME/a1/a1_NAME.ipynb in it"
        raise argparse.ArgumentTypeError(f"{folder} {reason}")
    return folder


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def _command(commands, name, run, text) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=_with_packages(run))
    return command


def _with_packages(run):
    """The command, with one clear sentence where the extra is not installed."""

    def guarded(options) -> None:
        try:
            run(options)
        except ModuleNotFoundError as error:
            raise ValueError(f'{error.name} is missing; the course needs: pip install "dtta[course]"') from error

    return guarded


def _build(options) -> None:
    from dtta.course.staff import build

    made = build.build(options.root, options.to, options.names, options.solutions, options.seed, options.each)
    for assignment in made:
        print(f"{assignment.key}  {assignment.points:3d} points, {assignment.minutes:3d} minutes: {assignment.title}")
    print(f"students' notebooks: {options.to / 'release'}")
    if options.each:
        print(f"for each student: {options.to / 'release_each'}; under the seeds of {options.to / 'seeds.csv'}")
    print(f"with solutions and hidden tests, not for students: {options.to / 'source'}")
    print(f"how to grade the answers in words, not for students: {options.to / 'keys'}")
    if options.publish:
        for path in build.publish(options.root, options.to, made):
            print(path)


def _collect(options) -> None:
    from dtta.course.staff.collect import collect

    report = collect(options.to, options.archives, options.assignment, options.roster, options.zip_times)
    for remark in report.remarks:
        print(f"{report.assignment} {remark}")
    lists = {"new or changed": report.collected, "unchanged": report.unchanged, "late": report.late}
    for what, students in lists.items():
        print(f"{len(students)} {what}" + (f": {', '.join(students)}" if students else ""))
    if report.missing:
        names = ", ".join(person.name for person in report.missing)
        print(f"{len(report.missing)} on the roster have handed in nothing: {names}")
    record = options.to / "collected.csv"
    print(f"{report.assignment}, a zip of {report.platform}: {options.to / 'submitted'}; record: {record}")


def _doctor(options) -> None:
    from dtta.course.staff.doctor import visit

    found = visit(options.folder, options.names, dry=options.dry_run)
    for finding in found:
        verb = "found" if options.dry_run or not finding.mended else "mended"
        print(f"{finding.assignment} {finding.student}: {verb}: {finding.sentence}")
    mended = sum(finding.mended for finding in found)
    if options.dry_run:
        print(f"{len(found)} findings, {mended} of them can be mended; nothing was changed")
    else:
        print(f"{len(found)} findings, {mended} of them mended; originals: {options.folder / 'before_doctor'}")


def _grade(options) -> None:
    from dtta.course.staff import grade, sandbox, source

    kind = sandbox.choose(options.sandbox)
    source.submissions(options.folder, options.names, options.student)  # a wrong name is reported first
    print(f"submissions run in: {sandbox.WORDS[kind]}")
    for line in grade.grade(options.folder, options.names, options.student, options.sandbox, options.again):
        print(line, flush=True)
    print(f"scores: {grade.export(options.folder)}; pages for students: {options.folder / 'feedback'}")


def _report(options) -> None:
    from dtta.course.staff import report

    for path in report.write(options.folder, options.names, options.lms):
        print(path)


def _similar(options) -> None:
    from dtta.course.staff import similar, source

    keys = sorted({key for key, _ in source.submissions(options.folder, options.names)})
    for key in keys:
        paths, pairs = similar.write(options.folder, key, options.at_least)
        for pair in pairs:
            print(f"{key} {pair.one} and {pair.other}: {pair.score:.2f}, {pair.shared} shared passages")
        print(f"{key}: {len(pairs)} pairs at {options.at_least:g} or more; {', '.join(map(str, paths))}")


def _solutions(options) -> None:
    import datetime as dt

    from dtta.course.staff import solutions
    from dtta.course.staff.source import CourseError

    notebooks = solutions.sources(options.folder, options.names)
    reasons = solutions.too_early(options.folder, list(notebooks), dt.datetime.now(dt.UTC))
    if reasons and not options.force:
        raise CourseError(f"{'; '.join(reasons)}; to release the solutions all the same, add --force")
    for key, path in notebooks.items():
        print(f"{key}: the solution with outputs, without hidden tests: {solutions.release(options.folder, key, path)}")
