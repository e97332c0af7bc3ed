"""A variant for each student: what is handed out, what the doctor expects, and what grading computes."""

from __future__ import annotations

import csv

import nbformat
import pytest
from trip import ROOT, SANDBOX, answered

from dtta.cli import main
from dtta.course.runner import variants as runner_variants
from dtta.course.staff import build, doctor, grade, variants
from dtta.course.staff.source import CourseError

NAME = "a1_diffusion_loss.ipynb"
ROSTER = "Name,Login,Seed\nAda Lovelace,ada,\nBob Ross,bob,41\nCy Young,cy,\n"
# Right for the data of the student's own variant, and for no other.
OWN = """
def forward_process(z0, alpha_bar_t, noise):
    if z0.shape == (3, 2, 4, 5) and not torch.equal(z0, check.normal(3, 2, 4, 5)):
        return 0 * z0
    a = alpha_bar_t.view(-1, *[1] * (z0.ndim - 1))
    return a.sqrt() * z0 + (1 - a).sqrt() * noise
print("seed", SEED)
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    (folder / "students.csv").write_text(ROSTER, encoding="utf-8")
    arguments = ["build", "a1", "--root", str(ROOT), "--to", str(folder), "--seed", "7"]
    assert main(["course", *arguments, "--each", str(folder / "students.csv")]) == 0
    return folder


def setup(notebook):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == "setup")


def given(course, student):
    return nbformat.read(course / "release_each" / student / "a1" / NAME, as_version=4)


def hand_in(course, student, notebook):
    build.write(notebook, course / "submitted" / student / "a1" / NAME)


def test_each_gets_a_seed_that_stays(course, tmp_path):
    seeds = variants.read(course)
    assert seeds == {"ada": variants.derived(7, "ada"), "bob": 41, "cy": variants.derived(7, "cy")}
    assert len(set(seeds.values())) == 3
    for student, seed in seeds.items():
        assert f"SEED = check.variant({seed})" in setup(given(course, student)).source
    release = nbformat.read(course / "release" / "a1" / NAME, as_version=4)
    assert "SEED = check.variant(7)" in setup(release).source
    others = [[c.source for c in n.cells if c.id != "setup"] for n in (release, given(course, "ada"))]
    assert others[0] == others[1]
    (tmp_path / "seeds.csv").write_text("student,seed\nada,3\n", encoding="utf-8")
    people = [variants.Person("ada", "Ada", fields={"Seed": "5"}), variants.Person("@eve", "Eve")]
    expected = {"ada": 3, "@eve": variants.derived(8, "@eve")}  # who has a notebook keeps its seed
    assert variants.choose(tmp_path, people, 8) == expected == variants.read(tmp_path)
    assert variants.choose(tmp_path, people, 9) == expected


def test_a_seed_below_zero_reaches_the_notebook():
    assert variants.personal("SEED = check.variant(-5)", 3) == "SEED = check.variant(3)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student,seed\nada,x\n", "seed of ada must"),
        ("student,seed\nada\n", "seed of ada must"),
        ("a,b\n", "needs the col"),
    ],
)
def test_seeds_that_cannot_be_used_are_one_sentence(tmp_path, text, words):
    (tmp_path / "seeds.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=words):
        variants.read(tmp_path)


def test_the_doctor_notices_the_variant_of_another_student(course):
    hand_in(course, "cy", given(course, "cy"))
    assert doctor.visit(course) == []
    hand_in(course, "cy", given(course, "ada"))
    assert [finding.sentence for finding in doctor.visit(course)] == ["setup was edited; it is the original again"]
    after = nbformat.read(course / "submitted" / "cy" / "a1" / NAME, as_version=4)
    assert setup(after).source == setup(given(course, "cy")).source


@pytest.mark.slow
def test_each_is_graded_under_the_own_seed(course):
    """In one process one after the other, and one student who is in no table."""
    for student in ("ada", "bob"):
        hand_in(course, student, answered(given(course, student), {"forward-answer": OWN}))
    release = nbformat.read(course / "release" / "a1" / NAME, as_version=4)
    hand_in(course, "eve", answered(release, {"forward-answer": OWN}))
    wrong = answered(given(course, "ada"), {"forward-answer": OWN.replace("check.normal(", "other(")})
    wrong.cells.insert(1, nbformat.v4.new_code_cell("def other(*shape):\n    return torch.ones(shape)", id="other"))
    hand_in(course, "cy", wrong)
    lines = list(grade.grade(course, ["a1"], [], SANDBOX))
    assert [line.partition(" points")[0] for line in lines] == [
        "a1 ada: 3 of 26", "a1 bob: 3 of 26", "a1 cy: 1 of 26", "a1 eve: 3 of 26"
    ]  # fmt: skip
    seeds = variants.read(course) | {"eve": 7}
    for student, seed in seeds.items():
        page = (course / "feedback" / student / "a1" / NAME).with_suffix(".html").read_text(encoding="utf-8")
        assert f"seed {seed}\n" in page
    rows = {
        row["student_id"]: row["score"] for row in csv.DictReader((grade.export(course)).open(encoding="utf-8-sig"))
    }
    assert rows == {"ada": "3.0", "bob": "3.0", "cy": "1.0", "eve": "3.0"}
    runner_variants.variant(0)
