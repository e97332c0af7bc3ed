"""Zip files of Canvas, Moodle and Google Classroom; rosters; late work; tables that go back; similar work; solutions.

The zips are stand-ins in the layouts that these platforms write: Canvas's lib/content_zipper.rb, Moodle's
mod/assign/classes/downloader.php, and folders of Google Drive.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import struct
import zipfile

import nbformat
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dtta.cli import main
from dtta.course.staff import archive, build, collect, dates, grade, lms, roster, similar, solutions
from dtta.course.staff.grade import Score
from dtta.course.staff.source import CourseError

NAME = "a1_diffusion_loss.ipynb"
GIVEN = "import torch\n\nfrom dtta.course import check"
CANVAS = """\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,a1: The diffusion loss (4711),Final Score
    Points Possible,,,,,20,(read only)
"Lovelace, Ada",12,S1,ada,Ⅰ,,
"Müller, Jürgen",13,S2,juergen,Ⅰ,,
"Gauß, Carl Friedrich",14,S3,carl,Ⅱ,,
"Student, Test",99,,test,Ⅰ,,
"""
MOODLE = """\ufeffIdentifier,Full name,ID number,Email address,Status,Grade,Maximum grade,Grade can be changed,\
Last modified (submission),Last modified (grade),Feedback comments
Participant 501,Ada Lovelace,77,ada@x.org,Submitted for grading,,20.00,Yes,"Tuesday, 13 April 2027, 1:30 AM",-,
Participant 502,Jürgen Müller,78,jm@x.org,No submission,,20.00,Yes,-,-,
"""


def notebook(*cells: str) -> bytes:
    code = [nbformat.v4.new_code_cell(text, id=f"c{n}") for n, text in enumerate(cells)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=code)).encode()


def pack(path, files, **options):
    """Write a zip of names and contents."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(name, date_time=(2027, 4, 12, 10, 0, 0)), content, **options)
    return path


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "course"
    for key, name in {"a1": NAME, "a2": "a2_conditions.ipynb"}.items():
        (folder / "release" / key).mkdir(parents=True)
        (folder / "release" / key / name).write_bytes(notebook(GIVEN))
    (folder / "submitted").mkdir()
    return folder


def table(path) -> list[list[str]]:
    """The rows of a CSV; it must have the mark by which Excel knows the encoding."""
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))


def submitted(course, student, key="a1"):
    return course / "submitted" / student / key / NAME


