"""The queue: how many together, who is next, who is dropped."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import pairwise

import pytest

from inference.batching import CPU_BUCKETS, GPU_BUCKETS, Batcher, Bucket, DeadlinePassed, QueueFull, bucket_of, how_many

SMALL, MIDDLE, LARGE = 0, 1, 2
PATIENCE = 60.0  # seconds, for what comes at once on an idle machine


@pytest.mark.parametrize(
    ("longest_side", "expected"),
    [(1, SMALL), (639, SMALL), (640, MIDDLE), (1280, MIDDLE), (1281, LARGE), (9999, LARGE)],
)
def test_buckets_by_longest_side(longest_side: int, expected: int) -> None:
    assert bucket_of(longest_side, GPU_BUCKETS) == expected
    assert bucket_of(longest_side, CPU_BUCKETS) == expected  # taken in turns there too
    assert {bucket.at_once for bucket in CPU_BUCKETS} == {1}


@pytest.mark.parametrize(
    ("waiting", "bucket", "idle", "expected"),
    [
        pytest.param(1, SMALL, 1, 1, id="nobody-waits-for-a-batch-to-fill"),
        pytest.param(20, SMALL, 1, 8, id="at-most-eight-small"),
        pytest.param(20, MIDDLE, 1, 2, id="at-most-two-middle"),
        pytest.param(20, LARGE, 1, 1, id="large-ones-alone"),
        pytest.param(4, SMALL, 2, 2, id="idle-workers-share"),
        pytest.param(5, SMALL, 2, 3, id="and-leave-none-behind"),
    ],
)
def test_how_many(waiting: int, bucket: int, idle: int, expected: int) -> None:
    assert how_many(waiting, GPU_BUCKETS[bucket], idle) == expected


class Gate:
    """Work that waits until it is let through, and remembers what it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(jobs))
        assert self.open.wait(PATIENCE)
        return [ValueError(job) if job.startswith("bad") else job.upper() for job in jobs]


def soon() -> float:
    return time.monotonic() + PATIENCE


async def started(
    batcher: Batcher[str, str], *jobs: str, side: int = 100, deadline: float | None = None, online: bool = True
) -> asyncio.Task[list[str]]:
    task = asyncio.create_task(batcher.submit([(job, side) for job in jobs], deadline or soon(), online=online))
    await asyncio.sleep(0.01)
    return task


def test_outcomes_come_back_in_order_and_a_failure_is_its_own() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate, workers=1, capacity=10, buckets=[Bucket(up_to=float("inf"), at_once=4)])
        good = await started(batcher, "a", "b", "c")
        bad = await started(batcher, "bad")
        assert await good == ["A", "B", "C"]
        with pytest.raises(ValueError, match="bad"):
            await bad
        await batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_all_of_a_request_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=2)
        running = await started(batcher, "running")
        waiting = await started(batcher, "waiting")
        with pytest.raises(QueueFull) as full:
            await batcher.submit([("x", 1), ("y", 1)], soon())
        assert full.value.retry_after_seconds >= 1
        assert batcher.waiting == 1
        gate.open.set()
        assert (await running, await waiting) == (["RUNNING"], ["WAITING"])
        await batcher.close()

    asyncio.run(scenario())


def test_work_whose_caller_left_or_whose_deadline_passed_never_runs() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=10)
        running = await started(batcher, "running")
        left = await started(batcher, "left")
        late = await started(batcher, "late", deadline=time.monotonic() + 0.05)
        kept = await started(batcher, "kept")
        left.cancel()
        with pytest.raises(DeadlinePassed):
            await late
        gate.open.set()
        assert await running == ["RUNNING"]
        assert await kept == ["KEPT"]
        assert gate.batches == [["running"], ["kept"]]
        assert batcher.waiting == 0
        await batcher.close()

    asyncio.run(scenario())


def test_sizes_are_not_mixed_and_of_equals_the_longest_waiting_is_next() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=20, buckets=GPU_BUCKETS)
        tasks = [await started(batcher, "running", side=1000)]
        tasks += [await started(batcher, "large", side=2000)]
        tasks += [await started(batcher, "small1", "small2")]
        tasks += [await started(batcher, "small3")]
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.batches == [["running"], ["large"], ["small1", "small2", "small3"]]
        await batcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("buckets", [CPU_BUCKETS, GPU_BUCKETS], ids=["cpu", "gpu"])
