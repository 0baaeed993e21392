# SPDX-License-Identifier: Apache-2.0
"""Torch modules as layers that are evaluated in boxes; batch norm goes into the convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from monai.networks.blocks import ResidualUnit
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet
from torch import nn

from bids_lesion_xai.explain.kernel import Kernel
from bids_lesion_xai.explain.layers import (
    Activation,
    Affine,
    Chain,
    Convolution,
    Layer,
    Rectifier,
    Residual,
    TransposedConvolution,
)
from bids_lesion_xai.explain.stages import Level, Plain, Stage


class UnboundedError(ValueError):
    """The network has a layer whose receptive field is unbounded or not known."""


def translate(module: nn.Module, batch_elements: int) -> Stage:
    """Return a network as a `Stage`.

    Modules are known by what they compute, not by their class: a subclass with a `forward` of its
    own is unknown.

    Parameters
    ----------
    module : torch module
        In eval mode: MONAI's `UNet`, or a `Sequential` of layers.
    batch_elements : int
        See `Level`.

    Raises
    ------
    UnboundedError
        `module` holds a layer whose receptive field is unbounded or not known.
    """
    for one in module.modules():
        if _is_tampered(one):
            message = f"{type(one).__name__} has hooks or a forward of its own"
            raise UnboundedError(message)
    if type(module).forward is UNet.forward:
        return _stage(module.model, batch_elements)
    return Plain(_layer(module))


def _is_tampered(module: nn.Module) -> bool:
    """Tell whether this one module computes something else than its class says."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return "forward" in vars(module) or any(hooks) or bool(module._backward_pre_hooks)


def _stage(module: Any, batch_elements: int) -> Stage:
    is_level = (
        type(module).forward is nn.Sequential.forward
        and len(module) == 3
        and type(module[1]).forward is SkipConnection.forward
    )
    if not is_level:
        return Plain(_layer(module))
    down, skip, up = module
    if skip.mode != "cat" or skip.dim != 1:
        message = f"skip connection of mode {skip.mode!r}; 'cat' is expected"
        raise UnboundedError(message)
    inner = _stage(skip.submodule, batch_elements)
    return Level(_layer(down), inner, _layer(up), batch_elements)


def _layer(module: nn.Module) -> Layer:
    layers: list[Layer] = []
    modules = list(_flatten(module))
    while modules:
        first, *modules = modules
        if _is(first, nn.Conv3d, nn.ConvTranspose3d):
            folds = modules and _is(modules[0], nn.BatchNorm3d)
            layers.append(_convolution(first, _affine(modules.pop(0)) if folds else None))
        elif (slope := _slope(first)) is not None:
            fresh = layers and isinstance(layers[-1], Convolution | TransposedConvolution)
            layers.append(Rectifier(slope, in_place=bool(fresh) and slope >= 0))
        else:
            layers.append(_other(first))
    return Chain(tuple(layers))


def _flatten(module: nn.Module) -> Iterator[Any]:
    """Yield the modules of nested `Sequential` one by one, without those that do nothing."""
    if _is(module, nn.Sequential):
        for child in module.children():
            yield from _flatten(child)
    elif not _is(module, nn.Identity, nn.Dropout, nn.Dropout3d):
        yield module


def _is(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return type(module).forward in {kind.forward for kind in kinds}


def _convolution(module: Any, after: Affine | None) -> Layer:
    """Return a plain or transposed convolution, and the factors and summands after it, as one."""
    padding = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        message = f"padding {padding!r} of mode {module.padding_mode!r}; zeros are expected"
        raise UnboundedError(message)
    transposed = _is(module, nn.ConvTranspose3d)
    weight, bias = module.weight.detach(), module.bias
    if after:
        # Output channels are the first axis of a plain kernel. Of a transposed one they are the
        # second, and the groups follow each other on the first.
        split = weight.unflatten(0, (module.groups if transposed else 1, -1))
        shape = (module.groups, 1, -1) if transposed else (1, -1, 1)
        weight = (split * after.scale.view(*shape, 1, 1, 1)).flatten(0, 1)
        bias = after.shift if bias is None else bias * after.scale + after.shift
    kernel = Kernel(weight, module.stride, padding, module.dilation, module.groups)
    if any(p > r for p, r in zip(padding, kernel.reach, strict=True)):
        message = f"{module} has outputs that depend on its padding alone"
        raise UnboundedError(message)
    if not transposed:
        return Convolution(kernel, bias)
    gaps = (s > r + 1 for s, r in zip(module.stride, kernel.reach, strict=True))
    beyond = (extra > p for extra, p in zip(module.output_padding, padding, strict=True))
    if any(gaps) or any(beyond):
        message = f"{module} has outputs that depend on no input"
        raise UnboundedError(message)
    return TransposedConvolution(kernel, bias, module.output_padding)


def _affine(module: Any) -> Affine:
    if module.running_mean is None:
        message = "batch norm without running statistics looks at the whole volume"
        raise UnboundedError(message)
    scale = (module.running_var + module.eps).rsqrt()
    if not module.affine:
        return Affine(scale, -module.running_mean * scale)
    scale = scale * module.weight.detach()
    return Affine(scale, module.bias.detach() - module.running_mean * scale)


def _residual(module: Any) -> Layer:
    return Residual(_layer(module.conv), _layer(module.residual))


def _slope(module: Any) -> float | None:
    """Return the slope below 0 of a module that has one slope there, else None."""
    if _is(module, nn.ReLU):
        return 0.0
    if _is(module, nn.LeakyReLU):
        return float(module.negative_slope)
    if _is(module, nn.PReLU) and module.num_parameters == 1:
        return float(module.weight.item())
    return None


def _other(module: nn.Module) -> Layer:
    convert = _CONVERT.get(type(module).forward)
    if convert is None:
        message = f"the receptive field of {type(module).__name__} is not known"
        raise UnboundedError(message)
    return convert(module)


_CONVERT: dict[Callable[..., Any], Callable[[Any], Layer]] = {
    nn.BatchNorm3d.forward: _affine,
    ResidualUnit.forward: _residual,
    **{
        kind.forward: Activation
        for kind in (
            nn.ELU,
            nn.GELU,
            nn.Mish,
            nn.PReLU,
            nn.SELU,
            nn.Sigmoid,
            nn.SiLU,
            nn.Softplus,
            nn.Tanh,
        )
    },
}
