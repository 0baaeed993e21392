# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, resumable, on CPU or GPU."""

from __future__ import annotations

import csv
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Subset

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.losses import LOSSES, tissue_loss
from bids_lesion_xai.training.options import TrainingOptions
from bids_lesion_xai.training.patches import Patches
from bids_lesion_xai.training.scans import LabelledScan
from bids_lesion_xai.training.styles import Styles
from bids_lesion_xai.training.synthesis import SyntheticHead
from bids_lesion_xai.training.tissues import TISSUES

log = logging.getLogger(__name__)

Criterion = Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]

# Background and lesion.
_N_CLASSES = 2
# Of a batch, what the loss compares the logits with.
_TRUTH = ("lesions", "tissues")
_STEPS_BETWEEN_MESSAGES = 50
# oneDNN and cuDNN convolve faster where the channels of a voxel lie side by side.
_LAYOUT = torch.channels_last_3d
# The part of a training in which batch norm normalises by the statistics of the batch; after it,
# the network is trained as it will predict.
_FREE_STATISTICS = 0.6
# Of running statistics, so much is of the last batch: with four patches in each, PyTorch's 0.1
# would make them those of some 40 patches.
_MOMENTUM = 0.02
# The part in which the learning rate rises. Of 10 steps, PyTorch divides by zero for 0.1.
_WARM_UP = 0.1001
# Options that change nothing in the weights.
_FREE_TO_CHANGE = ("workers", "checkpoint_every")


def train(
    scans: Sequence[LabelledScan],
    masks: Sequence[NDArray[np.bool_]],
    heads: Sequence[SyntheticHead],
    options: TrainingOptions,
    *,
    device: torch.device,
    folder: Path,
) -> torch.nn.Module:
    """Train a network and return it in eval mode.

    A checkpoint in `folder` is resumed if there is one, with the patches that come next.

    Parameters
    ----------
    scans : list of LabelledScan
    masks : list of bool arrays, shape (X, Y, Z)
        Lesion masks to paint from.
    heads : list of SyntheticHead
    options : TrainingOptions
    device : torch device
        Bfloat16 autocast is used for the convolutions, but for patches whose smallest maps have
        two voxels a side on a CPU; float32 for the loss. A GPU also keeps the scans and makes the
        patches; on a CPU, `options.workers` processes make them.
    folder : Path
        Receives `checkpoint.pt` and `loss.csv` (step, loss, learning rate).

    Raises
    ------
    UsageError
        The checkpoint is of a training with other data or options, or the loss or the weights
        are not finite any more.
    """
    torch.manual_seed(options.seed)
    network = _untrained(options, device)
    optimiser = torch.optim.AdamW(
        network.parameters(), options.learning_rate, weight_decay=1e-4, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=options.steps, pct_start=_WARM_UP
    )
    criterion = _criterion(options)
    recipe = _recipe(scans, masks, heads, options)
    done = _resume(folder / "checkpoint.pt", recipe, device, network, optimiser, schedule)
    losses = _rows(folder / "loss.csv", done)
    with (
        _cores_beside_workers(device, options.workers),
        # Without `enabled`, this turns cuDNN off.
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
        (folder / "loss.csv").open("w", newline="", encoding="utf-8") as stream,
    ):
        table = _LossTable(stream, losses, folder)
        patches = _patches(scans, masks, heads, options, device)
        batches = iter(_batches(patches, options, done))
        pace = _Pace(options.steps, done)
        styles = Styles(network, options.statistics_noise, options.seed, device)
        precision = _precision(options, device)
        for step in range(done + 1, options.steps + 1):
            if step > _FREE_STATISTICS * options.steps:
                for norm in _batch_norms(network):
                    norm.eval()
            with pace.waiting():
                batch = next(batches)
            styles.begin(step)
            # For dropout; so a resumed training draws what an uninterrupted one would.
            torch.manual_seed(int(np.random.default_rng((options.seed, step, 3)).integers(2**63)))
            loss = _step(network, batch, criterion, optimiser, precision)
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            table.add(step, loss, rate)
            if step % _STEPS_BETWEEN_MESSAGES == 0 or step == options.steps:
                pace.tell(step, loss.item())
            if step % options.checkpoint_every == 0 or step == options.steps:
                table.write()
                if not all(weight.isfinite().all() for weight in network.parameters()):
                    raise UsageError(_diverged(folder, step))
                _save(folder / "checkpoint.pt", step, recipe, network, optimiser, schedule)
        styles.end()
    if options.tissue_weight:
        _forget_tissues(network)
    return network.eval()