def test_large_images_that_came_first_do_not_block_small_ones(buckets: Sequence[Bucket]) -> None:
    """A small image waits for the large one that runs, and no longer, however many are before it; and the large ones
    are not starved by small ones that keep coming."""
    gate, begun = threading.Event(), list[tuple[str, float]]()

    def work(jobs: Sequence[str]) -> list[str | Exception]:
        assert gate.wait(PATIENCE)
        begun.extend((job, time.monotonic()) for job in jobs)
        time.sleep(0.01)
        return list(jobs)

    async def scenario() -> None:
        batcher = Batcher(work, workers=1, capacity=200, buckets=buckets)
        tasks = [await started(batcher, "middle", side=1000)]
        tasks += [await started(batcher, f"large{i}", side=3000) for i in range(60)]
        tasks += [await started(batcher, f"small{i}", side=300) for i in range(40)]
        gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()

    asyncio.run(scenario())
    taken = [(job, end - start) for (job, start), (_, end) in pairwise(begun)]
    order, longest = [job for job, _ in begun], max(seconds for _, seconds in taken)
    first, last = order.index("small0"), order.index("small39")
    assert first == 2  # after the one that ran, and the first of the flood, which came before
    ahead = 0.0  # seconds that the small ones had more than the large ones, of which some wait all the while
    for job, seconds in taken[1:last]:
        ahead += seconds if job.startswith("small") else -seconds
        assert abs(ahead) <= 3 * longest


def test_of_one_request_the_largest_begin_first() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate, workers=1, capacity=20, buckets=[Bucket(up_to=float("inf"), at_once=1)])
        jobs = [("b", 200), ("d", 400), ("a", 100), ("c", 300)]
        assert await batcher.submit(jobs, soon()) == ["B", "D", "A", "C"]
        assert gate.batches == [["d"], ["c"], ["b"], ["a"]]
        await batcher.close()

    asyncio.run(scenario())


def test_a_failure_of_the_whole_batch_reaches_everyone_in_it_and_the_worker_goes_on() -> None:
    def work(jobs: Sequence[str]) -> list[str | Exception]:
        if "broken" in jobs:
            raise MemoryError("no room")
        return list(jobs)

    async def scenario() -> None:
        batcher = Batcher(work, workers=1, capacity=10)
        with pytest.raises(MemoryError):
            await batcher.submit([("broken", 1)], soon())
        assert await batcher.submit([("fine", 1)], soon()) == ["fine"]
        await batcher.close()

    asyncio.run(scenario())


class OutOfMemoryError(RuntimeError):
    """Named and derived as torch's."""


class RuntimeException(Exception):
    """As onnxruntime's."""


