"""One trial's place in a pack: its weights, its optimizer, its random stream.

A slot's model is a twin of the base: modules of its own, the base's tensors, and the method put on
it just as a solo trial does. What is learnt lies in one flat vector, of which the twin's parameters
are views; evaluating and saving therefore work on the twin as they do on a solo trial's model. Read
next: `pack`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raytune_glm import memory
from raytune_glm.config.execution import packing_obstacle
from raytune_glm.config.rates import names_by_rate
from raytune_glm.engine.preparing import prepare
from raytune_glm.engine.probe import last_logits
from raytune_glm.engine.refusals import refuse_non_finite, refuse_zero
from raytune_glm.engine.schedule import learning_rate_factor
from raytune_glm.engine.trainer import StepStats
from raytune_glm.errors import ModelError
from raytune_glm.packing.linear import Update

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.config import RunConfig
    from raytune_glm.models.chatglm.prefix import PrefixEncoder
    from raytune_glm.models.family import Family

_STATE = "slot.pt"


def twin(model: PreTrainedModel, *, shares_weights: bool = True) -> PreTrainedModel:
    """Copy a model's modules and configuration, not its tensors, which both then share.

    A weight of the base that a method trains is therefore to be replaced, and not written to.

    Args:
        model: The model.
        shares_weights: False copies the weights, all but those in few bits, to be written to.
    """
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    copies: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    for parameter in model.parameters():
        # One of its own over the same numbers, since what trains is said of each.
        if type(parameter) is nn.Parameter and parameter.is_floating_point():
            data = parameter.data if shares_weights else parameter.data.clone()
            copies[id(parameter)] = nn.Parameter(data, requires_grad=False)
    for module in model.modules():
        linear: Any = module
        if not hasattr(linear, "init_8bit_state"):
            continue
        # The first forward of an int8 linear takes the numbers away from its weight, which twins
        # share, into a state, of which they would have copies: take them now, and share that.
        if linear.weight.CB is not None:
            linear.init_8bit_state()
        states = [value for value in vars(linear.state).values() if torch.is_tensor(value)]
        copies |= {id(tensor): tensor for tensor in states}
    return copy.deepcopy(model, copies)


class Slot:
    """The weights that one trial trains, and how they are stepped."""

    def __init__(self, base: PreTrainedModel, run: RunConfig, family: Family) -> None:
        """Put the run's method on a twin of `base`, its new weights drawn as in a solo trial."""
        self.run = run
        self.applied_steps = 0
        """Optimizer steps taken, those before a resume included."""
        self.pads = 0
        """Padding tokens that its passes worked on."""
        torch.manual_seed(run.train.seed)
        self.model: PreTrainedModel = run.method.apply(twin(base), family)
        self.model.train()
        self.copies = self._find_copies()
        """Module name in the base -> the copy of it that this slot trains whole."""
        self.is_alone = packing_obstacle(run) is not None or not _are_tokenwise(
            self.copies.values(), self.model.config
        )
        """Whether its rows go through its own model, and not through the pack's line."""
        if self.is_alone:
            self.copies = {}
            prepare(self.model, run.train)
        self._gather_weights(next(base.parameters()).device, base.dtype)
        torch.manual_seed(run.train.seed)
        self.random_state = _random_state(self.device)
        self._begin_step()
        self._optimizer = torch.optim.AdamW(
            self._groups,
            betas=run.train.betas,
            eps=run.train.adam_epsilon,
            weight_decay=run.train.weight_decay,
            fused=True,
        )
        self.updates = {} if self.is_alone else self._find_updates()
        """Module name in the base -> the low-rank update of that linear."""
        inner: Any = self.model
        own = inner.transformer if family.has_own_prefix else inner
        self.prefix_encoder: PrefixEncoder | None = getattr(own, "prefix_encoder", None)
        self.prompt: nn.Embedding | None = getattr(inner, "prompt_encoder", None)

    def _gather_weights(self, device: torch.device, dtype: torch.dtype) -> None:
        """Have the twin's trained parameters and their gradients be views of flat vectors."""
        self.device = device
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        rates = names_by_rate(self.trained, self.run.train)
        ordered = [self.trained[name] for names in rates.values() for name in names]
        flat = torch.cat([p.detach().to(dtype).flatten() for p in ordered])
        # As in DeepSpeed's bf16 engine: AdamW steps fp32 weights, the model sees them rounded.
        self._master = flat.float()
        self._working = self._master if dtype == torch.float32 else flat
        self._gradient = torch.zeros_like(self._working)
        start = 0
        for parameter in ordered:
            stop = start + parameter.numel()
            shape = parameter.shape
            parameter.data = self._working[start:stop].view(shape)
            parameter.grad = self._gradient[start:stop].view(shape)
            start = stop
        self._sizes = [
            sum(self.trained[name].numel() for name in names) for names in rates.values()
        ]
        self._groups = [
            {"params": [nn.Parameter(part)], "lr": rate, "peak": rate}
            for part, rate in zip(torch.split(self._master, self._sizes), rates, strict=True)
        ]

    @property
    def num_virtual(self) -> int:
        """Learnt tokens before those of each row."""
        return 0 if self.prompt is None else self.prompt.num_embeddings

    @property
    def num_prefix(self) -> int:
        """Learnt keys and values before the first token of every layer."""
        return 0 if self.prefix_encoder is None else self.prefix_encoder.embedding.num_embeddings

    @property
    def trainable_parameters(self) -> int:
        """Parameters that train."""
        return self._master.numel()

    def _find_copies(self) -> dict[str, nn.Module]:
        if not self.run.method.trains_base:
            return {}
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        names = dict.fromkeys(name.rpartition(".")[0] for name in trained)
        return {name: self.model.get_submodule(name) for name in names}

    def _find_updates(self) -> dict[str, Update]:
        found = {}
        for name, module in self.model.named_modules():
            layer: Any = module
            if not hasattr(layer, "lora_A") or not len(layer.lora_A):
                continue
            [adapter] = layer.lora_A
            dropout = layer.lora_dropout[adapter]
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            found[name.removeprefix("base_model.model.")] = Update(
                down_RI=down.data,
                up_OR=up.data,
                down_grad_RI=down.grad,
                up_grad_OR=up.grad,
                scale=float(layer.scaling[adapter]),
                dropout=getattr(dropout, "p", 0.0),
            )
        return found

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Draw from this slot's own random stream inside the block, and go on there next time."""
        outside = _random_state(self.device)
        _set_random_state(self.device, self.random_state)
        try:
            yield
        finally:
            self.random_state = _random_state(self.device)
            _set_random_state(self.device, outside)

    @contextmanager
    def stream_at(self, state: Tensor) -> Iterator[None]:
        """Draw once more from where the slot's stream once was; the stream itself stays put."""
        outside = _random_state(self.device)
        _set_random_state(self.device, state)
        try:
            yield
        finally:
            _set_random_state(self.device, outside)

    def step(self, loss: float, *, number: int, total_steps: int) -> StepStats:
        """Take an optimizer step with the gradient that has come together, and clear it.

        Args:
            loss: Mean loss of the step's label tokens.
            number: Steps done before this one.
            total_steps: Steps of the whole trial, which the schedule ends at.

        Raises:
            NonFiniteLossError: The loss or the gradient is; the weights stay as they are.
            ZeroLossError: The loss is 0; the same.
        """
        train = self.run.train
        norm = float(torch.linalg.vector_norm(self._gradient))
        refuse_non_finite("loss", loss, number + 1, self.run)
        refuse_zero(loss, number + 1, self.run)
        refuse_non_finite("gradient norm", norm, number + 1, self.run)
        if train.max_grad_norm is not None:
            # DeepSpeed's and torch's formula.
            clip = train.max_grad_norm / (norm + 1e-6)
            if clip < 1:
                self._gradient.mul_(clip)
        factor = learning_rate_factor(
            number,
            schedule=train.schedule,
            total_steps=total_steps,
            warmup_ratio=train.warmup_share(total_steps),
        )
        gradients = torch.split(self._gradient.to(self._master.dtype), self._sizes)
        for group, gradient in zip(self._optimizer.param_groups, gradients, strict=True):
            group["lr"] = group["peak"] * factor
            group["params"][0].grad = gradient
        self._optimizer.step()
        if self._working is not self._master:
            self._working.copy_(self._master)
        self.applied_steps += 1
        self._begin_step()
        return StepStats(
            loss=loss, grad_norm=norm, learning_rate=self._optimizer.param_groups[0]["lr"]
        )

    def _begin_step(self) -> None:
        self._gradient.zero_()
        self._state_at_step = self.random_state

    def restart_step(self) -> None:
        """Forget the gradient that came together, and draw again what was drawn for it."""
        self.random_state = self._state_at_step
        self._gradient.zero_()

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Give the logits of a batch's last tokens, in fp32 on the CPU."""
        return last_logits(self.model, batch, self.device)

    def trained_weights(self) -> dict[str, Tensor]:
        """Copy what trains to the CPU, by parameter name."""
        return {name: p.detach().cpu().clone() for name, p in self.trained.items()}

    def peak_memory_bytes(self) -> int:
        """Largest memory so far of the whole pack."""
        return memory.peak_bytes(self.device)

    def save_state(self, folder: Path, tag: str) -> None:
        """Write what going on needs (weights, AdamW's moments, random stream) to `folder / tag`."""
        (folder / tag).mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "weights": self._master,
                "optimizer": self._optimizer.state_dict()["state"],
                "random": self.random_state,
                "applied_steps": self.applied_steps,
            },
            folder / tag / _STATE,
        )

    def load_state(self, folder: Path, tag: str) -> None:
        """Read what `save_state` wrote.

        Raises:
            ModelError: It was saved by a trial of other settings, or outside a pack.
        """
        path = folder / tag / _STATE
        if not path.exists():
            raise ModelError(
                f"a trial in a pack must go on from a checkpoint of a pack, but {folder / tag} was "
                "saved by a solo trial: set run.execution to what the sweep began with."
            )
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["weights"].shape != self._master.shape:
            raise ModelError(
                f"{path} must hold {self._master.numel()} weights, but holds "
                f"{saved['weights'].numel()}: it is of other settings."
            )
        self._master.copy_(saved["weights"])
        if self._working is not self._master:
            self._working.copy_(self._master)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": saved["optimizer"], "param_groups": groups})
        self.random_state = saved["random"].cpu()
        self.applied_steps = saved["applied_steps"]
        self._begin_step()


def _are_tokenwise(modules: Iterable[nn.Module], config: Any) -> bool:
    """Whether modules are linears, and norms of hidden states, which see each token by itself."""
    return all(
        isinstance(module, nn.Linear)
        or (
            type(module).__name__.endswith("Norm")
            and all(p.shape == (config.hidden_size,) for p in module.parameters())
        )
        for module in modules
    )


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
