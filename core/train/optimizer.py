"""The trained parameters, AdamW or Muon, the learning rate of a step, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.model.wrapper import trainable
from wishbone.core.train.distributed.fsdp import is_share, local, share_like
from wishbone.core.train.recipe import Recipe

FIRST = 0.01
"""Learning rate of the first step as a share of the highest."""
SMALLEST = 16
"""Rows and columns of a matrix that Muon takes at least: what is narrower is a few vectors."""


def freeze_(model: nn.Module, names: Sequence[str]) -> None:
    """Let no gradient reach the parameters that ``names`` select, each a part or one parameter.

    ``"backbone"`` is all of the backbone, ``"tables.text"`` one table. Raises ``ConfigError`` where
    a name is none of the model's, or nothing is left to train.
    """
    for name in names:
        matches = [p for n, p in model.named_parameters() if n == name or n.startswith(f"{name}.")]
        if not matches:
            parts = ", ".join(n for n, child in model.named_children() if list(child.parameters()))
            raise ConfigError(
                f"'freeze' names '{name}', and no parameter of the model is called so.",
                "the training recipe",
                f"Name a part ({parts}), or one inside, such as backbone.norm_in.",
            )
        for parameter in matches:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "Everything is frozen, so there is nothing to train.",
            "the training recipe",
            "Take a name out of 'freeze'.",
        )


def count_trained(model: nn.Module) -> int:
    """Count the numbers that the training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class Float32Muon(torch.optim.Muon):
    """PyTorch's Muon, iterated in float32.

    PyTorch iterates in bfloat16, which a processor without instructions for it emulates: there the
    iteration took three fifths of a step of a bundled arm (AMD EPYC with AVX2, one thread).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """As in every optimiser; of PyTorch's rules for the learning rate "match_rms_adamw"."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_(parameter, group)
        return loss

    def _update_(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, memory = parameter.grad.float(), self.state[parameter]  # [m, n]
        if "momentum_buffer" not in memory:
            memory["momentum_buffer"] = torch.zeros_like(gradient)  # [m, n]
        momentum = memory["momentum_buffer"]  # [m, n]
        momentum.lerp_(gradient, 1 - group["momentum"])  # [m, n]
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"])  # [m, n]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])  # [m, n]
        length = 0.2 * math.sqrt(max(parameter.shape))  # of a step of AdamW, arXiv:2502.16982
        parameter.add_(update, alpha=-group["lr"] * length)  # [m, n]


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], iterations: int) -> Tensor:
    """The nearest orthogonal matrix, roughly: singular values between 0.5 and 1.5.

    [m, n] -> [m, n]. Newton and Schulz's iteration of fifth order (Jordan et al. 2024).
    """
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # [s, l]
    x = wide / wide.norm().clamp(min=1e-7)  # [s, l]
    for _ in range(iterations):
        gram = x @ x.T  # [s, s]
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # [s, l]
    return x if wide is matrix else x.T  # [m, n]


