"""The course: graded assignments to the chapters of the book.

``dtta.course.check`` holds what a student calls: ``check.forward_process(forward_process)``. It needs nothing but
torch. ``dtta.course.staff`` builds, mends and grades; it needs the extra ``course``.
"""
