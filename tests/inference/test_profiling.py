"""A profile names all of the time; a rewrite is kept only when nothing that is read changes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference import images, profiling
from inference.backends import Floats
from inference.models import graph, ppocr, weights
from inference.models.graph import Graph, Node, Port


def network(*nodes: Node, outputs: str = "y", **constants: Floats) -> Graph:
    def port(name: str) -> Port:
        return Port(name=name, kind="float32", shape=("n", 4, "classes"))

    return Graph(
        nodes=nodes, constants=constants, inputs=(port("x"),), outputs=(port(outputs),), opset=13, metadata={"a": "b"}
    )


def node(op: str, inputs: str, output: str) -> Node:
    return Node(op=op, inputs=tuple(inputs.split()), outputs=(output,))


SAMPLE = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)


def test_the_shares_of_a_page_add_up_and_rewrites_are_proven(pages: Path) -> None:
    page = images.decode((pages / "packaging.png").read_bytes())
    found = {each.network: each for each in profiling.profile([page], top=10_000)}
    assert list(found) == ["detector", "orienter", "recogniser"]
    for each in found.values():
        for parts in (each.operations, each.nodes, each.branches):
            assert sum(part.share for part in parts) == pytest.approx(1)
            assert sum(part.seconds for part in parts) == pytest.approx(each.seconds)
            assert [part.seconds for part in parts] == sorted((part.seconds for part in parts), reverse=True)
        assert len(each.branches) < len(each.nodes)
    proofs = {(each.network, proof.rewrite): proof for each in found.values() for proof in each.rewrites}
    subnormal = proofs["detector", "subnormal weights to zero"]
    assert (subnormal.touched, subnormal.difference, subnormal.kept) == (255_958, 0.0, True)
    dead = proofs["detector", "channels that nobody reads"]
    assert (dead.touched, dead.kept) == (672, True)
    assert dead.difference is not None
    assert dead.difference <= profiling.PROBABILITY_TOLERANCE
    assert proofs["recogniser", "channels that nobody reads"].touched == 0
    head = proofs["recogniser", "softmax only where it is read"]
    assert (head.touched, head.kept) == (1, True)
    assert head.difference is not None
    assert 0 <= head.difference <= profiling.PROBABILITY_TOLERANCE
    assert not proofs["orienter", "nodes that no output needs"].touched


def test_branches_are_the_runs_between_forks_and_joins() -> None:
    found = profiling.branches(
        network(
            node("Relu", "x", "stem"),
            node("Exp", "stem", "forked"),
            node("Abs", "forked", "left"),
            node("Neg", "left", "left2"),
            node("Neg", "forked", "right"),
            node("Add", "left2 right", "y"),
        )
    )
    assert found == {
        "stem": "stem … forked",
        "forked": "stem … forked",
        "left": "left … left2",
        "left2": "left … left2",
        "right": "right",
        "y": "y",
    }


def test_what_only_training_needs_is_cut() -> None:
    model = graph.serialised(network(node("Relu", "x", "y"), node("Neg", "x", "lost"), node("Abs", "lost", "loss")))
    proof = profiling.prove(model, "nodes that no output needs", [SAMPLE])
    assert (proof.touched, proof.difference, proof.kept) == (2, 0.0, True)


def test_a_softmax_is_cut_only_where_its_reader_would_not_notice() -> None:
    model = graph.serialised(network(node("Neg", "x", "logits"), node("Softmax", "logits", "y")))
    assert profiling.prove(model, "softmax only where it is read", [SAMPLE]).kept
    flat = graph.serialised(network(node("Neg", "x", "y")))
    assert not profiling.prove(flat, "softmax only where it is read", [SAMPLE]).touched


def test_a_rewrite_that_changes_the_answer_is_not_kept() -> None:
    """The subnormal weight is the only one, and is read against an input that makes it matter."""
    tiny = np.full((1,), 1e-39, np.float32)
    model = graph.serialised(network(node("Mul", "x tiny", "y"), tiny=tiny))
    proof = profiling.prove(model, "subnormal weights to zero", [np.full((1, 4, 5), 3e38, np.float32)])
    assert (proof.touched, proof.kept) == (1, False)
    assert proof.difference == pytest.approx(0.3, rel=1e-3)


def test_the_shipped_weights_are_flushed_as_the_engine_loads_them() -> None:
    original = weights.read(ppocr.PACKAGE, *ppocr.ORIENTER)
    assert profiling.prove(original, "subnormal weights to zero", [np.zeros((1, 3, 48, 192), np.float32)]).touched == 0


def test_the_command_prints_tables_and_json(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((pages / "packaging.png").read_bytes())
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "profile", "--images", str(tmp_path)]
    tables = subprocess.run([*command, "--top", "3"], capture_output=True, text=True, check=True, timeout=120)
    assert "subnormal weights to zero" in tables.stdout
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=120)
    assert [each["network"] for each in json.loads(printed.stdout)] == ["detector", "orienter", "recogniser"]
