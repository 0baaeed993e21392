# SPDX-License-Identifier: Apache-2.0
"""Both directions of a convolution kernel, as fast as the shapes allow.

`Kernel.gather` goes from the larger side to the smaller one (a convolution, and the gradient of a
transposed one), `Kernel.scatter` from the smaller side to the larger one (a transposed
convolution, and the gradient of a plain one). Neither pads or crops. What is fastest depends on
what must be read: small boxes of many channels are products of matrices, bound by reading the
kernel; large boxes of few channels would waste the width of the processor in a strided scatter, so
that it is written as a convolution of stride 1 followed by an interleaving of voxels (Shi et al.
2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv 1609.07009).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch.nn import functional

from bids_lesion_xai.explain.box import Box, Indices

# A scatter interleaves where this many channels are enough for all neighbouring voxels. Beyond it,
# the zeros that fill its kernels up to multiples of the stride (37 of 64 taps for a kernel of 3
# and a stride of 2) cost more than a strided scatter.
_MOST_INTERLEAVED = 32


class Kernel:
    """The weights of a convolution, and where they reach.

    Parameters
    ----------
    weight : float tensor, shape (small, large / groups, x, y, z)
        Channels of the smaller and of the larger side: for a plain convolution, those of the
        output and of the input; for a transposed one, of the input and of the output.
    stride, padding, dilation : tuple of int
    groups : int
    """

    def __init__(
        self,
        weight: torch.Tensor,
        stride: Indices,
        padding: Indices,
        dilation: Indices,
        groups: int,
    ) -> None:
        # With channels last, oneDNN is twice as fast as with channels first.
        on_cpu = weight.device.type == "cpu"
        self._format = torch.channels_last_3d if on_cpu else torch.contiguous_format
        self._onednn = (
            on_cpu and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )
        self.weight = weight.contiguous(memory_format=self._format)
        self.size = tuple(weight.shape[2:])
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self._dense = groups == 1 and set(dilation) == {1}

    @property
    def reach(self) -> Indices:
        """Distance d (k - 1) between the first and the last tap."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True))

    def under(self, box: Box) -> Box:
        """Return the box of the larger side under the kernel, for `box` of the smaller side."""
        axes = list(zip(box.start, box.stop, self.stride, self.padding, self.reach, strict=True))
        start = tuple(s * a - p for a, _, s, p, _ in axes)
        return Box(start, tuple(s * (b - 1) - p + r + 1 for _, b, s, p, r in axes))

    def over(self, box: Box) -> Box:
        """Return the box of the smaller side whose kernels reach `box` of the larger side."""
        axes = list(zip(box.start, box.stop, self.stride, self.padding, self.reach, strict=True))
        start = tuple(-((r - a - p) // s) for a, _, s, p, r in axes)
        return Box(start, tuple((b - 1 + p) // s + 1 for _, b, s, p, _ in axes))

    def gather(self, values: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the smaller side, shape (N, small, x, y, z), of values of the larger side."""
        if self._dense and values.numel() < self.weight.numel():
            return self._gather_by_product(values, bias)
        return self._convolve(values, self.weight, bias, self.stride, (0, 0, 0))

    def scatter(self, values: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the larger side, shape (N, large, x, y, z), of values of the smaller side."""
        if self._dense and values.numel() < self.weight.numel():
            result = self._scatter_by_product(values)
        elif self._dense and self._n_interleaved <= _MOST_INTERLEAVED:
            result = self._scatter_by_interleaving(values)
        else:
            result = functional.conv_transpose3d(
                values, self.weight, None, self.stride, 0, 0, self.groups, self.dilation
            )
        return result if bias is None else result + bias[:, None, None, None]

    def _convolve(
        self,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Indices,
        padding: Indices,
    ) -> torch.Tensor:
        # Where there is one thread, conv3d would often take slower kernels of torch's own.
        convolve = torch.mkldnn_convolution if self._onednn else functional.conv3d
        arguments = (stride, padding) if convolve is functional.conv3d else (padding, stride)
        return convolve(values, weight, bias, *arguments, self.dilation, self.groups)

    @cached_property
    def _matrix(self) -> torch.Tensor:
        """The weights as a matrix, shape (small, taps * large)."""
        return self.weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous()

    @cached_property
    def _matrix_transposed(self) -> torch.Tensor:
        return self._matrix.T.contiguous()

    def _gather_by_product(self, values: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        windows = values
        for axis, (k, s) in enumerate(zip(self.size, self.stride, strict=True), start=2):
            windows = windows.unfold(axis, k, s)
        n, _, *shape = windows.shape[:5]
        rows = windows.permute(0, 2, 3, 4, 5, 6, 7, 1).reshape(-1, len(self._matrix_transposed))
        result = (
            rows @ self._matrix_transposed
            if bias is None
            else torch.addmm(bias, rows, self._matrix_transposed)
        )
        return result.view(n, *shape, -1).permute(0, 4, 1, 2, 3)

    def _scatter_by_product(self, values: torch.Tensor) -> torch.Tensor:
        n, _, *shape = values.shape
        rows = values.permute(0, 2, 3, 4, 1).reshape(-1, len(self._matrix))
        taps = (rows @ self._matrix).view(n, *shape, *self.size, -1)
        # Axis by axis, with the taps of one axis first after the places on all three.
        for axis, (k, s) in enumerate(zip(self.size, self.stride, strict=True), start=1):
            m = taps.shape[axis]
            sides = list(taps.shape)
            sides[axis] = s * (m - 1) + k
            del sides[4]
            folded = taps.new_zeros(sides)
            for tap in range(k):
                reached = folded.narrow(axis, tap, s * (m - 1) + 1)
                reached[(slice(None),) * axis + (slice(None, None, s),)] += taps.select(4, tap)
            taps = folded
        return taps.permute(0, 4, 1, 2, 3)

    @property
    def _n_interleaved(self) -> int:
        return self.weight.shape[1] * self.stride[0] * self.stride[1] * self.stride[2]

    @cached_property
    def _interleaved(self) -> torch.Tensor:
        """The kernel of stride 1 whose output channels are neighbouring voxels of the scatter.

        Along an axis, output s q + r sums the inputs q - m times tap r + s m, over all m: with
        the taps of each remainder r in reverse order, this is a plain convolution. Its shape is
        (s_x s_y s_z large, small, m_x, m_y, m_z).
        """
        steps = [-(-k // s) for k, s in zip(self.size, self.stride, strict=True)]
        missing = [m * s - k for m, s, k in zip(steps, self.stride, self.size, strict=True)]
        full = functional.pad(self.weight, [n for m in reversed(missing) for n in (0, m)])
        small, large = self.weight.shape[:2]
        split = full.view(
            small, large, *(n for m, s in zip(steps, self.stride, strict=True) for n in (m, s))
        )
        kernels = split.flip(2, 4, 6).permute(3, 5, 7, 1, 0, 2, 4, 6)
        return kernels.reshape(-1, small, *steps).contiguous(memory_format=self._format)

    def _scatter_by_interleaving(self, values: torch.Tensor) -> torch.Tensor:
        kernel = self._interleaved
        around = tuple(m - 1 for m in kernel.shape[2:])
        parts = self._convolve(values, kernel, None, (1, 1, 1), around)
        n, _, *shape = parts.shape
        whole = parts.permute(0, 2, 3, 4, 1).reshape(n, *shape, *self.stride, -1)
        sides = (m * s for m, s in zip(shape, self.stride, strict=True))
        result = whole.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, *sides, whole.shape[-1])
        axes = zip(values.shape[2:], self.stride, self.size, strict=True)
        used = tuple(slice(0, s * (m - 1) + k) for m, s, k in axes)
        return result[(slice(None), *used)].permute(0, 4, 1, 2, 3)
