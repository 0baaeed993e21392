# SPDX-License-Identifier: Apache-2.0
"""How fast lesions are explained, against the published way, MONAI and Captum, in one run.

    python -m benchmarks.explain --output benchmark.json

All ways explain the same lesions of the same image by the shipped network, on the same threads.
The others take so long that they are timed on a few of their steps, which all cost the same: the
published way on one forward pass and two of its passes back, one for each voxel of the lesion;
MONAI and Captum on two noise samples. Their times for a whole sample follow from these.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import torch
from monai.visualize.gradient_based import SmoothGrad
from torch import nn
from torch.nn import functional

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.conventions import LESION_CLASS
from bids_lesion_xai.explain import explain_lesions
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.engines import PrunedEngine, choose_engine
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.explain import Explain
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle
from bids_lesion_xai.models.network import choose_device, load_network

SHAPE = (182, 218, 182)
SIZES = (10, 100, 1000, 10000)
# Centres of lesions. Away from multiples of 16 on every axis, a voxel's receptive field has two
# cells of the U-Net's bottom along each axis, and those of a small lesion all the same ones; about
# a multiple, a lesion needs three, and its voxels differ.
CENTRES = {"favourable": (88, 104, 88), "worst": (96, 112, 96)}
SIGMA = (0.3, 0.3)
# Operations of the gradient of one voxel by the default network, by the arithmetic of receptive
# fields, on the average over the phases of the strides.
FLOOR = 1.4e9
N_LESIONS, N_VOXELS = 100, 18_000


def ball(centre: Sequence[int], n_voxels: int) -> torch.Tensor:
    """Return the `n_voxels` voxels nearest to `centre`, shape (n, 3), in C order."""
    half = int((n_voxels * 3 / (4 * np.pi)) ** (1 / 3)) + 2
    offsets = torch.cartesian_prod(*[torch.arange(-half, half + 1)] * 3)
    order = (offsets**2).sum(1).sort(stable=True).indices[:n_voxels]
    return offsets[order.sort().values] + torch.tensor(centre)


def label(voxels: torch.Tensor) -> torch.Tensor:
    """Return a label image of one lesion."""
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[tuple(voxels.T)] = 1
    return labels


class Score(nn.Module):
    """The mean logit over a lesion, for MONAI and Captum; the volume is padded as they need it."""

    def __init__(self, network: nn.Module, voxels: torch.Tensor) -> None:
        super().__init__()
        self.network, self.voxels = network, voxels
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the score of each image, shape (N, 1)."""
        logits = self.network(functional.pad(images, padding()))
        return logits[(slice(None), LESION_CLASS, *self.voxels.T)].mean(1, keepdim=True)


def padding() -> list[int]:
    """Return what pads an image to multiples of 16 at its end."""
    return [n for side in reversed(SHAPE) for n in (0, -side % 16)]


def seconds(function: Callable[[], object]) -> float:
    """Return how long `function` takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def published_seconds(network: nn.Module, image: torch.Tensor, voxels: torch.Tensor) -> float:
    """Return the time of one noise sample: a pass back through the whole volume for each voxel."""
    leaf = functional.pad(image[None], padding()).requires_grad_()
    logits: list[torch.Tensor] = []
    forward = seconds(lambda: logits.append(network(leaf)))

    def back() -> None:
        for voxel in (voxels[0], voxels[-1]):
            one = logits[0][(0, LESION_CLASS, *voxel)]
            torch.autograd.grad(one, leaf, retain_graph=True)

    return forward + len(voxels) * seconds(back) / 2


def monai_seconds(network: nn.Module, image: torch.Tensor, voxels: torch.Tensor) -> float:
    """Return the time of one noise sample of MONAI's SmoothGrad."""
    way = SmoothGrad(Score(network, voxels), n_samples=2, magnitude=False, verbose=False)
    return seconds(lambda: way(image[None].clone(), index=0)) / 2


def captum_seconds(network: nn.Module, image: torch.Tensor, voxels: torch.Tensor) -> float:
    """Return the time of one noise sample of Captum's NoiseTunnel."""
    way = captum.attr.NoiseTunnel(captum.attr.Saliency(Score(network, voxels)))
    options = {"nt_samples": 2, "nt_samples_batch_size": 1, "stdevs": SIGMA[0], "abs": False}
    return seconds(lambda: way.attribute(image[None].clone(), target=0, **options)) / 2


def own_seconds(
    network: nn.Module, image: torch.Tensor, voxels: torch.Tensor, aggregation: str, n_samples: int
) -> tuple[float, float]:
    """Return the time of one noise sample of ours, and the memory it took at most, in GB."""
    labels = label(voxels).to(image.device)
    with peak_gb() as peak:
        options = {"aggregation": aggregation, "n_samples": n_samples, "sigma": SIGMA}
        took = seconds(lambda: list(explain_lesions(network, image, labels, **options)))
    return took / n_samples, peak[0]


