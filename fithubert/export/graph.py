"""An exported graph made smaller; what it computes stays as it is."""

from pathlib import Path
from typing import Any


def tidy_graph(path: Path) -> None:
    """Leave out of the graph in `path` the guards of attention, and what the exporter noted about where it was."""
    import onnx

    model = onnx.load(path)
    _drop_nan_guards(model.graph)
    for node in model.graph.node:
        # the lines of source that a node comes from, with the paths of this machine
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    onnx.save(model, path)


def _drop_nan_guards(graph: Any) -> None:
    """Remove what replaces rows of attention that are no numbers.

    torch guards its softmax against rows that are masked throughout. A student's mask never is: every row may attend
    to its first frame at least (`attention_mask`). The guard is a pass over every attention map.
    """
    tests = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "IsNaN"}
    guards = [node for node in graph.node if node.op_type == "Where" and tests.get(node.input[0]) == node.input[2]]
    kept = {node.output[0]: node.input[2] for node in guards}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in kept:
                node.input[index] = kept[name]
    for node in [*guards, *(node for node in graph.node if node.op_type == "IsNaN")]:
        graph.node.remove(node)
