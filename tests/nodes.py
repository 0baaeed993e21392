# SPDX-License-Identifier: Apache-2.0
"""A nipype interface that comes to the end it is told to; workers import it from here."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from bids_lesion_xai.errors import DataError


class TwoWordsError(Exception):
    """An error that can be pickled but not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class OutOfMemoryError(RuntimeError):
    """Called as torch's is, which takes seconds to import."""


def _lack_memory() -> None:
    np.empty(2**60, np.uint8)


def _lack_gpu_memory() -> None:
    message = "CUDA out of memory. Tried to allocate 20.00 MiB"
    raise OutOfMemoryError(message)


_LACKS = {"memory": _lack_memory, "gpu memory": _lack_gpu_memory}


class _StepInput(BaseInterfaceInputSpec):
    end = traits.Enum(
        *("done", "late", "never", "killed", "exit", "value", "data", "two words"),
        *_LACKS,
        mandatory=True,
    )
    before = traits.Int(desc="output of the step before")
    mark = traits.Str(desc="file to write when done")


class _StepOutput(TraitedSpec):
    process = traits.Int(desc="id of the process that ran the step")


class Step(SimpleInterface):
    """Do nothing and come to an end."""

    input_spec = _StepInput
    output_spec = _StepOutput

    def _run_interface(self, runtime: Any) -> Any:
        self._come_to(self.inputs.end)
        if self.inputs.mark:
            Path(self.inputs.mark).parent.mkdir(parents=True, exist_ok=True)
            Path(self.inputs.mark).touch()
        self._results["process"] = os.getpid()
        return runtime

    def _come_to(self, end: str) -> None:
        _LACKS.get(end, str)()
        if end == "late":
            time.sleep(1.5)
        elif end == "never":
            time.sleep(600)
        elif end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif end == "exit":
            sys.exit(3)
        elif end == "value":
            message = "no such luck"
            raise ValueError(message)
        elif end == "data":
            message = "sub-01: the image is\n\tof no use. Take another."
            raise DataError(message)
        elif end == "two words":
            raise TwoWordsError(*end.split())
