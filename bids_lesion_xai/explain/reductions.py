# SPDX-License-Identifier: Apache-2.0
"""Mean and variance of gradients that come one after the other, with their standard errors.

Moments about the mean are updated as of Welford (1962, doi 10.1080/00401706.1962.10490022) and, to
the fourth, Pebay (2008, Sandia report SAND2008-6212). A share of absolute values is no mean: its
error is that of the delete-a-group jackknife.
"""

from __future__ import annotations

from typing import Any

import torch

from bids_lesion_xai.explain.points import Reduction

# More groups make the error of a share more certain, and cost a map of memory each.
_MOST_GROUPS = 10


class Mean(Reduction):
    """The mean of the gradients.

    Parameters
    ----------
    inside : tuple of three int64 tensors, shape (V,)
        Indices of the lesion's voxels.
    """

    def __init__(self, inside: tuple[torch.Tensor, ...]) -> None:
        self._inside: tuple[Any, ...] = (slice(None), *inside)
        self._inside_means: list[torch.Tensor] = []
        self._count = 0
        self._mean, self._squares = torch.empty(0), torch.empty(0)
        self._groups: list[torch.Tensor] = []

    def add(self, gradient: torch.Tensor) -> None:
        if self._count < _MOST_GROUPS:
            self._groups.append(gradient.clone())
        else:
            self._groups[self._count % _MOST_GROUPS].add_(gradient)
        self._inside_means.append(gradient[self._inside].double().mean(1))
        self._count += 1
        if self._count == 1:
            self._mean, self._squares = gradient.clone(), torch.zeros_like(gradient)
            return
        deviation = gradient.sub_(self._mean)
        self._mean.add_(deviation, alpha=1 / self._count)
        self._squares.addcmul_(deviation, deviation, value=1 - 1 / self._count)

    def values(self) -> torch.Tensor:
        return self._mean

    def standard_error(self) -> torch.Tensor:
        return (self._squares / _or_nan((self._count - 1) * self._count)).sqrt_()

    def inside_error(self) -> torch.Tensor:
        means = torch.stack(self._inside_means)
        deviations = (means - means.mean(0)).square().sum(0)
        return (deviations / _or_nan((self._count - 1) * self._count)).sqrt()

    def share_error(self) -> torch.Tensor:
        """Return the error of the jackknife for groups of unequal size.

        Each group in turn is left out (Busing et al., Statistics and Computing 9, 1999, doi
        10.1023/A:1008800423698). With ten samples or fewer every sample is a group.
        """
        n_groups = len(self._groups)
        if n_groups == 1:
            return torch.full((len(self._mean),), torch.nan, dtype=torch.float64)
        total = self._mean * self._count
        whole = channel_shares(total)
        without = torch.stack([channel_shares(total - group) for group in self._groups])
        sizes = torch.tensor([len(range(i, self._count, n_groups)) for i in range(n_groups)])
        ratios = (self._count / sizes.double())[:, None].to(whole.device)
        centre = n_groups * whole - ((1 - 1 / ratios) * without).sum(0)
        pseudovalues = ratios * whole - (ratios - 1) * without
        return ((pseudovalues - centre).square() / (ratios - 1)).mean(0).sqrt()


class MeanSquare(Mean):
    """The mean of the squared gradients."""

    def add(self, gradient: torch.Tensor) -> None:
        super().add(gradient.square_())


class Variance(Reduction):
    """The variance of the gradients: of these, not an estimate for more of them.

    Its moments are kept in float64: the error is a small difference of large numbers.
    """

    def __init__(self) -> None:
        self._count, self._dtype = 0, torch.float64
        self._mean = self._second = self._third = self._fourth = torch.zeros(())

    def add(self, gradient: torch.Tensor) -> None:
        self._count = n = self._count + 1
        self._dtype = gradient.dtype
        deviation = gradient.double() - self._mean
        part = deviation / n
        growth = deviation * part * (n - 1)
        self._mean = self._mean + part
        self._fourth = (
            self._fourth
            + growth * part.square() * (n * n - 3 * n + 3)
            + 6 * part.square() * self._second
            - 4 * part * self._third
        )
        self._third = self._third + growth * part * (n - 2) - 3 * part * self._second
        self._second = self._second + growth

    def values(self) -> torch.Tensor:
        return (self._second / self._count).to(self._dtype)

    def standard_error(self) -> torch.Tensor:
        """Return the root of the unbiased estimate of the variance of the variance.

        With the k-statistics k2 and k4, that of k2 is (2 n k2^2 + (n - 1) k4) / (n (n + 1))
        (Kendall and Stuart, The Advanced Theory of Statistics, volume 1). It takes four samples.
        """
        n = self._count
        if n < 4:
            return torch.full_like(self._second, torch.nan, dtype=self._dtype)
        second, fourth = self._second / n, self._fourth / n
        k2 = second * n / (n - 1)
        k4 = (n + 1) * fourth - 3 * (n - 1) * second.square()
        k4 *= n * n / ((n - 1) * (n - 2) * (n - 3))
        of_k2 = (2 * n * k2.square() + (n - 1) * k4) / (n * (n + 1))
        # Of few samples the estimate can be negative: then nothing is known, and it is nan.
        return (of_k2.sqrt() * (n - 1) / n).to(self._dtype)

    def inside_error(self) -> torch.Tensor:
        return torch.full((len(self._second),), torch.nan, dtype=torch.float64)

    def share_error(self) -> torch.Tensor:
        return self.inside_error()


class Sum(Reduction):
    """A weighted sum of gradients at points without noise.

    Parameters
    ----------
    weights : sequence of float
        Of the gradients in their order.
    factor : float tensor, shape (C, x, y, z), or float
        Of the sum.
    """

    def __init__(self, weights: list[float], factor: torch.Tensor | float) -> None:
        self._weights, self._factor = iter(weights), factor
        self._sum: torch.Tensor = torch.zeros(())

    def add(self, gradient: torch.Tensor) -> None:
        self._sum = self._sum + next(self._weights) * gradient

    def values(self) -> torch.Tensor:
        return self._sum * self._factor

    def standard_error(self) -> torch.Tensor:
        return torch.zeros_like(self._sum)

    def inside_error(self) -> torch.Tensor:
        return torch.zeros(len(self._sum), dtype=torch.float64)

    def share_error(self) -> torch.Tensor:
        return self.inside_error()


def channel_shares(values: torch.Tensor) -> torch.Tensor:
    """Return the share of each channel in the sum of the absolute values, NaN if all are 0.

    Parameters
    ----------
    values : float tensor, shape (C, x, y, z)

    Returns
    -------
    shares : float64 tensor, shape (C,)
    """
    totals = values.abs().sum((1, 2, 3), dtype=torch.float64)
    return totals / totals.sum()


def _or_nan(number: float) -> float:
    return number or torch.nan
