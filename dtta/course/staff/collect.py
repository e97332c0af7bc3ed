"""From the zip files of a learning platform to submitted/NAME/a1/a1_NAME.ipynb, with times and a list of the missing.

Canvas     lovelaceada_LATE_1234_56789_a1_diffusion_loss-1.ipynb
Moodle     Ada Lovelace_12345_assignsubmission_file/a1_diffusion_loss.ipynb, or the same in one name
Classroom  a1/Ada Lovelace - a1_diffusion_loss.ipynb, or a1/Ada Lovelace/a1_diffusion_loss.ipynb

Nothing is unpacked by the names in a zip: they are only read, and files are written under names made here.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from dateutil import parser as times

from dtta.course.staff import archive, dates, roster
from dtta.course.staff.archive import LARGEST
from dtta.course.staff.roster import Person, fold, folder_name
from dtta.course.staff.source import CourseError

RECORD = "collected.csv"
COLUMNS = ("assignment", "student", "name", "email", "id", "participant", "file", "submitted", "late", "sha256")

_CANVAS = re.compile(r"(?P<name>\w+?)(?P<late>_LATE)?_(?P<id>\d+)_(?P<file_id>\d+)_(?P<file>.+)")
_ANONYMOUS = re.compile(r"(?P<late>LATE_)?(?P<name>anon_\w+?)_(?P<file_id>\d+)_(?P<file>.+)")
_MOODLE = re.compile(r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_[a-z]+_?[/_]?(?P<file>.*)", re.DOTALL)
_CLASSROOM = re.compile(r"(?P<name>[^/]+?) - (?P<file>[^/]+)")


@dataclass
class Submission:
    """One file of a zip, and whose it is, as the file's name tells."""

    path: str
    file: str
    name: str
    data: bytes
    id: str = ""  # Canvas's number of the student, or Moodle's of the participant
    late: bool = False
    modified: dt.datetime | None = None
    order: int = 0  # Canvas counts files
    person: Person | None = None


@dataclass
class Report:
    """What came of it, a line for each thing to say."""

    assignment: str
    platform: str
    collected: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    missing: list[Person] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def collect(
    folder: Path, archives: list[Path], key: str = "", table: Path | None = None, zip_times: bool = False
) -> Report:
    """Put the submissions of an assignment into a course folder.

    A file that differs from what was collected before replaces it; the old one is kept in before_collect/.

    Args:
        archives: the platform's zip files; one that came in parts needs all of them.
        key: the assignment; empty: by the names in the zip.
        table: a roster, in the platform's own form; kept as roster.csv. None: the one that was kept before.
        zip_times: the dates in the zip are when the files were handed in.

    Raises:
        CourseError: a zip or table cannot be used; nothing was written.
    """
    names = {path.parent.name: path.name for path in sorted((folder / "release").glob("*/*.ipynb"))}
    if not names:
        raise CourseError(f"{folder} has no assignments in release/; call: dtta course build --to {folder}")
    if key and key not in names:
        raise CourseError(f"no assignment {key!r} in {folder / 'release'}; there are {', '.join(names)}")
    dates.read(folder)  # its faults before any work
    files = [file for path in archives for file in archive.files(path)]
    key = key or _assignment(files, names)
    people = roster.read(table) if table else roster.of_course(folder)
    if not table:  # its times and numbers were those of another assignment
        people = [replace(person, participant="", submitted="") for person in people]
    platform, submissions, nameless = _submissions(files, key)
    if not submissions:
        raise CourseError(f"{archives[0]} has no file that names its student, as those of Canvas or Moodle do")
    report = Report(key, platform, remarks=[f"{path} does not say whose it is" for path in nameless])
    groups = _group(submissions, people, platform)
    chosen = {s: one for s, group in groups.items() if (one := _newest(group, s, names[key], report))}
    if people:
        keys = {person.key for person in people}
        report.remarks += [f"{student} is not on the roster" for student in sorted(chosen) if student not in keys]
    if table:
        _keep(table, folder / roster.FILE)
        if any(person.participant for person in people):  # Moodle's worksheet is of one assignment
            _keep(table, folder / "worksheets" / f"{key}.csv")
    _write(folder, names[key], chosen, zip_times, report)
    there = {path.parent.name for path in (folder / "submitted").glob(f"*/{key}")}
    report.missing = [person for person in people if person.key not in there]
    return report


