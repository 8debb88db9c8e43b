"""Which shapes are replayed is decided the same on every machine; what is replayed needs a GPU."""

import numpy as np
import pytest

from inference.backends import Floats
from inference.models import ppocr, weights

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")

from inference.backends.cuda_graphs import Replay, Replays, Shape  # noqa: E402
from inference.backends.pytorch import TorchRuntime  # noqa: E402


class Network:
    """Doubles what it is given, and notes how it was asked."""

    def __init__(self, most: int = 2) -> None:
        self.plainly = 0
        self.recorded: list[Shape] = []
        self.replays = Replays(self.plain, self.record, most)

    def plain(self, batch: Floats) -> Floats:
        self.plainly += 1
        return batch * 2

    def record(self, shape: Shape) -> Replay:
        if shape[0] == 3:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.recorded.append(shape)
        return lambda batch: batch * 2

    def ask(self, *lengths: int) -> None:
        for length in lengths:
            assert np.array_equal(self.replays.run(np.ones(length, np.float32)), np.full(length, 2, np.float32))


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    network = Network()
    network.ask(1, 2)
    assert (network.plainly, network.recorded) == (2, [])
    network.ask(1, 1, 1)
    assert (network.plainly, network.recorded) == (2, [(1,)])


def test_what_cannot_be_recorded_runs_plainly_and_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    network = Network()
    network.ask(3, 3, 3)
    assert (network.plainly, network.recorded) == (3, [])
    assert caplog.messages == ["(3,) runs without a CUDA graph: operation not permitted when stream is capturing"]


def test_the_shape_that_was_not_used_for_longest_goes() -> None:
    network = Network(most=2)
    network.ask(1, 1, 2, 2, 1, 4, 4)
    assert network.recorded == [(1,), (2,), (4,)]
    network.ask(1)
    assert network.recorded == [(1,), (2,), (4,)], "still kept"
    network.ask(2, 2)
    assert network.recorded == [(1,), (2,), (4,), (2,)], "recorded anew"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replay_answers_as_the_network(precision: str) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 3, 48, 320), (4, 3, 48, 320), (1, 3, 48, 640)]
    batches = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    runtime = TorchRuntime(accelerator="cuda", precision=precision)  # type: ignore[arg-type]
    with_softmax = weights.flushed(weights.read(ppocr.PACKAGE, *ppocr.RECOGNISER))  # so that differences are of 0-1
    session = runtime.open(with_softmax, batches[0])
    assert session._replays is not None
    first = [session.run(batch) for batch in batches]
    for _ in range(3):
        for batch, expected in zip(batches, first, strict=True):
            assert np.abs(session.run(batch) - expected).max() < 1e-3
    assert all(replay != session._replays._plain for replay in session._replays._known.values()), "all were recorded"
