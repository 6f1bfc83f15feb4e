"""AdamW or Muon, the learning rate of every step, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.model.wrapper import trainable
from wishbone.core.train.data_shards import is_share, local, share_like
from wishbone.core.train.recipe import Recipe

FIRST = 0.01
"""Learning rate of the first step as a share of the highest (RWKV-LM, train.py)."""


SMALLEST = 16
"""Rows and columns of a matrix that Muon takes at least: what is narrower is a few vectors."""


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
    times ``muon_rate``. What is frozen takes no part.
    """
    groups = trainable(model.parameter_groups(recipe.learning_rate, recipe.weight_decay))
    matrices = set()
    if recipe.optimizer == "muon":
        inside = model.backbone.parameters()
        matrices = {id(p) for p in inside if p.ndim == 2 and min(p.shape) >= SMALLEST}
    plain = _only(groups, lambda p: id(p) not in matrices)
    turned = _only(groups, lambda p: id(p) in matrices)
    for group in turned:
        group["lr"] *= recipe.muon_rate
    for group in plain + turned:
        group["highest"] = group["lr"]
    parts: list[torch.optim.Optimizer] = []
    if plain:
        betas = (recipe.beta1, recipe.beta2)
        parts.append(torch.optim.AdamW(plain, betas=betas, eps=recipe.epsilon, fused=True))
    if turned:
        parts.append(torch.optim.Muon(turned, adjust_lr_fn="match_rms_adamw"))
    return parts[0] if len(parts) == 1 else Together(*parts)


def _only(groups: list[dict[str, Any]], wanted: Callable[[Tensor], bool]) -> list[dict[str, Any]]:
    """The groups with those of their parameters that are wanted, without the empty ones."""
    parted = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in parted if group["params"]]


def rate(step: int, recipe: Recipe) -> float:
    """Share of the highest learning rate in a step counted from 0."""
    if step < recipe.warmup_steps:
        return FIRST + (1 - FIRST) * (step + 1) / recipe.warmup_steps
    last = recipe.final_rate
    if recipe.schedule == "cosine":
        whole = max(1, recipe.steps - recipe.warmup_steps)
        done = min(1.0, (step - recipe.warmup_steps) / whole)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))
    falling = max(1.0, recipe.decay_share * recipe.steps)
    left = max(0.0, recipe.steps - step)
    return last + (1 - last) * min(1.0, left / falling)


def set_rate(optimizer: torch.optim.Optimizer | Together, share: float) -> None:
    """Give every group its own highest learning rate times ``share``."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def optimizer_tensors(
    optimizer: torch.optim.Optimizer | Together, model: nn.Module
) -> dict[str, Tensor]:
    """Its memory as named tensors: of AdamW ``exp_avg/NAME``, ``exp_avg_sq/NAME``, ``step/NAME``,
    of Muon ``momentum_buffer/NAME``."""
    named = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"{key}/{name}"] = value.detach()
    return named


def load_optimizer(
    optimizer: torch.optim.Optimizer | Together, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` took. Raises ``CheckpointError`` if a name is unknown."""
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
    on the average for ever. Of weights that are shared out it averages the rows that are here. What
    is frozen is its own average, and not kept twice.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(named)
        self._weights = list(named.values())
        self._live = [local(p) for p in self._weights]
        self._mean = [p.clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step ``step`` (counted from 0) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name; the weights themselves where none are kept."""
        kept = zip(self.names, self._mean if self.decay else self._live, self._weights, strict=True)
        return {name: share_like(mean, weight) for name, mean, weight in kept}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put averages back by parameter name."""
        for name, mean in zip(self.names, self._mean, strict=True):
            mean.copy_(local(tensors[name]))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights; afterwards it has its own again."""
        if not self.decay:
            yield
            return
        held = [p.clone() for p in self._live]
        torch._foreach_copy_(self._live, self._mean)
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, held)
