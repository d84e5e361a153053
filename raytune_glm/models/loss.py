"""Next-token loss that never holds more logits than it needs.

Our ChatGLM code calls `labelled_loss` itself; `skip_unlabelled_rows` has the models of transformers
do the same. Read next: `loading`.

Shape suffixes: B batch, T tokens, H hidden, K labelled rows, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

MAX_CHUNK_LOGITS = 2**26
"""Most fp32 logits that exist at a time: 256 MiB, about 1000 rows of ChatGLM's 65024."""


def labelled_loss(
    hidden_BTH: Tensor,
    labels_BT: Tensor,
    output_layer: nn.Module,
    *,
    num_items_in_batch: Tensor | int | None = None,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> Tensor:
    """Mean cross entropy of the next token, in fp32, over the rows that carry a label.

    Logits are computed for those rows only, and where they are many, in chunks whose logits are
    dropped and computed again in the backward pass.

    Args:
        hidden_BTH: Normed last hidden states.
        labels_BT: Ids, not shifted; `IGNORED_LABEL` where no loss is taken.
        output_layer: Maps hidden states to logits.
        num_items_in_batch: Divisor instead of the number of labelled rows.
        max_chunk_logits: Most logits to hold at a time.

    Returns:
        A scalar. 0 where no row carries a label.
    """
    targets_BT = labels_BT[:, 1:].to(hidden_BTH.device)
    labelled_BT = targets_BT != IGNORED_LABEL
    rows_KH = hidden_BTH[:, :-1][labelled_BT]
    targets_K = targets_BT[labelled_BT]
    losses_K = token_losses(rows_KH, targets_K, output_layer, max_chunk_logits=max_chunk_logits)
    total = losses_K.sum()
    if num_items_in_batch is None:
        num_items_in_batch = max(1, len(targets_K))
    elif isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


def token_losses(
    hidden_KH: Tensor,
    targets_K: Tensor,
    output_layer: nn.Module,
    *,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> Tensor:
    """Cross entropy of each labelled row, in fp32.

    Args:
        hidden_KH: Normed last hidden states of the labelled rows alone.
        targets_K: What they should predict.
        output_layer: Maps hidden states to logits.
        max_chunk_logits: Most logits to hold at a time.

    Returns:
        [K].
    """

    def losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output_layer(hidden).float(), targets, reduction="none")

    vocab_size = int(output_layer.out_features)  # type: ignore[arg-type]
    rows_per_chunk = max(1, max_chunk_logits // vocab_size)
    if len(hidden_KH) <= rows_per_chunk:
        # An empty batch still goes through the layer: under ZeRO-3 every rank must take part.
        return losses(hidden_KH, targets_K)
    return torch.cat(
        [
            checkpoint(losses, hidden, targets, use_reentrant=False)
            for hidden, targets in zip(
                torch.split(hidden_KH, rows_per_chunk),
                torch.split(targets_K, rows_per_chunk),
                strict=True,
            )
        ]
    )


def skip_unlabelled_rows(model: PreTrainedModel) -> None:
    """Have a model of transformers take its training loss from labelled rows alone.

    In training with labels its forward then gives the loss that it gave before and no logits;
    `skip_logits=True` asks for the same outside training, `skip_logits=False` for the model's own
    way. Everything up to the output layer, auxiliary outputs included, stays the model's own. One
    whose logits are more than its output layer gives, or whose loss is more than their mean cross
    entropy, is left as it is, which is logged; our ChatGLM models do all this by themselves.

    Args:
        model: The model; it is changed.
    """
    if not _is_ours(model):
        model.forward = _LeanForward(model)


def _is_ours(model: PreTrainedModel) -> bool:
    return "skip_logits" in inspect.signature(type(model).forward).parameters


class _LeanForward:
    """A model's own forward, but for logits and loss where labels are given.

    An object and not a closure: it is copied and pickled with the model that it holds.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._plain: Callable[..., Any] = model.forward
        self._is_sound: bool | None = None
        """Whether the model's loss is that of its output layer; None until it was first asked."""
        functools.update_wrapper(self, self._plain)

    def __call__(self, *args: Any, skip_logits: bool | None = None, **kwargs: Any) -> Any:
        """Run the model; see `skip_unlabelled_rows`."""
        names = inspect.signature(self._plain).parameters
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        skips = self._model.training if skip_logits is None else skip_logits
        if arguments.get("labels") is None or not skips or not self._can_skip(arguments):
            return self._plain(**arguments)
        labels = arguments.pop("labels")
        arguments.pop("logits_to_keep", None)
        num_items = arguments.pop("num_items_in_batch", None)
        head: Any = self._model.get_output_embeddings()
        with _withheld(head) as seen:
            output = self._plain(**arguments)
        loss = labelled_loss(seen[0], labels, head, num_items_in_batch=num_items)
        return type(output)(**{**output, "loss": loss, "logits": None})

    def _can_skip(self, arguments: Mapping[str, Any]) -> bool:
        if arguments.get("output_router_logits") or arguments.get("return_dict") is False:
            return False
        if self._is_sound is None:
            # Not while loading: ZeRO-3 has the weights in reach of a forward under its engine only.
            reason = _reason_for_own_loss(self._model, self._plain)
            self._is_sound = reason is None
            if reason is not None:
                name = type(self._model).__name__
                log.info("%s keeps its own loss over all rows: %s", name, reason)
        return self._is_sound


@contextmanager
def _withheld(head: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the hidden states that are given to the output layer, which gets none of them."""
    seen: list[Tensor] = []

    def take(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(given[0])
        return (given[0][:, :0],)

    handle = head.register_forward_pre_hook(take)
    try:
        yield seen
    finally:
        handle.remove()


def has_plain_logits(model: PreTrainedModel) -> bool:
    """Whether a model's logits and loss are its output layer's and nothing else."""
    plain = partial(type(model).forward, model)
    return _is_ours(model) or _reason_for_own_loss(model, plain) is None


def _reason_for_own_loss(model: PreTrainedModel, plain: Callable[..., Any]) -> str | None:
    """Say why a model's loss cannot be taken from its output layer alone; None where it can.

    Asked of the model itself, on four tokens, because architectures differ in ways that no
    configuration tells: scaled or capped logits, losses of a router.
    """
    head: Any = model.get_output_embeddings()
    if not hasattr(head, "out_features"):
        return "its output layer is not one linear"
    device = head.weight.device
    ids = torch.arange(1, 5, device=device)[None]
    given: list[Tensor] = []
    handle = head.register_forward_hook(lambda *call: given.append(call[-1].clone()))
    try:
        # The trial's own draws, for dropout, must not depend on this.
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            output = plain(input_ids=ids, labels=ids)
        logits = given[0].float()
    except Exception as error:  # an architecture may want inputs that nobody here knows of
        return f"it does not run on plain tokens ({type(error).__name__}: {error})"
    finally:
        handle.remove()
    # To the bit: a cap on small logits changes no more than that.
    if not torch.equal(output.logits.float(), logits):
        return "its logits are not its output layer's"
    mean = nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    if not torch.isclose(output.loss.float(), mean, rtol=1e-5, atol=1e-5):
        return "its loss is not the mean cross entropy of the next token"
    return None
