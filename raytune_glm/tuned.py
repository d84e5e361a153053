"""What a user names on the command line, found on disk: a base, with what was trained on it if any.

One may name a base or a merged folder (or its hub id), the folder that a method saved, a trial's or
a run's folder, or `results/<sweep>`, which stands for the sweep's winner. All that can be told
without torch is told here, within a second. Read next: `answering`, `merging`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import RunConfig, load_sweep, run_of
from raytune_glm.config.faults import validate
from raytune_glm.config.tree import ModelSettings
from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.methods import PEFT_CONFIG, Method, PTuningV2, holds_trained, saved_method
from raytune_glm.models import Checkpoint, Precision, stored_precision
from raytune_glm.models import folder as folders

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SECTION = "model."
_RUN_FILES = ("best.yaml", "run.yaml")
"""The file of settings that lies beside a folder `best/`: a sweep's, or a single run's."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A base model, and what was trained on it where there is any."""

    base: ModelSettings
    checkpoint: Checkpoint
    """What is known of the base without loading it."""
    precision: Precision | None
    """As it was trained, or as the user wants it; None where neither is known."""
    method: Method | None = None
    folder: Path | None = None
    """What was trained, as the method saved it; there where `method` is."""
    run: RunConfig | None = None
    """The settings that it was trained with, where they are on disk beside it."""
    notes: tuple[str, ...] = ()
    """What the user should know of the pair."""

    def load(self, device: str) -> PreTrainedModel:
        """Load the base onto a device and put what was trained on it, in evaluation mode.

        Where no precision is known it is the files' own on a GPU, and fp32 on a CPU.

        Raises:
            ModelError: It cannot be loaded.
        """
        precision = self.precision
        if precision is None:
            precision = "fp32" if device == "cpu" else stored_precision(self.base.path)
        model = self.base.model_copy(update={"precision": precision}).load(device)
        if self.method is not None:
            assert self.folder is not None, "what a method trained is in a folder"
            model = self.method.load(model, self.folder)
        model.eval()
        return model

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the base's tokenizer."""
        return self.base.load_tokenizer()

    @property
    def max_length(self) -> int:
        """Longest text in tokens, question and answer together."""
        taken = 0 if self.method is None else self.method.added_tokens(self.checkpoint.family)
        return self.checkpoint.shape.max_length - taken

    def describe(self) -> str:
        """Say in a line what it is."""
        if self.method is None:
            return f"{self.base.path} ({self.checkpoint.family.name})"
        return (
            f"{self.folder} ({self.method.name}) on {self.base.path} "
            f"({self.checkpoint.family.name})"
        )


def find(named: str, overrides: Iterable[str] = ()) -> Tuned:
    """Find what a user named.

    Args:
        named: A folder or a hub id; see the module.
        overrides: `model.key=value` each: settings of the base that differ from what is known of
            it, such as `model.path` where it has moved.

    Raises:
        ConfigError: An override is wrong.
        ModelError: There is no such thing, it is not whole, or it does not fit its base.
    """
    changes = _parse(overrides)
    folder = _fetched(named)
    found = None if folder is None else _trained_in(folder, base=changes.get("path"))
    if found is None:
        if "path" in changes:
            raise ModelError(
                f"`model.path` is the base of an adapter, but {named} is a whole model or none at "
                f"all, and got model.path={changes['path']}: name one of the two."
            )
        settings = validate(ModelSettings, {**changes, "path": named}, source=f"the base {named}")
        return Tuned(
            base=settings,
            checkpoint=settings.inspect(),
            precision=settings.precision if "precision" in changes else None,
        )
    trained, settings_file = found
    return _tuned(trained, settings_file, changes)


def _parse(overrides: Iterable[str]) -> dict[str, Any]:
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        name = key.removeprefix(_SECTION)
        if not equals or name == key or name not in ModelSettings.model_fields:
            known = ", ".join(f"{_SECTION}{field}" for field in ModelSettings.model_fields)
            raise ConfigError(
                f"a setting must be key=value with one of {known}, but got {override!r}"
            )
        values[name] = None if text in ("null", "") else text
    return values


def _fetched(named: str) -> Path | None:
    """Give the local folder of what was named; None for a base at the hub."""
    path = Path(named).expanduser()
    if path.is_dir():
        return path
    folder = folders.local_folder(named, with_weights=False)
    if (folder / PEFT_CONFIG).is_file():
        return folders.local_folder(named)
    return None


