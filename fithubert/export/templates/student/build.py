"""A student from its shape."""

from .shape import read_shape
from .student import Student


def build_student(values):
    """The student of the shape in `values` with random weights, its weight norm folded, in evaluation mode."""
    student = Student(read_shape(values))
    student.positional.fold_weight_norm()
    return student.eval()