def test_canvas_with_roster_late_marks_resubmissions_and_the_missing(course, tmp_path, capsys):
    inner = io.BytesIO()
    pack(inner, {"work/a1_diffusion_loss.ipynb": notebook("3"), "__MACOSX/work/._a1_diffusion_loss.ipynb": b"junk"})
    files = {
        "lovelaceada_12_9001_a1_diffusion_loss.ipynb": notebook("1"),
        "lovelaceada_12_9002_a1_diffusion_loss-1.ipynb": notebook("2"),
        "lovelaceada_12_9003_data.ipynb": notebook("0"),
        "müllerjürgen_LATE_13_9004_my work.zip": inner.getvalue(),
        "someoneelse_55_9005_a1_diffusion_loss.ipynb": notebook("4"),
        "__MACOSX/._lovelaceada_12_9001_a1_diffusion_loss.ipynb": b"junk",
    }
    path = pack(tmp_path / "submissions.zip", files)
    (tmp_path / "canvas.csv").write_text(CANVAS, encoding="utf-8")
    command = ["course", "collect", str(path), "--to", str(course), "--roster", str(tmp_path / "canvas.csv")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "a1 ada: 3 notebooks; took lovelaceada_12_9002_a1_diffusion_loss-1.ipynb" in said
    assert "a1 someoneelse_55 is not on the roster" in said
    assert "3 new or changed: ada, juergen, someoneelse_55\n" in said and "1 late: juergen\n" in said
    assert "1 on the roster have handed in nothing: Gauß, Carl Friedrich\n" in said
    assert submitted(course, "ada").read_bytes() == notebook("2")
    assert submitted(course, "juergen").read_bytes() == notebook("3")
    assert (course / "submitted" / "juergen" / "a1" / "late.txt").is_file()
    assert sorted(p.name for p in (course / "submitted").iterdir()) == ["ada", "juergen", "someoneelse_55"]

    submitted(course, "ada").write_text("as the doctor left it", encoding="utf-8")
    files["müllerjürgen_LATE_13_9004_my work.zip"] = notebook("new")  # named as a zip, and none
    files["müllerjürgen_13_9010_a1_diffusion_loss-1.ipynb"] = notebook("5")
    pack(path, files)
    assert main(command[:-2]) == 0  # the roster is known
    assert "1 new or changed: juergen\n2 unchanged: ada, someoneelse_55\n" in capsys.readouterr().out
    assert submitted(course, "ada").read_text(encoding="utf-8") == "as the doctor left it"
    assert submitted(course, "juergen").read_bytes() == notebook("5")
    assert (course / "before_collect" / "juergen" / "a1-1" / NAME).read_bytes() == notebook("3")


@pytest.mark.parametrize("folders", ["_/", "/", "_"])  # up to Moodle 4.0, since, and without folders
def test_moodle_with_times_from_its_worksheet(course, tmp_path, folders):
    path = pack(tmp_path / "m.zip", {f"Ada Lovelace_501_assignsubmission_file{folders}{NAME}": notebook("1")})
    (tmp_path / "w.csv").write_text(MOODLE, encoding="utf-8")
    (course / "course.toml").write_text('timezone = "Europe/Berlin"', encoding="utf-8")
    report = collect.collect(course, [path], table=tmp_path / "w.csv")
    assert (report.platform, report.collected, [p.name for p in report.missing]) == (
        "moodle",
        ["77"],
        ["Jürgen Müller"],
    )
    assert submitted(course, "77").read_bytes() == notebook("1")
    assert dates.handed_in(course, "a1", "77") == dt.datetime(2027, 4, 12, 23, 30, tzinfo=dt.UTC)


def test_classroom_by_names_in_files_or_folders(course, tmp_path):
    parts = [
        {f"a1/Ada Lovelace - {NAME}": notebook("1"), f"a1/Bo Li - {NAME[:-6]} (1).ipynb": notebook("2")},
        {f"a1/Cy Ó Sé/Copy of {NAME}": notebook("3"), f"a1/{NAME}": notebook("whose?"), "a1/Di - essay.pdf": b"%PDF"},
    ]
    paths = [pack(tmp_path / f"a1-{n}.zip", files) for n, files in enumerate(parts)]
    report = collect.collect(course, paths, zip_times=True)
    assert report.platform == "classroom" and report.collected == ["Ada_Lovelace", "Bo_Li", "Cy_Ó_Sé"]
    assert report.remarks == [f"a1/{NAME} does not say whose it is", "Di: no notebook, but Di - essay.pdf"]
    assert dates.handed_in(course, "a1", "Bo_Li") == dt.datetime(2027, 4, 12, 10, tzinfo=dt.UTC)


def lying(path):
    """A zip whose table says that its one file is small."""
    pack(path, {f"ada_1_2_{NAME}": b"\0" * 3000})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(bytes(data))


def no_zip(path):
    path.write_bytes(b"<html>please log in</html>")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({f"../../ada_1_2_{NAME}": b""}, "a path that leads out of it"),
        ({f"/etc/ada_1_2_{NAME}": b""}, "a path that leads out of it"),
        ({f"C:/ada_1_2_{NAME}": b""}, "a path that leads out of it"),
        ({f"..\\ada_1_2_{NAME}": b""}, "a path that leads out of it"),
        ({f"ada_1_{n}_{NAME}": b"\0" * 900 for n in range(9)}, "unpacks to more than"),
        ({f"ada_1_{n}.txt": b"" for n in range(30)}, "unpacks to more than 20 files"),
        ({NAME: b"{}"}, "no file that names its student"),
        ({"ada_1_2_notes.ipynb": b"{}"}, "no file named after an assignment; say which it is: --assignment a1|a2"),
        ({f"Bo Li_{n}_assignsubmission_file/{NAME}": b"{}" for n in (1, 2)}, "two students whose name is Bo_Li"),
        (lying, "cannot be opened as a zip"),
        (no_zip, "cannot be opened as a zip"),
    ],
)
def test_a_zip_that_cannot_be_used_is_one_sentence_and_nothing_is_written(
    course, tmp_path, monkeypatch, capsys, files, words
):
    monkeypatch.setattr(archive, "TOTAL", 4000)
    monkeypatch.setattr(archive, "FILES", 20)
    path = tmp_path / "s.zip"
    pack(path, files) if isinstance(files, dict) else files(path)
    assert main(["course", "collect", str(path), "--to", str(course)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not any((course / "submitted").iterdir()) and not (course / "collected.csv").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "has no students; it needs a header with"),
        ("name,email\nBo,b@x\nCy,b@x\n", "b@x appears twice"),
        ("", "is empty"),
        (None, "cannot be read"),
        (b"name\nJ\xfcrgen\n", "is not in UTF-8; save it from Excel as 'CSV UTF-8'"),
    ],
)
def test_a_roster_that_cannot_be_used_is_one_sentence(course, tmp_path, text, words):
    path = tmp_path / "r.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    zipped = pack(tmp_path / "s.zip", {f"ada_1_2_{NAME}": b"{}"})
    with pytest.raises(CourseError, match=words):
        collect.collect(course, [zipped], table=path)


