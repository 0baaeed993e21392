# SPDX-License-Identifier: Apache-2.0
"""Methods that reduce gradients taken at several points about the image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition

import torch

from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.problem import Lesion, Problem, Progress

# A standard error of fewer samples says too little to stop by it.
FEWEST_SAMPLES = 5


class Reduction(ABC):
    """Takes the gradients of a lesion, shape (C, x, y, z), one after the other."""

    @abstractmethod
    def add(self, gradient: torch.Tensor) -> None:
        """Take the next gradient, which may be overwritten."""

    @abstractmethod
    def values(self) -> torch.Tensor:
        """Return the saliency, shape (C, x, y, z)."""

    @abstractmethod
    def standard_error(self) -> torch.Tensor:
        """Return the Monte-Carlo standard error of `values`."""

    @abstractmethod
    def inside_error(self) -> torch.Tensor:
        """Return that of the mean of `values` over the lesion's voxels, float64, shape (C,)."""

    @abstractmethod
    def share_error(self) -> torch.Tensor:
        """Return that of each channel's share in the absolute values, float64, shape (C,)."""


class PointMethod(ABC):
    """Saliency from the gradients at `n_points` points about the image.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    @abstractmethod
    def n_points(self) -> int:
        """Number of points, at most."""

    @abstractmethod
    def point(self, support: Box, index: int) -> torch.Tensor:
        """Return the image, shape (C, x, y, z), on `support` at one of the points."""

    @abstractmethod
    def reduction(self, lesion: Lesion) -> Reduction:
        """Return what reduces the gradients of `lesion`."""

    def explain(self) -> Iterator[Attribution]:
        """Yield the saliency of every lesion in the order of their labels.

        The samples of a lesion are computed side by side, and reduced in their order, so that the
        number of threads changes no bit.
        """
        problem = self.problem
        lesions = list(problem.lesions())
        total, done_work = max(1, sum(map(problem.work, lesions)) * self.n_points), 0
        with _workers(problem) as (workers, reducer):
            jobs = _Jobs(self, lesions, workers)
            for n_done, lesion in enumerate(lesions):
                reduction = self.reduction(lesion)
                for count, gradient in enumerate(jobs.gradients(lesion), start=1):
                    reducer.submit(reduction.add, gradient).result()
                    finished = count == self.n_points or self._is_enough(reduction, count)
                    counted = self.n_points if finished else count
                    problem.progress(
                        Progress(
                            lesion=lesion.label,
                            n_done=n_done + finished,
                            n_lesions=len(lesions),
                            sample=count,
                            n_samples=self.n_points,
                            share=(done_work + counted * problem.work(lesion)) / total,
                        )
                    )
                    if finished:
                        break
                jobs.skip(lesion)
                done_work += self.n_points * problem.work(lesion)
                yield Attribution(
                    lesion=lesion.label,
                    values=reduction.values(),
                    offset=problem.support(lesion).start,
                    standard_error=reduction.standard_error(),
                    inside_error=reduction.inside_error(),
                    share_error=reduction.share_error(),
                    n_samples=count,
                    engine=problem.engine.name,
                )

    def _is_enough(self, reduction: Reduction, count: int) -> bool:
        allowed = self.problem.target_error
        if allowed is None or count < FEWEST_SAMPLES:
            return False
        values, error = reduction.values().flatten(), reduction.standard_error().flatten()
        peak = values.abs().argmax()
        return bool(error[peak] <= allowed * values[peak].abs())

    def gradient(self, lesion: Lesion, index: int) -> torch.Tensor:
        """Return the gradient of a lesion at one of the points, shape (C, x, y, z)."""
        support = self.problem.support(lesion)
        return self.problem.gradient(lesion, self.point(support, index))


class _Jobs:
    """Computes the gradients of all lesions in worker threads, a few ahead of who asks."""

    def __init__(
        self, method: PointMethod, lesions: list[Lesion], workers: ThreadPoolExecutor
    ) -> None:
        self._method, self._workers = method, workers
        self._memory = _Memory(method.problem.memory_bytes)
        self._todo = deque((lesion, i) for lesion in lesions for i in range(method.n_points))
        self._pending: deque[tuple[Lesion, Future[torch.Tensor]]] = deque()

    def gradients(self, lesion: Lesion) -> Iterator[torch.Tensor]:
        """Yield the gradients of the next lesion in their order."""
        problem = self._method.problem
        ahead = min(
            problem.n_threads, int(problem.memory_bytes // problem.bytes_of_sample(lesion))
        )
        while True:
            while self._todo and len(self._pending) <= ahead:
                job = self._todo.popleft()
                self._pending.append((job[0], self._workers.submit(self._run, *job)))
            if not self._pending or self._pending[0][0] is not lesion:
                return
            yield self._pending.popleft()[1].result()

    def skip(self, lesion: Lesion) -> None:
        """Drop what is left of a lesion."""
        while self._todo and self._todo[0][0] is lesion:
            self._todo.popleft()
        for owner, future in self._pending:
            if owner is lesion:
                future.cancel()
        self._pending = deque(job for job in self._pending if job[0] is not lesion)

    def _run(self, lesion: Lesion, index: int) -> torch.Tensor:
        with self._memory.reserve(self._method.problem.bytes_of_sample(lesion)):
            return self._method.gradient(lesion, index)


class _Memory:
    """Lets samples run side by side as long as the memory allows, and one always."""

    def __init__(self, limit_bytes: float) -> None:
        self._limit = self._free = limit_bytes
        self._changed = Condition()

    @contextmanager
    def reserve(self, n_bytes: float) -> Iterator[None]:
        n_bytes = min(n_bytes, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= n_bytes)
            self._free -= n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += n_bytes
                self._changed.notify_all()


@contextmanager
def _workers(problem: Problem) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Give threads to run samples in, and one to reduce them in.

    The boxes of a lesion are too small to share the work on one among threads: each thread works
    on a sample of its own, so that the number of threads changes no bit. A whole volume or window
    takes much memory and shares well: its samples come one after the other.
    """
    before, n_threads = torch.get_num_threads(), problem.n_threads
    n_workers = n_threads if problem.engine.side_by_side else 1
    workers, reducer = (
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(n_each,))
        for count, n_each in ((n_workers, n_threads // n_workers), (1, 1))
    )
    try:
        yield workers, reducer
    finally:
        workers.shutdown(cancel_futures=True)
        reducer.shutdown()
        torch.set_num_threads(before)
