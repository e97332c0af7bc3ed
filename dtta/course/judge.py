"""How a student's function is called and compared, so that every answer ends in one message that teaches.

Whatever the function does (stop with an error, run for ever, return a list), what comes out of here is either
nothing or ``Wrong``, which a notebook shows without a traceback.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dtta.course.reasons import compare, likely
from dtta.course.runner.stub import is_stub
from dtta.course.runner.wire import Stopped

SECONDS = 10.0  # for one call of a student's function; those of the solutions take milliseconds


class TooSlow(BaseException):  # not an Exception: a student's `except Exception` must not swallow it
    """A call took longer than it may."""


class Elsewhere:
    """A student's function in another process, which limits the time of a call there."""

    def call(self, arguments: tuple, seconds: float = SECONDS) -> object:
        """Call it there; TooSlow if it does not come back in time."""
        raise NotImplementedError

    def __call__(self, *arguments: object) -> object:
        return self.call(arguments)


class Wrong(AssertionError):
    """What a check found, in words for the student."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()  # IPython shows these lines in place of a traceback


class Student:
    """A student's function, called safely.

    Args:
        function: whatever the student's name holds; if it is no function, the first call says so.
        name: the name in the notebook.
        seconds: how long one call may take.
    """

    def __init__(self, function: object, name: str | None = None, seconds: float = SECONDS):
        self.function, self.seconds = function, seconds
        self.name = name or getattr(function, "__name__", "your function")
        self.calls = 0

    def __call__(self, *arguments: object) -> object:
        """The function's result.

        Raises:
            Wrong: not written yet, an error, too slow, nothing returned, or an argument changed in place.
        """
        self._written()
        before = [a.detach().clone() if isinstance(a, Tensor) else None for a in arguments]
        learning, modes = [_learning(a) for a in arguments], [_modes(a) for a in arguments]
        self.calls += 1
        try:
            # Python's warnings go to stderr, and nbgrader takes anything there for a failed test.
            with warnings.catch_warnings(), contextlib.redirect_stderr(sys.stdout):
                warnings.simplefilter("ignore")
                result = self._called(arguments)
        except TooSlow:
            self.fail(
                f"still ran after {self.seconds:g} s and was stopped. Is there a loop that never ends?", arguments
            )
        except Wrong:  # from a function that the check had handed in
            raise
        except (Exception, SystemExit) as error:
            if type(error).__name__ == "NotImplementedError" and not str(error):  # torch's own says for which dtype
                self._unwritten()
            lines = [f"stopped with {type(error).__name__}: {_first_line(error)}", self._where(error)]
            if torch.is_inference_mode_enabled() and "grad" in str(error):
                lines.append("  autograd is switched off in this check: write the derivative by hand")
            self.fail("\n".join(lines), arguments)
        if result is None:
            self.fail("returned nothing. Does it end with `return ...`?", arguments)
        for i, (old, new) in enumerate(zip(before, arguments, strict=True)):
            if old is not None and not _unchanged(old, new):
                self.fail(
                    f"changed its argument number {i + 1} in place, so whoever called it has lost the original. "
                    "Operations such as `+=`, `x[...] = ` and names that end in _ do that: make a new tensor.",
                    arguments,
                )
            if learning[i] != _learning(new):
                self.fail(
                    f"leaves a trace in its argument number {i + 1}: other `requires_grad` or `.grad` than before.\n"
                    "  a likely reason: `requires_grad_` or `backward` without `.detach()` before it",
                    arguments,
                )
            if any(after and not before for before, after in zip(modes[i], _modes(new), strict=False)):
                self.fail(
                    f"leaves its argument number {i + 1}, a network, in training mode: dropout and batch norm will "
                    "answer otherwise from now on. Leave out `.train()`, or call `.eval()` again",
                    arguments,
                )
        return result

    def gives(
        self,
        expected: Tensor,
        *arguments: object,
        what: str = "the result",
        reasons: Mapping[str, Tensor] | None = None,
        tolerance: float | None = None,
    ) -> Tensor:
        """Call the function and compare what came with what was expected.

        Args:
            expected: the right answer. If it requires a gradient, so must what came.
            what: what the number is, such as "z_t".
            reasons: likely mistakes in words, each with the wrong answer that it leads to.
            tolerance: relative to the largest expected number (default: 1e-5, and 1e-9 in float64).

        Raises:
            Wrong: with what was expected, what came, and a likely reason.
        """
        if tolerance is None:
            tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-5
        came = self(*arguments)
        if problem := _form(came, expected, what):
            self.fail(problem, arguments)
        if not torch.allclose(came, expected, rtol=tolerance, atol=tolerance * _scale(expected), equal_nan=True):
            reason = likely(came.detach(), expected.detach(), reasons or {}, max(tolerance, 1e-5))
            if torch.allclose(came, expected, rtol=1e-6, atol=1e-6 * _scale(expected), equal_nan=True):
                reason = "a part of it was computed in float32: `.float()`, or a tensor made without a dtype"
            place, right, wrong = compare(came, expected)
            lines = [
                f"gives other numbers than expected for {what}" + (f" (most at {place})" if place else ""),
                f"  expected:  {right}",
                f"  came:      {wrong}",
                *([f"  a likely reason: {reason}"] if reason else []),
            ]
            self.fail("\n".join(lines), arguments)
        if expected.requires_grad and not came.requires_grad:
            self.fail(
                f"returns {what} without a gradient: nothing could learn from it.\n"
                "  a likely reason: `.detach()`, `.item()`, `.data` or `torch.no_grad()` cut it off",
                arguments,
            )
        return came

    def fail(self, sentence: str, arguments: tuple = ()) -> None:
        """Raise Wrong with the function's name before the sentence and its arguments behind it."""
        called = f"\n  called with: {', '.join(map(describe, arguments))}" if arguments else ""
        raise Wrong(f"✗ {self.name} {sentence}{called}") from None

    def _called(self, arguments: tuple) -> object:
        if isinstance(self.function, Elsewhere):
            return self.function.call(arguments, self.seconds)
        with _limit(self.seconds):
            return self.function(*arguments)

    def _written(self) -> None:
        if self.function is ...:
            self._unwritten()
        if not callable(self.function):
            self.fail(
                f"is {describe(self.function)}, not a function. Did a later line give its name to something else?"
            )
        if is_stub(self.function):
            self._unwritten()

    def _unwritten(self) -> None:
        self.fail("is not written yet. Replace `...` in its cell by your code, run that cell, then this one again.")

    def _where(self, error: BaseException) -> str:
        """The student's own line in which an error arose."""
        if isinstance(error, Stopped):
            return f"  in its line: {error.where}" if error.where else "  (while it was called)"
        file = getattr(getattr(self.function, "__code__", None), "co_filename", None)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        return f"  in its line: {frames[-1].line}" if frames and frames[-1].line else "  (while it was called)"