OUT_OF_MEMORY: dict[str, Exception] = {
    "torch": OutOfMemoryError("CUDA out of memory. Tried to allocate 2.86 GiB. GPU 0 has a total capacity of 5.93 GiB"),
    "onnxruntime": RuntimeException(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
        "bfc_arena.cc:359 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, Stream*) "
        "Failed to allocate memory for requested buffer of size 3070230528"
    ),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "host": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_and_the_bucket_remembers(error: Exception) -> None:
    sizes: list[int] = []

    def work(jobs: Sequence[str]) -> list[str | Exception]:
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise error
        return [job.upper() for job in jobs]

    async def scenario() -> None:
        batcher = Batcher(work, workers=1, capacity=100, buckets=GPU_BUCKETS)
        for _ in range(2):
            assert await batcher.submit([(name, 1) for name in "abcdefgh"], soon()) == list("ABCDEFGH")
        assert batcher.at_once == {"small": 2, "middle": 2, "large": 1}
        await batcher.close()

    asyncio.run(scenario())
    assert sizes == [8, 4, 2, 2, 4, 2, 2, *[2] * 4]


def test_another_failure_is_not_remembered_as_a_lack_of_memory() -> None:
    def work(jobs: Sequence[str]) -> list[str | Exception]:
        if len(jobs) > 2:
            raise RuntimeError("CUDA error: misaligned address")
        return list(jobs)

    async def scenario() -> None:
        batcher = Batcher(work, workers=1, capacity=100, buckets=GPU_BUCKETS)
        assert await batcher.submit([(name, 1) for name in "abcdefgh"], soon()) == list("abcdefgh")
        assert batcher.at_once == {"small": 8, "middle": 2, "large": 1}
        await batcher.close()

    asyncio.run(scenario())


def test_a_poisonous_job_fails_alone() -> None:
    def work(jobs: Sequence[str]) -> list[str | Exception]:
        if "poison" in jobs:
            raise ValueError("the network chokes on it")
        return list(jobs)

    async def scenario() -> None:
        batcher = Batcher(work, workers=1, capacity=10, buckets=[Bucket(up_to=float("inf"), at_once=4)])
        good = await started(batcher, "a")
        both = [await started(batcher, name) for name in ("b", "poison", "c")]
        assert await good == ["a"]
        assert await asyncio.gather(both[0], both[2]) == [["b"], ["c"]]
        with pytest.raises(ValueError, match="chokes"):
            await both[1]
        await batcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("side", [100, 3000], ids=["of-the-same-size", "of-another"])
def test_an_online_job_waits_for_what_runs_and_for_no_other(side: int) -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=20, buckets=GPU_BUCKETS)
        tasks = [await started(batcher, "running", online=False)]
        tasks += [await started(batcher, f"later{i}", online=False) for i in range(5)]
        tasks += [await started(batcher, "first", side=side), await started(batcher, "second", side=side)]
        assert batcher.waiting == 7
        gate.open.set()
        await asyncio.gather(*tasks)
        online = [["first", "second"]] if side == 100 else [["first"], ["second"]]
        assert gate.batches == [["running"], *online, [f"later{i}" for i in range(5)]]
        await batcher.close()

    asyncio.run(scenario())


def test_what_is_not_online_fills_half_of_the_queue_at_most() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=4)
        tasks = [await started(batcher, "running", online=False)]
        tasks += [await started(batcher, "a", "b", online=False)]
        with pytest.raises(QueueFull):
            await batcher.submit([("c", 1)], soon(), online=False)
        tasks += [await started(batcher, "d", "e")]
        with pytest.raises(QueueFull):
            await batcher.submit([("f", 1)], soon())
        gate.open.set()
        await asyncio.gather(*tasks)
        several = [(name, 1) for name in "ghi"]
        assert await batcher.submit(several, soon(), online=False) == ["G", "H", "I"]  # alone it is let in
        await batcher.close()

    asyncio.run(scenario())


def test_who_never_began_is_told_from_who_did_not_end() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=10)
        while not batcher.batches:  # again, should this process be kept waiting until it is too late to begin
            running = await started(batcher, "running", deadline=time.monotonic() + 0.05)
        waiting = await started(batcher, "waiting", deadline=time.monotonic() + 0.05)
        for task, begun in ((running, True), (waiting, False)):
            with pytest.raises(DeadlinePassed) as passed:
                await task
            assert passed.value.begun is begun
        gate.open.set()
        await batcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("ended", ["gone", "late"])
def test_what_nobody_waits_for_any_more_is_not_kept(ended: str) -> None:
    """While every worker is busy, whoever sends and hangs up must not fill the memory with what he sent."""

    class Bytes(str):
        """A job that can be seen to be forgotten."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=1, capacity=10)
        first = await started(batcher, "first")
        jobs = [Bytes(f"job {i}") for i in range(5)]
        kept = [weakref.ref(job) for job in jobs]
        deadline = soon() if ended == "gone" else time.monotonic() + 0.05
        waiting = [await started(batcher, job, deadline=deadline, online=i % 2 == 0) for i, job in enumerate(jobs)]
        if ended == "gone":
            assert all(task.cancel() for task in waiting)
        await asyncio.gather(*waiting, return_exceptions=True)
        del jobs, waiting
        async with asyncio.timeout(PATIENCE / 3):  # what asyncio has still to call holds them too
            while any(job() for job in kept):
                await asyncio.sleep(0.01)
                gc.collect()
        gate.open.set()
        assert await first == ["FIRST"]
        await batcher.close()

    asyncio.run(scenario())