def test_two_on_the_roster_with_one_name_are_not_guessed(course, tmp_path):
    (tmp_path / "r.csv").write_text("name;email\nBo Li;b@x\nLi, Bo;c@x\n", encoding="utf-8")
    zipped = pack(tmp_path / "s.zip", {f"a1/Bo Li - {NAME}": b"{}"})
    with pytest.raises(CourseError, match="may be of b@x, c@x: they have one name"):
        collect.collect(course, [zipped], table=tmp_path / "r.csv")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12), min_size=5, max_size=40))
@example(["=1+1", "+49 30", "-1", "-x", "@SUM", "\t=1", " =1", "Gauß"])
def test_no_text_in_a_table_is_a_formula_and_all_come_back(tmp_path, texts):
    path = tmp_path / "t.csv"
    texts = [text.replace("\r", "").replace("\0", "") for text in texts]
    roster.write_table(path, [f"h{n}" for n in range(len(texts))], [texts])
    for before, after in zip(texts, table(path)[1:][0], strict=True):
        assert after in (before, f"'{before}")
        assert (
            len(after) < 2
            or after.lstrip(" ")[:1] not in tuple("=+-@\t")
            or after.lstrip("+-").replace(".", "").isdigit()
        )


DATES = """
timezone = "Europe/Berlin"
[late]
per_day = 0.1
at_most = 0.25
grace_minutes = 10
[deadlines]
a1 = 2027-04-12T23:59:00
a2 = 2027-04-20
[extensions.a1]
bo = 2027-04-14T12:00:00Z
"""


@pytest.mark.parametrize(
    ("student", "when", "days", "left"),
    [
        ("ada", "2027-04-12 21:59:00", 0, 20),
        ("ada", "2027-04-12 22:09:00", 0, 20),  # within the grace
        ("ada", "2027-04-12 22:09:01", 1, 18),
        ("ada", "2027-04-13 22:00:00", 2, 16),
        ("ada", "2027-05-01 00:00:00", 19, 15),  # no more than a quarter
        ("bo", "2027-04-14 12:00:00", 0, 20),  # has an extension
        ("bo", "2027-04-14 13:00:00", 1, 18),
    ],
)
def test_late_work_loses_a_share_for_each_day_begun(course, student, when, days, left):
    (course / "course.toml").write_text(DATES, encoding="utf-8")
    (course / "submitted" / student / "a1").mkdir(parents=True)
    (course / "submitted" / student / "a1" / "timestamp.txt").write_text(f"{when} UTC", encoding="utf-8")
    (total,) = dates.totals(course, "a1", [Score(student, "x", 20.0, 20.0)], dates.read(course))
    assert (total.days, total.raw, total.points) == (days, 20, left)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "is no TOML"),
        ("due = 3", "unknown due; it has timezone, late"),
        ('timezone = "Berlin"', "no timezone 'Berlin'"),
        ("[late]\nper_day = 10", "per_day must be a number from 0 to 1, not 10"),
        ("[late]\nper_week = 0.1", "late: unknown per_week"),
        ('[deadlines]\na1 = "2027-04-12"', "deadlines.a1 must be a time without quotes"),
        ("[extensions.a1]\nbo = 2027-04-12", "a1 has extensions and no deadline"),
        ("[deadlines]\na1 = 2027-04-12\n[extensions.a1]\nboo = 2027-04-13", "nobody on the roster is called boo"),
    ],
)
def test_a_course_toml_that_is_not_understood_is_one_sentence(course, text, words):
    (course / "course.toml").write_text(text, encoding="utf-8")
    (course / "roster.csv").write_text("name,login\nBo Li,bo\n", encoding="utf-8")
    with pytest.raises(CourseError, match=words):
        dates.read(course)


def test_the_example_of_course_toml_is_understood(course):
    dates.write_example(course)
    assert dates.read(course).penalty(20, 3) == 0
    uncommented = dates.EXAMPLE.replace("\n# a", "\na")
    (course / "course.toml").write_text(uncommented, encoding="utf-8")
    assert dates.read(course).last("a1") == dt.datetime(2027, 4, 15, 23, 59, tzinfo=dt.UTC)


