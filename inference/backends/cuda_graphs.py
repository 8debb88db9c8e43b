"""CUDA graphs: a network recorded once for an input shape, and replayed without asking Python for each operation."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from inference.backends import Floats

MOST_SHAPES = 64  # recorded at once; the one that was not used for longest goes
WARM_UPS = 3  # runs before recording, as torch's documentation asks for

Replay = Callable[[Floats], Floats]
Shape = tuple[int, ...]

log = logging.getLogger(__name__)


class Replays:
    """A network's answers, replayed for shapes that came before. May be called by several threads: one at a time runs.

    A shape is recorded when it comes the second time, so that odd sizes cost nothing; one that cannot be recorded runs
    plainly from then on.
    """

    def __init__(self, plain: Replay, record: Callable[[Shape], Replay], most: int = MOST_SHAPES) -> None:
        self._plain = plain
        self._record = record
        self._most = most
        self._known: OrderedDict[Shape, Replay | None] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: Floats) -> Floats:
        with self._lock:
            return self._of(batch.shape)(batch)

    def _of(self, shape: Shape) -> Replay:
        if shape not in self._known:
            self._known[shape] = None
            while len(self._known) > self._most:
                self._known.popitem(last=False)
            return self._plain
        self._known.move_to_end(shape)
        known = self._known[shape]
        if known is None:
            known = self._recorded(shape)
            self._known[shape] = known
        return known

    def _recorded(self, shape: Shape) -> Replay:
        try:
            return self._record(shape)
        except RuntimeError as error:  # an operation that waits for the host; or no memory left, which is said later
            log.info("%s runs without a CUDA graph: %s", shape, str(error).splitlines()[0])
            return self._plain


class Recorder:
    """Records `compute`, a function of tensors on the GPU, for one shape after another."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # shared: one graph runs at a time, and answers are copied out

    def plain(self, batch: Floats) -> Floats:
        """The network as it is, on the recorder's stream."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            x = torch.from_numpy(np.ascontiguousarray(batch)).pin_memory().to("cuda", non_blocking=True)
            result: Floats = self._compute(x.to(memory_format=torch.channels_last)).cpu().numpy()
        return result

    def record(self, shape: Shape) -> Replay:
        """Raises RuntimeError when it cannot be recorded, or does not fit into memory."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            x = torch.zeros(shape, device="cuda").to(memory_format=torch.channels_last)
            for _ in range(WARM_UPS):
                self._compute(x)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                y = self._compute(x)
            given = torch.empty(shape, pin_memory=True)
            answer = torch.empty(y.shape, pin_memory=True)

        def replay(batch: Floats) -> Floats:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                given.copy_(torch.from_numpy(batch))
                x.copy_(given, non_blocking=True)
                graph.replay()
                answer.copy_(y, non_blocking=True)
                self._stream.synchronize()
                result: Floats = answer.numpy().copy()
            return result

        return replay
