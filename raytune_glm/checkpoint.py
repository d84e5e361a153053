"""A trial's checkpoints: what resuming needs, and the adapter of its best evaluation.

    checkpoint/
      index.json                 which folders below count; replaced atomically when they are whole
      state/step-000040/         DeepSpeed's state and each rank's loop state, to go on from
      adapter/step-000030/       what the method trained, as it saves it, at the best evaluations

A kill at any moment leaves an index that names finished folders; what it does not name is swept
away at the next save. Read next: `raytune_glm.worker`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.errors import StorageError

if TYPE_CHECKING:
    from raytune_glm.engine.probe import Probe
    from raytune_glm.engine.trainer import Trainer
    from raytune_glm.methods import Method

INDEX = "index.json"


def best_adapter(checkpoint: Path, *, step: int | None = None) -> Path | None:
    """Find a trial's best adapter.

    Args:
        checkpoint: The trial's checkpoint folder.
        step: The step of the best evaluation that was reported; none: the best one saved.

    Returns:
        Its folder, or None where the trial never came to an evaluation.
    """
    names = _read_index(checkpoint).adapters
    if step is not None:
        names = [name for name in names if name == _adapter(step)] or names
    return checkpoint / names[0] if names else None


class Checkpoints:
    """The checkpoint folder of one trial, seen from one rank. Every rank calls every method."""

    def __init__(
        self,
        folder: Path,
        method: Method,
        *,
        save_total_limit: int = 3,
        probe: Probe | None = None,
    ) -> None:
        """Use `folder`, which need not exist yet, for what `method` trains.

        Args:
            folder: The trial's checkpoint folder.
            method: What saves the adapter.
            save_total_limit: How many of the best adapters stay.
            probe: What each saved adapter must answer otherwise than the untrained model did.
        """
        self._folder = folder
        self._method = method
        self._limit = save_total_limit
        self._probe = probe

    def resume(self, engine: Trainer) -> dict[str, Any] | None:
        """Put the engine and this rank's random streams where the last save left them.

        Returns:
            What `save` was given as `loop`, or None where nothing was saved yet.
        """
        from raytune_glm.engine import distributed

        tag = _read_index(self._folder).state
        if tag is None:
            return None
        parent, name = os.path.split(tag)
        engine.load_state(self._folder / parent, name)
        import torch

        # Our own file, written by `save`; it holds random states, which are not tensors alone.
        saved: dict[str, Any] = torch.load(
            self._folder / tag / f"loop-{distributed.rank()}.pt", weights_only=False
        )
        _set_random_state(saved["random"])
        loop: dict[str, Any] = saved["loop"]
        return loop

    def save(self, engine: Trainer, *, step: int, loop: dict[str, Any], best: bool) -> None:
        """Save the state of a step and, where it is the best one yet, its adapter.

        Args:
            engine: The trial's engine.
            step: Optimizer steps done.
            loop: The loop's own state, plain data.
            best: Whether the adapter of this step takes the former best one's place.

        Raises:
            StorageError: The disk has no room for it; what was saved before is whole.
            NoEffectError: The adapter changes nothing of what the model says.
            RuntimeError: What was written is not what was trained.
        """
        from raytune_glm.engine import distributed

        state, adapter = _state(step), _adapter(step)
        try:
            self._write_state(engine, state, loop)
            if best:
                self._write_adapter(engine, adapter)
            distributed.barrier()
            if distributed.rank() == 0:
                self._publish(state, adapter if best else None)
        except Exception as error:
            if not files.lacks_room(error):
                raise
            raise self._out_of_room(step, error) from error
        distributed.barrier()

    def _write_state(self, engine: Trainer, state: str, loop: dict[str, Any]) -> None:
        import torch

        from raytune_glm.engine import distributed

        parent, tag = os.path.split(state)
        engine.save_state(self._folder / parent, tag)
        own = self._folder / state / f"loop-{distributed.rank()}.pt"
        torch.save({"loop": loop, "random": _random_state()}, own)

    def _write_adapter(self, engine: Trainer, adapter: str) -> None:
        """Save what was trained, and make sure that it is on disk, whole, and worth having."""
        from raytune_glm.engine import distributed

        weights = engine.trained_weights()
        if distributed.rank() == 0:
            self._method.save(engine.model, weights, self._folder / adapter)
        if self._probe is not None:
            self._probe.require_change(engine)

    def _publish(self, state: str, adapter: str | None) -> None:
        for name in (state,) if adapter is None else (state, adapter):
            _sync_tree(self._folder / name)
        adapters = _read_index(self._folder).adapters
        if adapter is not None:
            former = [name for name in adapters if name != adapter]
            adapters = [adapter, *former][: self._limit]
        _publish(self._folder, _Index(state=state, adapters=adapters))

    def _out_of_room(self, step: int, error: Exception) -> StorageError:
        """Clear away what was half written, and say what is left and what to do."""
        index = _read_index(self._folder)
        needed = sum(files.bytes_below(self._folder / name) for name in _names(index))
        for name in {_state(step), _adapter(step)} - set(_names(index)):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        last = f"the last one, {index.state}, is whole" if index.state else "there was none before"
        there = next(p for p in (self._folder, *self._folder.parents) if p.exists())
        free = shutil.disk_usage(there).free
        return StorageError(
            f"the checkpoint of step {step} cannot be written to {self._folder} for want of room: "
            f"{free / 1e6:,.1f} MB are free, the trial's checkpoints so far take "
            f"{needed / 1e6:,.1f} MB, and {last} ({error}). Make room, or lower "
            "train.save_total_limit or run.disk_budget_gb, and give the same command to go on"
        )


def drop_state(checkpoint: Path) -> None:
    """Keep the adapters alone: the trial is over, and nobody will go on with it."""
    if (checkpoint / INDEX).exists():
        _publish(checkpoint, _Index(state=None, adapters=_read_index(checkpoint).adapters))


def forget(checkpoint: Path) -> bool:
    """Drop all that a finished trial saved; say whether there was anything."""
    if not _names(_read_index(checkpoint)):
        return False
    _publish(checkpoint, _Index(state=None, adapters=[]))
    return True


def has_state(checkpoint: Path) -> bool:
    """Whether there is a state to go on from, as there is until a trial is over."""
    return _read_index(checkpoint).state is not None


def copy_checkpoint(source: Path, target: Path, *, attempts: int = 10) -> int:
    """Copy another trial's checkpoint, which may go on training meanwhile, to begin from it.

    Args:
        source: The other trial's checkpoint folder.
        target: The new trial's, which does not exist yet.
        attempts: How often to begin anew where the other one saved in the middle of the copy.

    Returns:
        The step that the copy begins at; 0 where the other one has no state to go on from.
    """
    for _ in range(attempts):
        index = _read_index(source)
        if index.state is None:
            return 0
        try:
            for name in (index.state, *index.adapters):
                shutil.copytree(source / name, target / name)
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(target, ignore_errors=True)
            continue
        _sync_tree(target)
        _publish(target, index)
        return int(index.state.rpartition("-")[2])
    return 0


@dataclass(frozen=True, kw_only=True)
class _Index:
    state: str | None
    adapters: list[str]
    """The best adapters, the best first."""


def _adapter(step: int) -> str:
    return f"adapter/step-{step:06d}"


def _state(step: int) -> str:
    return f"state/step-{step:06d}"


def _names(index: _Index) -> list[str]:
    """Everything that counts, below the checkpoint folder."""
    return [*index.adapters, *([] if index.state is None else [index.state])]


def _read_index(folder: Path) -> _Index:
    found = files.read_json(folder / INDEX)
    return _Index(state=None, adapters=[]) if found is None else _Index(**found)


def _publish(folder: Path, index: _Index) -> None:
    files.write_json(folder / INDEX, asdict(index))
    named = {folder / name for name in _names(index)}
    for kind in ("state", "adapter"):
        for found in (folder / kind).glob("*"):
            if found in named:
                continue
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:  # a script that DeepSpeed lays beside its state
                found.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Have the disk hold every file of a folder, before an index says that it is whole."""
    for path in _files_below(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _files_below(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _random_state() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
