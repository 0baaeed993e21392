# SPDX-License-Identifier: Apache-2.0
"""How exactly a GPU multiplies, and whether it repeats itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def precision(image: torch.Tensor, *, allow_tf32: bool) -> Iterator[None]:
    """Let a GPU repeat itself, and round products to 10 bits only if that is allowed.

    Parameters
    ----------
    image : tensor
        What is worked on: on the CPU nothing changes.
    allow_tf32 : bool
    """
    if not image.is_cuda:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=allow_tf32
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
