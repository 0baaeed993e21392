# SPDX-License-Identifier: Apache-2.0
"""How a network responds, at the voxels of a lesion, to changed images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from bids_lesion_xai.conventions import LESION_CLASS
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.engines import Engine
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.precision import precision
from bids_lesion_xai.explain.problem import Lesion

# Makes a changed image on the support of a lesion, shape (C, x, y, z).
MakeImage = Callable[[], torch.Tensor]

# Images that a GPU takes at once, at most.
_MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Response:
    """The response of the network at the voxels of a lesion.

    Parameters
    ----------
    mean_probability : float
        Mean over the voxels of the softmax probability of lesion.
    mean_logit : float
        Mean over the voxels of the logit of lesion.
    detected : int
        1 if any voxel reaches what a lesion must reach, else 0.
    """

    mean_probability: float
    mean_logit: float
    detected: int


@dataclass(frozen=True)
class Scorer:
    """Evaluates changed images where, and only where, a lesion depends on them.

    Logits come of the engine that explains the network, hence of the map from image to logits that
    the mask was made with. The number of threads changes no bit with the engines ``pruned`` and
    ``crop``, whose samples are computed side by side.

    Parameters
    ----------
    engine : Engine
    image : float tensor, shape (C, X, Y, Z)
        Only its shape, type and device matter.
    peak_threshold : float
        Probability that a voxel of a lesion reaches.
    n_threads : int
    memory_bytes : float
        About what images that are evaluated side by side, or at once, may take; one always runs.
    allow_tf32 : bool
        Whether a GPU may round what it multiplies to 10 bits.
    """

    engine: Engine
    image: torch.Tensor
    peak_threshold: float
    n_threads: int
    memory_bytes: float
    allow_tf32: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (X, Y, Z) of the image."""
        return tuple(self.image.shape[1:])

    def support(self, lesion: Lesion) -> Box:
        """Return the part of the image that the logits of a lesion depend on."""
        return self.engine.region(lesion.box, self.shape).clip(self.shape)

    def work(self, lesion: Lesion) -> int:
        """Return the work of one image, in numbers made on the way."""
        return self.engine.work(lesion.box, self.shape).elements

    def responses(self, lesion: Lesion, images: Iterable[MakeImage]) -> Iterator[Response]:
        """Yield the response at a lesion to each image, in their order.

        Parameters
        ----------
        lesion : Lesion
        images : iterable of callable
            They make the images, on `support` of the lesion, in the thread that evaluates them.
        """
        count = self._fitting(lesion)
        # A processor is no faster on many images at once than one by one, and a whole volume keeps
        # a GPU busy.
        many = self.image.is_cuda and self.engine.side_by_side
        at_once = min(count, _MOST_AT_ONCE) if many else 1
        n_workers = min(count, self.n_threads) if self.engine.side_by_side else 1
        source = iter(images)
        pending: deque[Future[list[Response]]] = deque()
        with self._workers(n_workers) as workers:
            while batch := list(islice(source, at_once)):
                pending.append(workers.submit(self.respond, lesion, batch))
                # One waits, so that no thread does.
                if len(pending) > n_workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    def _fitting(self, lesion: Lesion) -> int:
        """Return how many images fit in the memory at a time, at least 1."""
        inputs = 4 * len(self.image) * self.support(lesion).size
        one = self.image.element_size() * (self.work(lesion) + inputs)
        return max(1, int(self.memory_bytes // one))

    @contextmanager
    def _workers(self, count: int) -> Iterator[ThreadPoolExecutor]:
        """Give threads that work side by side, or one that shares its work among all."""
        before = torch.get_num_threads()
        n_each = 1 if self.engine.side_by_side else self.n_threads
        workers = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(n_each,))
        try:
            yield workers
        finally:
            workers.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    @torch.no_grad()
    def respond(self, lesion: Lesion, images: Sequence[MakeImage]) -> list[Response]:
        """Return the response at a lesion to each image, evaluated at once."""
        with precision(self.image, allow_tf32=self.allow_tf32):
            values = torch.stack([make() for make in images])
            extent = self.engine.extent(self.shape)
            piece = Piece(values, self.support(lesion).start, extent)
            region = self.engine.region(lesion.box, self.shape)
            logits = self.engine.logits(piece.at(region), lesion.box).values
        places = (lesion.voxels - lesion.voxels.new_tensor(lesion.box.start)).T
        own = logits[(slice(None), slice(None), *places)]
        return [
            self._response(probabilities, of_lesion)
            for probabilities, of_lesion in zip(
                own.softmax(1)[:, LESION_CLASS], own[:, LESION_CLASS], strict=True
            )
        ]

    def _response(self, probabilities: torch.Tensor, logits: torch.Tensor) -> Response:
        return Response(
            mean_probability=float(probabilities.double().mean()),
            mean_logit=float(logits.double().mean()),
            detected=int((probabilities >= self.peak_threshold).any()),
        )
