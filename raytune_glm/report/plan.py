"""What a sweep or a run is about to do, in figures, for `--check` and for the head of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raytune_glm.config import SweepConfig
from raytune_glm.config.check import Plan
from raytune_glm.data import SPLITS
from raytune_glm.trials.records import ResultsFolder

MAX_OTHERS = 4
"""Settings named of those that earlier trials had otherwise."""

Line = tuple[str, str]
"""What a line is about, and what it says."""


def describe_plan(sweep: SweepConfig, plan: Plan, *, overrides: Sequence[str] = ()) -> str:
    """The derived arithmetic of a sweep, some lines of text.

    Args:
        sweep: The sweep.
        plan: Its figures.
        overrides: What the command line changed of the sweep file, `key.path=value` each.

    Raises:
        ConfigError: An earlier sweep that it is to learn from is not there, or does not fit.
    """
    search = sweep.search
    trials = (
        f"{search.num_trials} by {search.sampler.name} and {search.scheduler.name}, "
        f"for {search.metric} on dev"
    )
    if search.confirm is not None:
        trials += f"; then the best {search.confirm.top} under {search.confirm.seeds} seeds each"
    head = [
        ("sweep", _place(sweep)),
        *_base(sweep, plan),
        ("method", _method(sweep)),
        ("trials", trials),
        ("searched", _searched(sweep)),
        *_history(sweep),
        ("execution", _execution(sweep, plan)),
        *_arithmetic(sweep, plan, of=" a trial"),
        *_notes(sweep, plan, overrides),
    ]
    return _text(head)


def describe_run(run: SweepConfig, plan: Plan, *, overrides: Sequence[str] = ()) -> str:
    """As `describe_plan`, of a run that is trained alone."""
    keeps = (
        f"the best step by {run.search.metric} on dev" if "dev" in plan.rows else "the last step"
    )
    method = f"{run.method.name}, keeps {keeps}"
    return _text(
        [
            ("run", _place(run)),
            *_base(run, plan),
            ("method", method),
            *_arithmetic(run, plan, of=""),
            *_notes(run, plan, overrides),
        ]
    )


def _method(sweep: SweepConfig) -> str:
    """The method as written; what is searched of it stands in the line of the space."""
    if "method" in sweep.search.space:
        return "one of " + ", ".join(_variants(sweep.search.space["method"]))
    fixed = {
        name: value
        for name, value in sweep.method.model_dump(mode="json", exclude_defaults=True).items()
        if name != "name" and f"method.{name}" not in sweep.search.space
    }
    told = ", ".join(f"{name}={value}" for name, value in fixed.items())
    return f"{sweep.method.name}{': ' if told else ''}{told}"


def _variants(dimension: Any) -> list[str]:
    return list(getattr(dimension, "one_of", {}))


def _searched(sweep: SweepConfig) -> str:
    """The space, a dimension after another."""
    found = []
    for path, dimension in sweep.search.space.items():
        tree = dimension.model_dump(mode="json", exclude_defaults=True)
        told = ", ".join(_variants(dimension)) or " ".join(f"{k} {v}" for k, v in tree.items())
        found.append(f"{path} of {told}")
    return "; ".join(found) or "nothing"


def _history(sweep: SweepConfig) -> Iterator[Line]:
    if not sweep.search.warm_start:
        return
    from raytune_glm.trials.history import OTHER, earlier_trials

    folders = ", ".join(_short(str(folder)) for folder in sweep.search.warm_start)
    trials = earlier_trials(sweep)
    count = len(trials)
    numbers = ""
    if not ResultsFolder(sweep.run.folder).has_trials():  # where they are told to a new study
        numbers = f" as numbers 0 to {count - 1}; this sweep's own begin at {count}"
    yield "history", f"{count} trials of {folders} fit, and are learnt from{numbers}"
    others = sorted({path for trial in trials for path in trial.user_attrs[OTHER]})
    if others:
        more = len(others) - MAX_OTHERS
        told = ", ".join(others[:MAX_OTHERS]) + (f" and {more} more" if more > 0 else "")
        yield (
            "note",
            f"earlier trials had other values of {told}, which this sweep does not search: their "
            "scores may not compare",
        )


def _place(sweep: SweepConfig) -> str:
    return f"{sweep.run.name}, results in {sweep.run.folder}"


def _base(sweep: SweepConfig, plan: Plan) -> Iterator[Line]:
    total = plan.model.shape.total_parameters
    quantization = f", {sweep.model.quantization}" if sweep.model.quantization else ""
    yield (
        "model",
        f"{sweep.model.path} ({plan.model.family.name}), {total:,} parameters, "
        f"{sweep.model.precision}{quantization}",
    )
    for split in SPLITS:
        places = getattr(sweep.data, split)
        count = f"{plan.rows[split]:,} rows" if split in plan.rows else "uncounted rows"
        if places is not None:
            yield "data", f"{split} {count} of {', '.join(map(_short, places))}"
        elif split == "dev" and sweep.data.dev_rows:
            yield "data", f"dev {count} drawn from data.train"


def _short(place: str) -> str:
    """A place as seen from the current folder, where it lies below it."""
    path, here = Path(place), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else place


def _arithmetic(sweep: SweepConfig, plan: Plan, *, of: str) -> Iterator[Line]:
    train, run = sweep.train, sweep.run
    total, most = plan.model.shape.total_parameters, plan.trainable[1]
    share = f"at most {100 * most / total:.4g} % of the base's"
    yield "trainable", f"{_span(plan.trainable)} parameters, {share}"
    yield (
        "step",
        f"{train.batch_size} rows = {train.micro_batch_size} a pass x "
        f"{sweep.gradient_accumulation_steps} passes x {run.num_workers} worker(s), "
        f"at most {_span(plan.tokens_per_step)} tokens",
    )
    yield "steps", f"{_span(plan.steps)}{of}"
    if plan.execution != "solo":
        yield "resources", "each pack host all CPUs of its node, or a GPU and its share of them"
        if plan.off_hosts is None:
            return
    whose = "" if plan.off_hosts is None else f"trials of {plan.off_hosts}: "
    gpus = f" and {run.gpus_per_worker:g} GPU" if run.gpus_per_worker else ""
    if run.gpus_per_worker is None:
        gpus = " and a GPU where there is one"
    workers = f"{run.num_workers} worker(s){of}, each {run.cpus_per_worker:g} CPU{gpus}"
    yield "resources", f"{whose}{workers}"


def _notes(sweep: SweepConfig, plan: Plan, overrides: Sequence[str]) -> Iterator[Line]:
    yield from (("note", remark) for remark in plan.remarks)
    given = {override.partition("=")[0] for override in overrides}
    kept = [
        f"data.{split}"
        for split in SPLITS[1:]
        if getattr(sweep.data, split) is not None and f"data.{split}" not in given
    ]
    if "data.train" in given and kept:
        yield (
            "note",
            f"data.train is given on the command line, and {' and '.join(kept)} still as in the "
            "file: give rows of the same task, or null",
        )


def _text(lines: Sequence[Line]) -> str:
    return "\n".join(f"{name:<10} {text}" for name, text in lines)


def _execution(sweep: SweepConfig, plan: Plan) -> str:
    why = "" if plan.obstacle is None else f", since {plan.obstacle} cannot share one"
    needs = "" if plan.obstacle is None else f", since {plan.obstacle} needs them"
    if sweep.run.execution == "solo":
        needs = ", since run.execution=solo asks for it"
    size = "" if sweep.run.pack_size is None else f", at most {sweep.run.pack_size} trials a host"
    told = {
        "packed": f"packed, trials share one base a device, and its passes{size}",
        "mixed": f"mixed, trials share one base a device, and some share its passes{size}{why}",
        "hosted": f"hosted, a base that stays loaded, a pass for each trial{size}{why}",
        "solo": f"solo, each trial with workers of its own{needs}",
    }[plan.execution]
    if plan.off_hosts is None:
        return told
    return f"{told}; for trials of {plan.off_hosts}, which need workers of their own, hosts close"


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