def _keep(table: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if table.resolve() != to.resolve():
        shutil.copyfile(table, to)


# --- what the names tell --------------------------------------------------------------------------------------------


def _assignment(files: list[tuple], names: dict[str, str]) -> str:
    """The assignment whose notebook the files are named after."""
    keys = [key for key, name in names.items() if any(Path(name).stem in path for path, _, _ in files)]
    if len(keys) != 1:
        reason = f"files of {', '.join(keys)}" if keys else "no file named after an assignment"
        raise CourseError(f"the zip has {reason}; say which it is: --assignment {'|'.join(names)}")
    return keys[0]


def _submissions(files: list[tuple], key: str) -> tuple[str, list[Submission], list[str]]:
    """The platform, the files with the students that their names tell, and the files that name none."""
    named = {"moodle": _moodle, "canvas": _canvas, "classroom": _classroom}
    if not any("_assignsubmission_" in path for path, _, _ in files):
        del named["moodle"]
        if not any(_canvas(path, key) for path, _, _ in files):
            del named["canvas"]
    platform = next(iter(named))
    submissions, nameless = [], []
    for path, when, data in files:
        match = named[platform](path, key)
        if match is None:
            nameless.append(path)
            continue
        about = match.groupdict()
        late = bool(about.get("late"))
        order = int(about.get("file_id") or 0)
        submissions.append(
            Submission(path, about["file"], about["name"], data, about.get("id") or "", late, when, order)
        )
    return platform, submissions, nameless


def _canvas(path: str, key: str) -> re.Match | None:
    name = PurePosixPath(path).name
    return _ANONYMOUS.fullmatch(name) or _CANVAS.fullmatch(name)


def _moodle(path: str, key: str) -> re.Match | None:
    parts = PurePosixPath(path).parts
    start = next((n for n, part in enumerate(parts) if "_assignsubmission_" in part), len(parts))
    return _MOODLE.fullmatch("/".join(parts[start:]))


def _classroom(path: str, key: str) -> re.Match | None:
    parts = PurePosixPath(path).parts
    if match := _CLASSROOM.fullmatch(parts[-1]):
        return match
    if len(parts) > 1 and not re.search(rf"\b{key}(\b|_)", parts[-2]):  # the folder of a student, not of the assignment
        return re.fullmatch(r"(?P<name>[^/]+)/(?P<file>[^/]+)", "/".join(parts[-2:]))
    return None


# --- whose they are -------------------------------------------------------------------------------------------------


def _group(submissions: list[Submission], people: list[Person], platform: str) -> dict[str, list[Submission]]:
    """The files by student, as named in submitted/.

    Raises:
        CourseError: a name that two students have.
    """
    groups: dict[str, list[Submission]] = defaultdict(list)
    for one in submissions:
        one.person = _find(one, people, platform)
        plain = f"{one.name}_{one.id}" if platform == "canvas" and one.id else one.name
        groups[one.person.key if one.person else folder_name(plain) or "nameless"].append(one)
    for student, files in groups.items():
        if len({one.id for one in files}) > 1:
            how = "they need their own rows in it, with IDs" if people else "tell them apart with --roster"
            raise CourseError(f"the zip has two students whose name is {student}; {how}")
    return groups


def _find(one: Submission, people: list[Person], platform: str) -> Person | None:
    number = {"canvas": "id", "moodle": "participant"}.get(platform)
    for person in people:
        if number and one.id and getattr(person, number) == one.id:
            return person
    texts = {fold(one.name)}
    if platform == "classroom":  # some write the name last
        texts.add(fold(PurePosixPath(one.file).name.split(".ipynb")[0]))
    named = [person for person in people if person.spellings & texts]
    if len(named) > 1:
        keys = ", ".join(person.key for person in named)
        raise CourseError(f"{one.path} may be of {keys}: they have one name; give the roster of this platform")
    return named[0] if named else None


def _newest(files: list[Submission], student: str, expected: str, report: Report) -> Submission | None:
    """The notebook to grade: of the assignment's name before others, then the last that was handed in."""
    papers = [one for one in files if ".ipynb" in one.file.lower()]
    if not papers:
        report.remarks.append(f"{student}: no notebook, but {', '.join(PurePosixPath(one.path).name for one in files)}")
        return None

    def order(one: Submission) -> tuple:
        stem = PurePosixPath(one.file).name.lower().split(".ipynb")[0]
        again = re.search(r"(?:-(\d+)| \((\d+)\))$", stem)
        number = int(next(filter(None, again.groups()))) if again else 0
        return Path(expected).stem in stem, number, one.order, one.modified or dt.datetime.min

    best = max(papers, key=order)
    if len(papers) > 1:
        report.remarks.append(f"{student}: {len(papers)} notebooks; took {PurePosixPath(best.path).name}")
    if len(best.data) > LARGEST:
        report.remarks.append(f"{student}: {best.file} has more than {LARGEST / 1e6:g} MB; ask for it without outputs")
        return None
    return best


# --- writing --------------------------------------------------------------------------------------------------------


def record(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """What was collected, by assignment and student: the rows of collected.csv."""
    path = folder / RECORD
    rows = roster.table(path)[1] if path.is_file() else []
    return {(row["assignment"], row["student"]): row for row in rows}


def _write(folder: Path, name: str, chosen: dict[str, Submission], zip_times: bool, report: Report) -> None:
    rows, zone, key = record(folder), dates.read(folder).zone, report.assignment
    for student, one in sorted(chosen.items()):
        home = folder / "submitted" / student / key
        digest = hashlib.sha256(one.data).hexdigest()
        when = _time(one, zone, zip_times, report)
        about = [one.person.name, one.person.email, one.person.id] if one.person else [one.name, "", one.id]
        participant = one.id if report.platform == "moodle" else ""
        time = when and f"{when:%Y-%m-%d %H:%M:%S} UTC"
        row = [key, student, *about, participant, one.path, time, one.late, digest]
        before = rows.get((key, student), {}).get("sha256")
        rows[key, student] = dict(zip(COLUMNS, map(str, (cell or "" for cell in row)), strict=True))
        if one.late:
            report.late.append(student)
        if before == digest and home.is_dir():  # what the doctor and the lecturer did to it stays
            report.unchanged.append(student)
        else:
            if home.is_dir():
                number = len(list((folder / "before_collect" / student).glob(f"{key}-*"))) + 1
                shutil.move(home, folder / "before_collect" / student / f"{key}-{number}")
            home.mkdir(parents=True)
            (home / name).write_bytes(one.data)
            if one.late:
                (home / dates.LATE).write_text(f"{report.platform} calls it late\n", encoding="utf-8")
            report.collected.append(student)
        if time:
            (home / dates.TIME).write_text(f"{time}\n", encoding="utf-8")
    roster.write_table(folder / RECORD, COLUMNS, [[row[column] for column in COLUMNS] for row in rows.values()])


def _time(one: Submission, zone: dt.tzinfo, zip_times: bool, report: Report) -> dt.datetime | None:
    """When it came in, as far as it is known: Moodle's worksheet says it; dates in a zip only where asked for."""
    time = one.modified if zip_times else None
    if one.person and one.person.submitted:
        try:
            time = times.parse(one.person.submitted)
        except (ValueError, OverflowError):
            report.remarks.append(f"{one.person.key}: the time {one.person.submitted!r} is not understood")
    if time is None:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(dt.UTC)
