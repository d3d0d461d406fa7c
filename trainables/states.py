"""States as tensors by name: of optimizers, random streams and numbers."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    """The state with every name under a prefix: `training/weights`."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def under(prefix: str, state: State) -> dict[str, Tensor]:
    """The part of a state whose names are under the prefix, without the prefix."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in state.items() if name.startswith(f"{prefix}/")}


def integer(value: int) -> Tensor:
    """A whole number as a state."""
    return torch.tensor(value, dtype=torch.int64)


@torch.no_grad()
def restore_parameters(module: nn.Module, state: State) -> None:
    """Give a module's parameters the values of a state, in place."""
    for name, parameter in module.named_parameters():
        parameter.copy_(state[name])


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters, without its buffers."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def optimizer_state(optimizer: torch.optim.Optimizer, without: Collection[str] = ()) -> dict[str, Tensor]:
    """What an optimizer has accumulated for each parameter: momenta, steps taken; entries named in `without` left out.

    Settings are not part of it: they never change in training.
    """
    state = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if name not in without and value is not None:
                state[f"{index}/{name}"] = value if isinstance(value, Tensor) else integer(value)
    return state


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give a new optimizer what the earlier one had accumulated."""
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in under(str(index), state).items():
            number = value.ndim == 0 and value.dtype == torch.int64
            # A copy, aligned in memory as PyTorch's own tensors are.
            optimizer.state[parameter][name] = int(value) if number else value.clone().to(parameter.device)


def generator_states(generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Where each of several random streams is."""
    return {str(index): generator.get_state() for index, generator in enumerate(generators)}


def restore_generators(generators: Sequence[torch.Generator], state: State) -> None:
    """Go on with each random stream where it was."""
    for index, generator in enumerate(generators):
        generator.set_state(state[str(index)].clone())


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
