"""What a network says last, and what it need not say."""

from dataclasses import replace

from inference.models.graph import Graph


def without_softmax(graph: Graph) -> tuple[Graph, int]:
    """Ending before its last softmax, where that is over many classes: whoever reads needs it only where they read
    (recognition.decoded). And how many nodes were cut; the same graph when there is no such softmax."""
    last = graph.nodes[-1]
    if last.op != "Softmax" or len(graph.outputs) != 1 or len(graph.outputs[0].shape) < 3:
        return graph, 0
    port = replace(graph.outputs[0], name=last.inputs[0])
    return replace(graph, nodes=graph.nodes[:-1], outputs=(port,)), 1
