"""A model as a plain torch module: for code that trains, hooks or converts the layers of an `nn.Module`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor, nn

from bdlbench.core.layout import LinearOp
from bdlbench.core.streams import Streams
from bdlbench.kernels.convolution import Convolution
from bdlbench.kernels.linear import Dense
from bdlbench.networks.layers import Point
from bdlbench.networks.likelihoods import CategoricalOutput, GaussianOutput
from bdlbench.protocols import Model, Output


def no_plain_module(model: Model) -> str | None:
    """Say why a model is no plain module: its output must be class logits, or a mean with a known noise.

    Args:
        model: The model of one replicate.

    Returns:
        The reason, or None where it is one.
    """
    output = _traced(model)[0]
    if isinstance(output, GaussianOutput) and output.noise_is_learnt:
        return "it learns the noise of its target, and a plain module returns the mean alone"
    known = isinstance(output, CategoricalOutput | GaussianOutput)
    return None if known else "it returns neither logits of classes nor the mean of a number, as a plain module does"


def noise_sd(model: Model) -> float | None:
    """Return the standard deviation of a Gaussian target.

    Args:
        model: The model of one replicate, for which `no_plain_module` has no reason.

    Returns:
        It, on the model's scale; None of classes.
    """
    output = _traced(model)[0]
    return output.sd.item() if isinstance(output, GaussianOutput) else None


class PlainModule(nn.Module):
    """A model on inputs (B, *S), whose linear maps are submodules of torch, such as `nn.Linear` and `nn.Conv2d`.

    `state_dict` has the names of the leaves. Whoever hooks a submodule, or puts another in its place, acts on the
    model. Leaves that belong to no such map are parameters.
    """

    def __init__(self, model: Model, leaves: Mapping[str, Tensor]) -> None:
        """Build the module.

        Args:
            model: The model of one replicate, for which `no_plain_module` has no reason.
            leaves: Where its parameters start, {name: (*S)}.
        """
        super().__init__()
        self._model = model
        self._path: dict[str, str] = {}  # of the submodule that applies a weight
        left = dict(leaves)
        for name, ways in _traced(model)[1].items():
            path, (op, bias) = name.removesuffix(".weight"), next(iter(ways))
            layer = _layer(op, leaves[name], bias != "")
            if layer is None or len(ways) > 1 or name != f"{path}.weight" or bias not in ("", f"{path}.bias"):
                continue
            layer.load_state_dict({part: left.pop(f"{path}.{part}") for part in ("weight", "bias")[: 1 + (bias != "")]})
            self._owner(path).register_module(path.rpartition(".")[2], layer)
            self._path[name] = path
        for name, value in left.items():
            self._owner(name).register_parameter(name.rpartition(".")[2], nn.Parameter(value.clone()))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of the network.

        Args:
            x: Inputs (B, *S).

        Returns:
            Class logits (B, C), or means (B, 1) on the model's scale.
        """
        output = self._model(_Submodules(self, self._path), x.unsqueeze(0), Streams([0]))
        raw = output.logits if isinstance(output, CategoricalOutput) else output.mean.unsqueeze(-1)  # type: ignore[attr-defined]
        return raw.squeeze(0)

    def _owner(self, path: str) -> nn.Module:
        """Return the module in which `path` has its last name; it is made where it is not there."""
        owner: nn.Module = self
        for name in path.split(".")[:-1]:
            if not hasattr(owner, name):
                owner.register_module(name, nn.Module())
            owner = getattr(owner, name)
        return owner


@dataclass(frozen=True)
class _Submodules:
    """The rule of a plain module: a linear map is its submodule, which any other may have replaced."""

    module: nn.Module
    path: Mapping[str, str]

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        if name not in self.path:
            return op(x, self.leaf(name), self.leaf(bias) if bias else None)
        out: Tensor = self.module.get_submodule(self.path[name])(x.squeeze(0))  # (B, …)
        return out.unsqueeze(0)

    def leaf(self, name: str) -> Tensor:
        value: Tensor = attrgetter(name)(self.module)  # not `get_parameter`: `functional_call` puts a tensor there
        return value.unsqueeze(0)


@dataclass(frozen=True)
class _Tracing:
    """A layer rule that acts as a point, and notes by which maps each weight is applied, with which bias."""

    point: Point
    maps: dict[str, set[tuple[LinearOp, str]]] = field(default_factory=dict)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        self.maps.setdefault(name, set()).add((op, bias))
        return self.point(name, op, x, bias)

    def leaf(self, name: str) -> Tensor:
        return self.point.leaf(name)


def _traced(model: Model) -> tuple[Output, dict[str, set[tuple[LinearOp, str]]]]:
    """Return the output for one input of zeros, from leaves of zeros, and the maps of each weight."""
    leaves = {name: torch.zeros(1, *leaf.shape) for name, leaf in model.leaves().items()}
    rule = _Tracing(Point(leaves))
    with torch.no_grad():
        x, rng = torch.zeros(1, 1, *model.signature.input_shape), Streams([0], (1, 1))  # as it predicts
        output = model(rule, x, rng)
    return output, rule.maps


def _layer(op: LinearOp, weight: Tensor, has_bias: bool) -> nn.Module | None:
    """Return torch's layer of a map, whose parameters are not drawn; None where there is none."""
    given = {"bias": has_bias, "device": weight.device, "dtype": weight.dtype}
    made: nn.Module | None = None
    if isinstance(op, Dense):
        made = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], **given)
    elif isinstance(op, Convolution):
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[weight.ndim - 2]
        sizes = (weight.shape[1] * op.geometry.groups, weight.shape[0], weight.shape[2:])
        made = nn.utils.skip_init(kind, *sizes, **op.geometry._asdict(), **given)
    return made