def _recipe(
    scans: Sequence[LabelledScan],
    masks: Sequence[NDArray[np.bool_]],
    heads: Sequence[SyntheticHead],
    options: TrainingOptions,
) -> dict[str, Any]:
    """Return what a checkpoint must agree in with the training that resumes it.

    Of scans and heads, this is what is marked in them: intensities may differ in the last digit
    from machine to machine.
    """
    same = {key: value for key, value in asdict(options).items() if key not in _FREE_TO_CHANGE}
    people = sorted({scan.person for scan in scans})
    checksum = 0
    marked = (mask for scan in (*scans, *heads) for mask in (scan.brain, scan.lesions))
    for mask in (*masks, *marked):
        checksum = zlib.crc32(np.packbits(mask).tobytes(), checksum)
    return {**same, "people": people, "masks": checksum, "synthetic_heads": len(heads)}


@contextmanager
def _cores_beside_workers(device: torch.device, workers: int) -> Iterator[None]:
    """Leave cores to the workers: the threads of a step wait for the one that shares its core."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _step(
    network: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    criterion: Criterion,
    optimiser: torch.optim.Optimizer,
    precision: torch.autocast,
) -> torch.Tensor:
    """Change the network by one batch, and return the loss before, a scalar on the device."""
    device = next(network.parameters()).device
    with precision:
        logits = network(batch["image"].to(device, memory_format=_LAYOUT))
    loss = criterion(logits.float(), {name: batch[name].to(device) for name in _TRUTH})
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.detach()


def _criterion(options: TrainingOptions) -> Criterion:
    """Return the loss of logits beside what is true of a batch."""
    lesion_loss = LOSSES[options.loss]()

    def criterion(logits: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
        lesion_logits, tissue_logits = logits[:, :_N_CLASSES], logits[:, _N_CLASSES:]
        loss = lesion_loss(lesion_logits, truth["lesions"])
        if options.tissue_weight:
            loss = loss + options.tissue_weight * tissue_loss(tissue_logits, truth["tissues"])
        return loss

    return criterion


def _forget_tissues(network: torch.nn.Module) -> None:
    """Take the tissues out of the last layer of a UNet, in place."""
    transposed = [one for one in network.modules() if isinstance(one, torch.nn.ConvTranspose3d)]
    last = transposed[-1]
    last.out_channels = _N_CLASSES
    last.weight = torch.nn.Parameter(last.weight.detach()[:, :_N_CLASSES].clone())
    if last.bias is not None:
        last.bias = torch.nn.Parameter(last.bias.detach()[:_N_CLASSES].clone())


def _precision(options: TrainingOptions, device: torch.device) -> torch.autocast:
    """Return the context of convolutions: bfloat16, wherever PyTorch computes rightly with it.

    On a CPU, its gradient of a 3x3x3 kernel that convolves maps of 2x2x2 voxels holds memory that
    nothing was written to (PyTorch 2.13).
    """
    smallest_map = options.patch_size // ARCHITECTURES[options.network].multiple
    right = device.type != "cpu" or smallest_map != 2
    return torch.autocast(device.type, torch.bfloat16, enabled=right)


def _untrained(options: TrainingOptions, device: torch.device) -> torch.nn.Module:
    more_classes = len(TISSUES) if options.tissue_weight else 0
    network = ARCHITECTURES[options.network].build(more_classes).to(device)
    network.to(memory_format=_LAYOUT)  # type: ignore[call-overload]
    for norm in _batch_norms(network):
        norm.momentum = _MOMENTUM
    return network


def _batch_norms(network: torch.nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


class _LossTable:
    """Rows of step, loss and learning rate.

    Losses are fetched from the device when the rows are written: fetching each at once would make
    a GPU wait for the next step to be launched.
    """

    def __init__(self, stream: TextIO, rows: list[list[str]], folder: Path) -> None:
        self._stream, self._writer, self._folder = stream, csv.writer(stream), folder
        self._writer.writerows(rows)
        stream.flush()
        self._waiting: list[tuple[int, torch.Tensor, float]] = []

    def add(self, step: int, loss: torch.Tensor, rate: float) -> None:
        self._waiting.append((step, loss, rate))

    def write(self) -> None:
        """Write the rows, up to a loss that is not finite.

        Raises
        ------
        UsageError
            There is such a loss; what was trained with it is of no use.
        """
        for step, loss, rate in self._waiting:
            if not loss.isfinite():
                raise UsageError(_diverged(self._folder, step))
            self._writer.writerow([step, f"{loss.item():.5f}", f"{rate:.3g}"])
        self._waiting.clear()
        self._stream.flush()


class _Pace:
    """Tells how fast the training goes, and how much of the time it waits for patches."""

    def __init__(self, steps: int, done: int) -> None:
        self._steps, self._done = steps, done
        self._started = time.monotonic()
        self._waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def tell(self, step: int, loss: float) -> None:
        took = time.monotonic() - self._started
        seconds_a_step = took / (step - self._done)
        log.info(
            "step %d of %d, loss %.3f, %.2f s a step, %.0f %% of it waiting for patches, "
            "about %.0f min left",
            *(step, self._steps, loss, seconds_a_step, 100 * self._waited / took),
            seconds_a_step * (self._steps - step) / 60,
        )


def _patches(
    scans: Sequence[LabelledScan],
    masks: Sequence[NDArray[np.bool_]],
    heads: Sequence[SyntheticHead],
    options: TrainingOptions,
    device: torch.device,
) -> Patches:
    return Patches(
        scans,
        masks,
        heads,
        synthetic_share=options.synthetic_share,
        patch_size=options.patch_size,
        batch_size=options.batch_size,
        length=options.steps,
        seed=options.seed,
        device=device,
    )


def _batches(
    patches: Patches, options: TrainingOptions, done: int
) -> Iterable[dict[str, torch.Tensor]]:
    """Return the batches after the first `done`; those of a GPU are made by this process."""
    workers = options.workers if patches.device.type == "cpu" else 0
    remaining = Subset(patches, range(done, len(patches)))
    return DataLoader(remaining, batch_size=None, num_workers=workers)


def _save(path: Path, step: int, recipe: dict[str, Any], *stateful: Any) -> None:
    partial = path.with_suffix(".partial")
    states = [thing.state_dict() for thing in stateful]
    torch.save({"step": step, "recipe": recipe, "states": states}, partial)
    partial.replace(path)


def _resume(path: Path, recipe: dict[str, Any], device: torch.device, *stateful: Any) -> int:
    """Load a checkpoint if there is one, and return the number of steps that are done."""
    if not path.exists():
        return 0
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # Of a damaged file, unpickling raises anything.
        message = f"{path} is damaged ({type(error).__name__}). Delete it to begin anew."
        raise UsageError(message) from error
    if checkpoint["recipe"] != recipe:
        differences = [key for key in recipe if checkpoint["recipe"].get(key) != recipe[key]]
        message = (
            f"{path.parent} holds a training of other {', '.join(differences)}. Name another "
            "--output, or delete it."
        )
        raise UsageError(message)
    for thing, state in zip(stateful, checkpoint["states"], strict=True):
        thing.load_state_dict(state)
    log.info("resumed after step %d", checkpoint["step"])
    return int(checkpoint["step"])


def _diverged(folder: Path, step: int) -> str:
    return (
        f"{folder}: the loss or the weights of step {step} are not finite. Train with a smaller "
        "--learning-rate, in another --output."
    )


def _rows(path: Path, count: int) -> list[list[str]]:
    """Return the first `count` rows of a CSV file; those of a run that was stopped end later."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))[:count]