@pytest.fixture
def graded(course):
    """Ada in time, Jürgen late with no time, Carl with nothing; Eve is not on the roster and waits."""
    (course / "course.toml").write_text("[late]\nper_day = 0.1\n[deadlines]\na1 = 2027-04-12", encoding="utf-8")
    for student, file, text in (("ada", "timestamp.txt", "2027-04-13 09:00:00 UTC"), ("juergen", "late.txt", "")):
        (course / "submitted" / student / "a1").mkdir(parents=True)
        (course / "submitted" / student / "a1" / file).write_text(text, encoding="utf-8")
    scores = [Score("ada", "x", 15.0, 20.0), Score("juergen", "x", 10.0, 20.0), Score("=eve", "x", None, 20.0)]
    return {"a1": list(dates.totals(course, "a1", scores, dates.read(course)))}


def test_canvas_gets_its_own_columns_and_the_final_points(course, graded):
    (course / "roster.csv").write_text(CANVAS, encoding="utf-8")
    (course / "submitted" / "dan" / "a1").mkdir(parents=True)
    lms.write(course, graded, "canvas")
    assert table(course / "report" / "lms.csv") == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "a1: The diffusion loss (4711)"],
        ["    Points Possible", "", "", "", "", "20"],
        ["Lovelace, Ada", "12", "S1", "ada", "Ⅰ", "13.5"],
        ["Müller, Jürgen", "13", "S2", "juergen", "Ⅰ", ""],
        ["Gauß, Carl Friedrich", "14", "S3", "carl", "Ⅱ", ""],
        ["", "", "", "'=eve", "", ""],
        ["", "", "", "dan", "", ""],
    ]
    rows = {row[1]: row for row in table(course / "report" / "points.csv")}
    assert rows["ada"][3] == "12" and rows["ada"][6:11] == ["1", "15", "1.5", "13.5", "20.0"]
    assert rows["juergen"][7:10] == ["10", "0.0", ""] and "late, and when is not known" in rows["juergen"][-1]
    assert rows["carl"][-1] == "nothing handed in" and rows["dan"][-1] == "handed in, not graded"
    assert "1 answers wait" in rows["'=eve"][-1]


