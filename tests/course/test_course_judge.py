"""What a student is told: whatever a function does, one message that says what to do, and no traceback."""

from __future__ import annotations

import signal
import sys
import time
import warnings

import pytest
import torch

from dtta.course.judge import Student, Wrong, public

ONE = torch.tensor([1.0, 2.0, 3.0])


def told(function, expected=2 * ONE, *arguments, **options):
    student = Student(function, "double", seconds=0.3)
    with pytest.raises(Wrong) as caught:
        student.gives(expected, *(arguments or (ONE.clone(),)), what="the double", **options)
    return str(caught.value)


def endless(x):
    while True:
        pass


def endless_and_deaf(x):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def unwritten(x):
    """Twice x."""
    ...  # your code here


def placeholder(x):
    raise NotImplementedError


def wrong_line(x):
    return x + "2"


def in_place(x):
    x *= 2
    return x


def for_some_dtypes(x):
    raise NotImplementedError("'double' not implemented for 'Bool'")


def leaves(x):
    sys.exit()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (endless, "still ran after 0.3 s and was stopped"),
        (endless_and_deaf, "still ran after 0.3 s and was stopped"),
        (unwritten, "is not written yet. Replace `...` in its cell by your code"),
        (placeholder, "is not written yet"),
        (..., "is not written yet"),
        (ONE, "is a float32 tensor of shape (3,), not a function"),
        (for_some_dtypes, "stopped with NotImplementedError: 'double' not implemented for 'Bool'"),
        (wrong_line, 'in its line: return x + "2"'),
        (leaves, "stopped with SystemExit"),
        (lambda x, y: x, "stopped with TypeError"),
        (lambda x: None, "returned nothing"),
        (in_place, "changed its argument number 1 in place"),
        (lambda x: [2.0, 4.0, 6.0], "should return the double as a tensor, and returned [2.0, 4.0, 6.0]"),
        (lambda x: 2 * x[:2], "of shape (3,), and returned shape (2,)"),
        (lambda x: (2 * x).sum(), "a mean or sum over everything"),
        (lambda x: (2 * x)[None], "an axis of length 1 too many"),
        (lambda x: 2 * x.double(), "as torch.float32, and returned torch.float64"),
        (lambda x: -2 * x, "the sign is the wrong way round"),
        (lambda x: 2 * x.flip(0), "the order along axis 0 is reversed"),
        (lambda x: 6 * x, "every number is 3 times too large"),
        (lambda x: (-x).log(), "nan results from 0/0"),
    ],
)
def test_each_mistake_ends_in_a_message(function, words):
    said = told(function)
    assert said.startswith("✗ double ") and words in said


def test_the_message_shows_the_worst_place_with_digits_that_differ():
    right = torch.arange(30.0).view(5, 6)
    wrong = right.clone()
    wrong[3, 1], wrong[0, 2] = 19.0005, 2.0001
    lines = told(lambda x: wrong, right).splitlines()
    assert lines[0].endswith("(most at [3, 1])")
    assert lines[1].split("expected:")[1].strip() == "…, 16, 17, 18, [19], 20, 21, …"
    assert lines[2].split("came:")[1].strip() == "…, 16, 17, 18, [19.0005], 20, 21, …"


def test_a_single_number_has_no_invented_factor():
    assert "likely reason" not in told(lambda x: 3 * x.sum(), torch.tensor(11.0))
    assert "every number is 4 times too small" in told(lambda x: x / 2)


def leftover(x):
    ...  # your code here
    return 2 * x
    ...  # your code here


def test_dots_left_beside_an_answer_do_no_harm():
    Student(leftover, "double").gives(2 * ONE, ONE.clone())


def test_a_network_left_in_training_mode_is_told():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout()).eval()
    with pytest.raises(Wrong, match="argument number 1, a network, in training mode"):
        Student(lambda net: net.train()(ONE))(network)
    Student(lambda net: net.eval()(ONE))(network.train())  # the other way round does no harm


def test_a_check_is_made_in_the_usual_dtype():
    @public
    def half(student):
        assert torch.tensor([1.0]).dtype == torch.float32
        student.gives(torch.tensor([0.5]), torch.tensor([1.0]))

    torch.set_default_dtype(torch.float64)
    try:
        half(lambda x: x / 2)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_known_reasons_come_before_general_ones():
    assert "a likely reason: twice too much" in told(lambda x: 4 * x, reasons={"twice too much": 4 * ONE})


def test_a_cut_gradient_is_told():
    x = ONE.clone().requires_grad_()
    assert "returns the double without a gradient" in told(lambda x: 2 * x.detach(), 2 * x, x)
    Student(lambda x: 2 * x).gives(2 * x, x)


def test_autograd_where_it_is_switched_off_is_told():
    def by_autograd(x):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(leaf.square().sum(), leaf)[0]

    with torch.inference_mode():
        assert "write the derivative by hand" in told(by_autograd)


def test_an_alarm_that_was_set_before_still_rings():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        Student(lambda x: x)(ONE)
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [1]


def test_what_a_function_prints_and_warns_of_does_not_reach_stderr(capsys):
    """nbgrader takes anything there for a failed test."""

    def noisy(x):
        warnings.warn("old", stacklevel=1)
        print("look", file=sys.stderr)
        return x

    Student(noisy)(ONE)
    said = capsys.readouterr()
    assert said.err == "" and "look" in said.out


def test_a_check_says_when_all_is_right_and_never_falls_over_a_result(capsys):
    @public
    def double(student):
        student.gives(2 * ONE, ONE)
        assert len(student(ONE)) == 3

    double(lambda x: 2 * x)
    assert capsys.readouterr().out == "✓ double: right on 2 different tries.\n"

    @public
    def length(student):
        len(student(ONE))

    with pytest.raises(Wrong, match=r"returned something that cannot be used \(TypeError"):
        length(lambda x: 3)
    assert Wrong("one\ntwo")._render_traceback_() == ["one", "two"]


def test_an_argument_that_learns_afterwards_has_changed():
    def forgets_detach(x):
        x.requires_grad_()
        (x * x).sum().backward()
        return x.grad

    assert "leaves a trace in its argument number 1" in told(forgets_detach)


def test_double_precision_is_held_to_double_precision():
    double = torch.tensor([0.1, 0.7], dtype=torch.float64)
    Student(lambda x: 2 * x, "double").gives(2 * double, double)
    assert "computed in float32" in told(lambda x: (2 * x.float()).double(), 2 * double, double)