@contextmanager
def peak_gb() -> Iterator[list[float]]:
    """Give a list whose number is, at the end, by how much memory in use had grown at most."""
    done, found = threading.Event(), [0.0]
    before = _resident_gb()

    def watch() -> None:
        while not done.wait(0.01):
            found[0] = max(found[0], _resident_gb() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _resident_gb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**30


def conv3d(values: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Convolve as torch does: with one thread, often not by oneDNN."""
    return functional.conv3d(values, weight, None, stride)


def onednn(values: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Convolve by oneDNN."""
    return torch.mkldnn_convolution(values, weight, None, (0, 0, 0), stride, (1, 1, 1), 1)


def plain_convolution_rate(
    network: nn.Module, region: Box, n_threads: int, way: Callable[..., torch.Tensor]
) -> float:
    """Return the operations a second of the U-Net's plain convolutions on a region of its input.

    Each thread runs the convolutions of the way down one after the other, on random values of the
    shapes that a voxel at the centre of the region needs.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    shape, work, jobs = region.shape, 0, []
    for layer in layers:
        weight = layer.weight.contiguous(memory_format=torch.channels_last_3d)
        values = torch.randn(1, weight.shape[1], *shape)
        values = values.contiguous(memory_format=torch.channels_last_3d)
        jobs.append((values, weight, layer.stride))
        shape = tuple(
            (n - k) // s + 1 for n, k, s in zip(shape, (3, 3, 3), layer.stride, strict=True)
        )
        work += 2 * weight.numel() * int(np.prod(shape))

    def convolve() -> None:
        for _ in range(20):
            for values, weight, stride in jobs:
                way(values, weight, stride)

    with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda _: convolve(), range(n_threads)))
        took = seconds(lambda: list(pool.map(lambda _: convolve(), range(n_threads))))
    return 20 * n_threads * work / took


def operations(engine: PrunedEngine, voxels: torch.Tensor, aggregation: str) -> int:
    """Return the multiplications and additions of one noise sample of a lesion, counted."""
    start, stop = voxels.amin(0).tolist(), (voxels.amax(0) + 1).tolist()
    forward = engine.work(Box(tuple(start), tuple(stop)), SHAPE).operations
    if aggregation != "max":
        return 2 * forward
    cells = (engine.work(Box(tuple(v), tuple(i + 1 for i in v)), SHAPE) for v in voxels.tolist())
    return forward + sum(cell.operations for cell in cells)


def participant(n_threads: int, folder: Path) -> dict[str, Any]:
    """Explain a participant by the app's own interface, noise and files included."""
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.int32)
    sizes = np.sort(rng.lognormal(0, 1, N_LESIONS))[::-1]
    sizes = np.maximum(6, np.round(sizes / sizes.sum() * N_VOXELS)).astype(int)
    sizes[0] += N_VOXELS - sizes.sum()
    for lesion, size in enumerate(sizes.tolist(), start=1):
        while True:
            direction = rng.normal(size=3)
            place = direction / np.linalg.norm(direction) * rng.uniform() ** (1 / 3)
            voxels = tuple(
                ball((np.array([91, 109, 91]) + place * [50, 65, 45]).astype(int), size).T
            )
            if not labels[voxels].any():
                break
        labels[voxels] = lesion
    brain = np.zeros(SHAPE, bool)
    brain[20:-20, 20:-20, 20:-20] = True
    arrays = {
        "flair_file": rng.normal(size=SHAPE).astype(np.float32) * brain,
        "t1w_file": rng.normal(size=SHAPE).astype(np.float32) * brain,
        "brain_mask_file": brain,
        "labels_file": labels,
    }
    grid = Grid(SHAPE, np.eye(4))
    files = {
        name: str(nifti.save(folder / f"{name}.nii.gz", array, grid))
        for name, array in arrays.items()
    }
    interface = Explain(
        **files,
        model=str(DEFAULT_BUNDLE),
        visit="benchmark",
        method="smoothgrad",
        aggregation="mean",
        target="logit",
        engine="auto",
        baseline="zero",
        n_samples=50,
        target_error=None,
        noise_level=0.05,
        noise_rule="robust",
        seed=0,
        device="cpu",
        use_gpu=False,
        allow_tf32=False,
        memory_gb=1.5,
        n_threads=n_threads,
        columns=list(DERIVATIVES["saliency_table"].columns),
    )
    with peak_gb() as peak:
        took = seconds(lambda: interface.run(cwd=str(folder)))
    return {
        "lesions": N_LESIONS,
        "voxels": int((labels > 0).sum()),
        "samples": 50,
        "seconds": took,
        "memory_gb": peak[0],
    }


def on_gpu(image: torch.Tensor, device: torch.device) -> dict[str, float]:
    """Compare a GPU with the CPU, and time 40 lesions of 100 voxels with `max`."""
    rng = np.random.default_rng(0)
    bundle = read_bundle(DEFAULT_BUNDLE)
    networks = {place: load_network(bundle, torch.device(place)) for place in ("cpu", str(device))}
    one = label(ball(CENTRES["worst"], 10))
    maps = [
        next(
            explain_lesions(
                network,
                image.to(place),
                one.to(place),
                aggregation="max",
                n_samples=2,
                sigma=SIGMA,
            )
        ).values.cpu()
        for place, network in networks.items()
    ]
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    for lesion in range(1, 41):
        labels[tuple(ball(rng.integers(50, 130, 3).tolist(), 100).T)] = lesion
    options = {"aggregation": "max", "n_samples": 50, "sigma": SIGMA}
    run = explain_lesions(networks[str(device)], image.to(device), labels.to(device), **options)
    return {
        "difference_from_cpu_of_peak": float(
            (maps[0] - maps[1]).abs().max() / maps[0].abs().max()
        ),
        "seconds_of_40_lesions": seconds(lambda: list(run)),
    }


def measure(sizes: Sequence[int], n_threads: int) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each size and place of a lesion."""
    network = load_network(read_bundle(DEFAULT_BUNDLE), torch.device("cpu"))
    engine = choose_engine(network, "pruned", None, None, 0.0)
    assert isinstance(engine, PrunedEngine)
    image = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    for size in sizes:
        for place, centre in CENTRES.items():
            voxels = ball(centre, size)
            field = engine.region(Box(tuple(centre), tuple(i + 1 for i in centre)), SHAPE)
            plain = {
                way.__name__: plain_convolution_rate(network, field, n_threads, way)
                for way in (conv3d, onednn)
            }
            others = {
                "published": published_seconds(network, image, voxels),
                "monai": monai_seconds(network, image, voxels),
                "captum": captum_seconds(network, image, voxels),
            }
            for aggregation, n_samples in (("mean", 50), ("max", n_threads)):
                own, memory = own_seconds(network, image, voxels, aggregation, n_samples)
                work = operations(engine, voxels, aggregation)
                compared = ("published",) if aggregation == "max" else ("monai", "captum")
                yield {
                    "voxels": size,
                    "place": place,
                    "aggregation": aggregation,
                    "own_seconds_a_sample": own,
                    **{f"{name}_seconds_a_sample": others[name] for name in compared},
                    **{f"times_faster_than_{name}": others[name] / own for name in compared},
                    "operations_a_sample": work,
                    "operations_a_second": work / own,
                    **{f"{way}_operations_a_second": rate for way, rate in plain.items()},
                    **{f"share_of_{way}": work / own / rate for way, rate in plain.items()},
                    # One gradient for each voxel, or one for the whole lesion.
                    "share_of_floor": FLOOR
                    * (size if aggregation == "max" else 1)
                    / own
                    / plain["onednn"],
                    "memory_gb": memory,
                }


def main() -> None:
    """Run the benchmark, print its table and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="voxels of a lesion")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cpu", help="cuda compares the GPU with the CPU")
    parser.add_argument("--skip-participant", action="store_true", help="leave the last part out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}, {platform.processor()}")
    print(
        f"{'voxels':>7s} {'place':11s} {'aggregation':11s} {'s/sample':>9s} "
        f"{'times faster than':>24s} {'GFLOP':>9s} {'GFLOP/s':>8s} {'of conv3d':>9s} "
        f"{'of oneDNN':>9s} {'GB':>5s}"
    )
    rows = []
    for row in measure(options.sizes, options.threads):
        rows.append(row)
        ratios = ", ".join(
            f"{key.removeprefix('times_faster_than_')} {value:.0f}"
            for key, value in row.items()
            if key.startswith("times_faster")
        )
        print(
            f"{row['voxels']:7d} {row['place']:11s} {row['aggregation']:11s} "
            f"{row['own_seconds_a_sample']:9.3f} {ratios:>24s} "
            f"{row['operations_a_sample'] / 1e9:9.1f} {row['operations_a_second'] / 1e9:8.0f} "
            f"{row['share_of_conv3d']:9.2f} {row['share_of_onednn']:9.2f} "
            f"{row['memory_gb']:5.2f}",
            flush=True,
        )
    result: dict[str, Any] = {"threads": options.threads, "torch": torch.__version__, "rows": rows}
    if not options.skip_participant:
        with tempfile.TemporaryDirectory() as folder:
            result["participant"] = participant(options.threads, Path(folder))
        print(f"participant: {result['participant']}")
    device = choose_device(options.device)
    if device.type == "cuda":
        image = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
        result["gpu"] = on_gpu(image, device)
        print(f"{torch.cuda.get_device_name(device)}: {result['gpu']}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