def test_moodle_gets_its_worksheet_back_with_the_grades(course, graded):
    sheet = MOODLE.replace("77,ada@x.org", ",ada")
    for path in (course / "roster.csv", course / "worksheets" / "a1.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(sheet, encoding="utf-8")
    lms.write(course, graded, "moodle")
    before, after = (list(csv.DictReader(text.splitlines())) for text in (
        sheet.removeprefix("\ufeff"),
        (course / "report" / "moodle_a1.csv").read_text(encoding="utf-8-sig"),
    ))  # fmt: skip
    assert [row.pop("Grade") for row in after] == ["13.5", ""]
    assert after == [{name: value for name, value in row.items() if name != "Grade"} for row in before]
    rows = table(course / "report" / "lms.csv")
    assert rows[:2] == [["Full name", "ID number", "Email address", "a1 (20)"], ["Ada Lovelace", "ada", "ada", "13.5"]]


MINE = """
def belief_gradient(network, image, steps):
    total = 0
    for number in range(steps):
        answer = network(image + number).softmax(1)
        total = total + (answer * answer.log()).sum() / steps
    best = sorted(((float(answer[0, k]), k) for k in range(10)), reverse=True)[:3]
    return total, [k for value, k in best if value > 0.125]
"""
RENAMED = """
# I wrote this
def belief_gradient(f, x, n):
    s = 0
    for i in range(n):
        y = f(x + i).softmax(1)   # softmax
        s = s + (y * y.log()).sum() / n

    top = sorted(((float(y[0, j]), j) for j in range(10)), reverse=True)[:3]
    return s, [j for v, j in top if v > 0.125]
"""
OTHER = """
def belief_gradient(network, image, steps):
    logs = torch.stack([network(image + i).log_softmax(1) for i in torch.arange(steps)])
    values, order = logs[-1].exp().topk(3)
    return (logs.exp() * logs).mean(0).sum(), order[values > 1 / 8].tolist()
"""


def test_renamed_copies_are_found_and_the_given_cells_and_the_solution_are_not(course, capsys):
    shared = "assert belief_gradient(torch.nn.Identity(), torch.zeros(1, 10), 3)[0] < sum([1, 2, 3]) + len('four')"
    (course / "release" / "a1" / NAME).write_bytes(notebook(GIVEN, shared))
    works = {"ada": MINE, "bo": RENAMED, "cy": OTHER}
    for student, text in works.items():
        (course / "submitted" / student / "a1").mkdir(parents=True)
        submitted(course, student).write_bytes(notebook(GIVEN, shared, text))
    assert main(["course", "similar", str(course), "a1"]) == 0
    said = capsys.readouterr().out
    assert "a1 ada and bo: 1.00" in said and "a1: 1 pairs at 0.5 or more" in said and "cy" not in said
    words = (course / "report" / "similar_a1.md").read_text(encoding="utf-8")
    assert "best = sorted" in words and "top = sorted" in words and "torch.nn.Identity" not in words
    assert [row[1:3] for row in table(course / "report" / "similar_a1.csv")[1:]] == [["ada", "bo"]]
    (course / "source" / "a1").mkdir(parents=True)
    (course / "source" / "a1" / NAME).write_bytes(notebook(MINE))  # what everyone who is right would write
    assert similar.compare(course, "a1") == []
    submitted(course, "bo").write_text("not a notebook", encoding="utf-8")
    assert similar.compare(course, "a1") == []
    assert main(["course", "similar", str(course), "--at-least", "5"]) == 2
    assert "must be a number from 0 to 1, not '5'" in capsys.readouterr().err


def test_solutions_wait_for_the_last_deadline_and_hold_no_hidden_tests(course, capsys):
    secret = "# Hidden tests run here.\n### BEGIN HIDDEN TESTS\nassert answer == 42, 'secret'\n### END HIDDEN TESTS"
    (course / "source" / "a1").mkdir(parents=True)
    (course / "source" / "a1" / NAME).write_bytes(
        notebook("### BEGIN SOLUTION\nanswer = 42\n### END SOLUTION", secret, "print(answer)")
    )
    command = ["course", "solutions", str(course), "a1"]
    for text, words in (
        ("", "a1 has no deadline in"),
        ("[deadlines]\na1 = 2999-01-01", "a1 is due on 2999-01-01 23:59 UTC"),
        ("[deadlines]\na1 = 2020-01-01\n[extensions.a1]\nbo = 2999-01-01", "2999-01-01 23:59 UTC, by an extension"),
    ):
        (course / "course.toml").write_text(text, encoding="utf-8")
        assert main(command) == 2
        said = capsys.readouterr().err
        assert words in said and "add --force" in said
    assert main([*command, "--force"]) == 0
    path = course / "released_solutions" / NAME
    assert f"without hidden tests: {path}" in capsys.readouterr().out
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.source for cell in cells] == ["answer = 42", "print(answer)"] and cells[1].outputs[0].text == "42\n"
    (course / "course.toml").write_text("[deadlines]\na1 = 2020-01-01", encoding="utf-8")
    assert solutions.too_early(course, ["a1"], dt.datetime.now(dt.UTC)) == []
    assert main(["course", "solutions", str(course), "a7"]) == 2
    assert "source has no a7" in capsys.readouterr().err


def test_penalties_reach_the_gradebook(course):
    from nbgrader.api import Gradebook

    (course / "course.toml").write_text("[late]\nper_day = 0.5\n[deadlines]\na1 = 2027-04-12", encoding="utf-8")
    (course / "roster.csv").write_text("name,login,email\nAda Lovelace,ada,ada@x.org\n", encoding="utf-8")
    (course / "submitted" / "ada" / "a1").mkdir(parents=True)
    (course / "submitted" / "ada" / "a1" / "timestamp.txt").write_text("2027-04-13 09:00:00 UTC", encoding="utf-8")
    build.grader(course)  # lets nbgrader find alembic
    with Gradebook(f"sqlite:///{course}/gradebook.db", "dtta") as book:
        book.add_assignment("a1")
        book.add_notebook("n", "a1")
        book.add_grade_cell("c", "n", "a1", max_score=8, cell_type="code")
        book.add_student("ada")
        book.add_submission("a1", "ada")
        book.find_grade("c", "n", "a1", "ada").manual_score = 6
        book.db.commit()
    rows = list(csv.DictReader(grade.export(course).read_text(encoding="utf-8-sig").splitlines()))
    assert [rows[0][name] for name in ("email", "raw_score", "late_submission_penalty", "score")] == [
        "ada@x.org", "6.0", "3.0", "3.0",
    ]  # fmt: skip