class Together:
    """Two optimisers, each of its own parameters, as one: one list of groups, one memory."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts:
            part.state = self.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in every optimiser."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """As in every optimiser."""
        for part in self.parts:
            part.step()


def make_optimizer(model: SpeechLM, recipe: Recipe) -> torch.optim.Optimizer | Together:
    """AdamW over the model's own parameter groups; their learning rates keep their ratios.

    With ``optimizer: muon`` the matrices inside the backbone go to Muon (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon), scaled to steps of AdamW's length (arXiv:2502.16982)
    times ``muon_rate``, iterated in float32 where ``precision`` is "fp32". What is frozen takes no
    part.
    """
    groups = trainable(model.parameter_groups(recipe.learning_rate, recipe.weight_decay))
    apart = set()
    if recipe.optimizer == "muon":
        inside = model.backbone.parameters()
        apart = {id(p) for p in inside if p.ndim == 2 and min(p.shape) >= SMALLEST}
    plain = _only(groups, lambda p: id(p) not in apart)
    matrices = _only(groups, lambda p: id(p) in apart)
    for group in matrices:
        group["lr"] *= recipe.muon_rate
    for group in plain + matrices:
        group["highest"] = group["lr"]
    parts: list[torch.optim.Optimizer] = []
    if plain:
        betas = (recipe.beta1, recipe.beta2)
        parts.append(torch.optim.AdamW(plain, betas=betas, eps=recipe.epsilon, fused=True))
    if matrices:
        kind = Float32Muon if recipe.precision == "fp32" else torch.optim.Muon
        parts.append(kind(matrices, adjust_lr_fn="match_rms_adamw"))
    return parts[0] if len(parts) == 1 else Together(*parts)


def _only(
    groups: list[dict[str, Any]], condition: Callable[[Tensor], bool]
) -> list[dict[str, Any]]:
    """The groups with those of their parameters that meet a condition, without the empty ones."""
    parted = [{**group, "params": [p for p in group["params"] if condition(p)]} for group in groups]
    return [group for group in parted if group["params"]]


def schedule_factor(step: int, recipe: Recipe) -> float:
    """The learning rate of a step, counted from 0, as a share of the highest."""
    if step < recipe.warmup_steps:
        return FIRST + (1 - FIRST) * (step + 1) / recipe.warmup_steps
    last = recipe.final_rate
    if recipe.schedule == "cosine":
        duration = max(1, recipe.steps - recipe.warmup_steps)
        progress = min(1.0, (step - recipe.warmup_steps) / duration)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress))
    falling = max(1.0, recipe.decay_share * recipe.steps)
    remaining = max(0.0, recipe.steps - step)
    return last + (1 - last) * min(1.0, remaining / falling)


def set_learning_rate(optimizer: torch.optim.Optimizer | Together, share: float) -> None:
    """Give every group its own highest learning rate times ``share``."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def optimizer_tensors(
    optimizer: torch.optim.Optimizer | Together, model: nn.Module
) -> dict[str, Tensor]:
    """The optimizer's memory as named tensors.

    Of AdamW ``exp_avg/NAME``, ``exp_avg_sq/NAME``, ``step/NAME``, of Muon ``momentum_buffer/NAME``.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach()
    return tensors


def load_optimizer(
    optimizer: torch.optim.Optimizer | Together, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back ``optimizer_tensors`` of earlier. Raises ``CheckpointError`` for an unknown name."""
    parameters = dict(model.named_parameters())
    for full, value in tensors.items():
        key, _, name = full.partition("/")
        if name not in parameters:
            raise CheckpointError(
                f"The optimiser remembers '{name}', which the model does not have.",
                "optimizer.safetensors",
                "Resume with the configuration that the run began with.",
            )
        parameter = parameters[name]
        place = parameter.device if key != "step" or parameter.is_cuda else "cpu"
        optimizer.state[parameter][key] = value if is_share(value) else value.to(place)


class Average:
    """Exponential moving average of the weights; young averages forget faster.

    The decay of step t is ``min(decay, (1 + t) / (10 + t))``, so that the first steps do not weigh
    on the average for ever. Of weights that are shared out it averages the rows of this process. A
    frozen parameter is its own average and not stored twice.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(parameters)
        self._weights = list(parameters.values())
        self._live = [local(p) for p in self._weights]
        self._mean = [p.clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step ``step`` (counted from 0) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name; the weights themselves without averaging."""
        values = self._mean if self.decay else self._live
        triples = zip(self.names, values, self._weights, strict=True)
        return {name: share_like(mean, weight) for name, mean, weight in triples}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put averages back by parameter name."""
        for name, mean in zip(self.names, self._mean, strict=True):
            mean.copy_(local(tensors[name]))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its averaged weights, and afterwards the trained ones again."""
        if not self.decay:
            yield
            return
        trained = [p.clone() for p in self._live]
        torch._foreach_copy_(self._live, self._mean)
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, trained)