def _trained_in(folder: Path, *, base: str | None) -> tuple[Path, Path | None] | None:
    """Find what was trained in a folder, and the file of the settings that it was trained with.

    Returns:
        None where the folder is a base's.
    """
    if holds_trained(folder) or (base is not None and _is_published_prefix(folder)):
        return folder, _settings_beside(folder)
    best = folder / "best"
    if holds_trained(best):
        return best, _settings_beside(best)
    if (folder / "checkpoint").is_dir():
        adapter = best_adapter(folder / "checkpoint", step=_best_step(folder))
        if adapter is None:
            raise ModelError(f"{folder} must hold what was trained, but has no evaluation yet.")
        return adapter, _settings_beside(adapter)
    if (folder / "sweep.yaml").is_file():
        raise ModelError(
            f"the sweep in {folder} has no winner yet: let it end, or name the folder of one of "
            f"its trials, {folder / 'trials'}/<id>."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} must be a model (with config.json), an adapter (with {PEFT_CONFIG} or "
            "method.json), a trial's folder, or the results of a sweep, but is none of them."
        )
    return None


def _is_published_prefix(folder: Path) -> bool:
    """Say whether a folder is a checkpoint of ChatGLM's published P-Tuning scripts."""
    return bool(folders.read_optional_json(folder, "config.json").get("pre_seq_len"))


def _settings_beside(trained: Path) -> Path | None:
    """Find the settings of what was trained: beside `best/`, or three above a trial's adapter."""
    trained = trained.resolve()
    places = [trained.parent / name for name in _RUN_FILES] if trained.name == "best" else []
    if trained.parent.name == "adapter" and trained.parents[1].name == "checkpoint":
        places += [trained.parents[2] / name for name in ("config.yaml", *_RUN_FILES)]
    return next((place for place in places if place.is_file()), None)


def _best_step(trial: Path) -> int | None:
    """Look up the step of the evaluation that the sweep counts for a trial."""
    results = trial.resolve().parents[1]
    for row in reversed(files.read_lines(results / "trials.jsonl")):
        if row["id"] == trial.resolve().name:
            step: int | None = row["best_step"]
            return step
    return None


def _tuned(trained: Path, settings_file: Path | None, changes: Mapping[str, Any]) -> Tuned:
    method = _method_of(trained)
    run = None if settings_file is None else run_of(load_sweep(settings_file))
    recorded = _recorded_base(trained, run)
    known = {} if run is None else run.model.model_dump(mode="json")
    path = changes.get("path") or recorded
    if path is None:
        raise ModelError(
            f"{trained} does not say on which base it was trained: add model.path=<folder>."
        )
    settings = validate(
        ModelSettings, {**known, "path": path, **changes}, source=f"the base of {trained}"
    )
    is_known = run is not None or "precision" in changes
    return Tuned(
        base=settings,
        checkpoint=_fitting_base(settings, method, trained, recorded),
        precision=settings.precision if is_known else None,
        method=method,
        folder=trained,
        run=run,
        notes=_notes(recorded, settings.path, trained),
    )


def _method_of(trained: Path) -> Method:
    if holds_trained(trained):
        return saved_method(trained)
    config = folders.read_json(trained, "config.json")
    return PTuningV2(
        num_virtual_tokens=config["pre_seq_len"],
        projection=bool(config.get("prefix_projection")),
    )


def _recorded_base(trained: Path, run: RunConfig | None) -> str | None:
    if run is not None:
        return run.model.path
    name = folders.read_optional_json(trained, PEFT_CONFIG).get("base_model_name_or_path")
    return str(name) if name else None


def _fitting_base(
    settings: ModelSettings, method: Method, trained: Path, recorded: str | None
) -> Checkpoint:
    """Look at the base, and refuse one that what was trained does not fit."""
    try:
        checkpoint = settings.inspect()
    except ModelError as error:
        raise ModelError(
            f"{error}\nIt is the base of {trained}: give its place as model.path=<folder>."
            if settings.path == recorded
            else str(error)
        ) from error
    reason = method.misfit(trained, checkpoint.shape, checkpoint.family)
    reason = reason or _other_family(checkpoint.family.name, recorded)
    if reason is not None:
        told = recorded or "a base that its files do not name"
        raise ModelError(
            f"{trained} was trained on {told} and does not fit the base {settings.path} "
            f"({checkpoint.family.name}): {reason}. Give its own base as model.path=<folder>."
        )
    return checkpoint


def _other_family(family: str, recorded: str | None) -> str | None:
    """Tell ChatGLM2 from ChatGLM3, whose sizes are the same, where the base as recorded is here."""
    if recorded is None or not (Path(recorded) / "config.json").is_file():
        return None
    try:
        trained_on = ModelSettings(path=recorded).inspect().family.name
    except ModelError:
        return None  # it does not tell, or is whole no more
    return None if trained_on == family else f"that is {trained_on}, and this is {family}"


def _notes(recorded: str | None, used: str, trained: Path) -> tuple[str, ...]:
    if recorded is None or Path(recorded).name == Path(used).name:
        return ()
    return (f"{trained} was trained on {recorded}; here it is put on {used}",)
