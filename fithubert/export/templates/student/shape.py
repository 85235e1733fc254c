"""A student's shape, as config.json has it."""

from types import SimpleNamespace


class StudentConfig(SimpleNamespace):
    """The fields of fithubert's StudentConfig and some of its properties.

    `factors`: by how much the frame rate of each layer 0..L is reduced. `layer_sizes`: attention heads, features of
    each, and feed-forward units of each transformer layer. `read_pairs`: the entries of the layer map that are read.
    """

    def factor_of(self, layer):
        """By how much the frame rate of `layer`'s state is reduced."""
        return self.factors[layer]


MaskingConfig = TimeReductionConfig = StudentConfig


def read_shape(values):
    """The shape in `values`, a mapping as JSON gives it, nested ones included."""
    return StudentConfig(**{key: read_shape(v) if isinstance(v, dict) else v for key, v in values.items()})