def public(body: Callable[[Student], None]) -> Callable[[object], None]:
    """Make a check for students from a function that calls a ``Student`` and compares.

    What the student's function does wrong is raised as ``Wrong``; if nothing is, a line says so.
    """

    @functools.wraps(body)
    def check(function: object) -> None:
        student = Student(function, body.__name__)
        try:
            with usual_dtype():
                body(student)
        except Wrong:
            raise
        except Exception as error:  # a result so odd that the check itself fell over it
            student.fail(f"returned something that cannot be used ({type(error).__name__}: {_first_line(error)})")
        print(f"✓ {body.__name__}: right on {student.calls} {'try' if student.calls == 1 else 'different tries'}.")

    del check.__wrapped__  # its signature is the student's function, not the Student
    return check


@contextlib.contextmanager
def usual_dtype() -> Iterator[None]:
    """PyTorch's default dtype, whatever a student's notebook has made of it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def describe(value: object) -> str:
    """A value in a few words: the shape and dtype of a tensor, else what Python shows, cut short."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', 'given')}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _form(came: object, expected: Tensor, what: str) -> str | None:
    """What is wrong with the kind, shape or dtype of a result."""
    if not isinstance(came, Tensor):
        return f"should return {what} as a tensor, and returned {describe(came)}"
    if came.shape != expected.shape:
        sentence = f"should return {what} of shape {tuple(expected.shape)}, and returned shape {tuple(came.shape)}"
        if sorted(came.shape) == sorted(expected.shape):
            return f"{sentence}\n  a likely reason: two axes are swapped"
        if came.ndim == 0:
            return f"{sentence}\n  a likely reason: a mean or sum over everything; one axis has to stay"
        if came.squeeze().shape == expected.squeeze().shape:
            return f"{sentence}\n  a likely reason: an axis of length 1 too many or too few (keepdim, unsqueeze)"
        return sentence
    if came.dtype != expected.dtype:
        return f"should return {what} as {expected.dtype}, and returned {came.dtype}"
    return None


def _scale(expected: Tensor) -> float:
    finite = expected.detach()[expected.detach().isfinite()].double().abs()
    return max(finite.max().item(), 1e-3) if finite.numel() else 1.0


def _unchanged(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and torch.equal(old.nan_to_num(), new.detach().nan_to_num())


def _learning(value: object) -> tuple | None:
    """Whether a tensor asks for a gradient, and what its `.grad` holds."""
    if not isinstance(value, Tensor):
        return None
    grad = value.grad if value.is_leaf else None
    return value.requires_grad, None if grad is None else repr(grad.tolist())  # nan is like nan


def _modes(value: object) -> list[bool]:
    """Whether a network and its parts are in training mode."""
    return [part.training for part in value.modules()] if isinstance(value, nn.Module) else []


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Interrupt the body after some seconds, where the system can (not on Windows, not in threads)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooSlow

    handler, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:  # an alarm that someone else had set goes on
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)
