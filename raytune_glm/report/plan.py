"""What a sweep or a run is about to do, in figures, for `--check` and for the head of a run."""

from __future__ import annotations

from typing import Any

from raytune_glm.config import SweepConfig
from raytune_glm.config.check import Plan


def describe_plan(sweep: SweepConfig, plan: Plan) -> str:
    """The derived arithmetic of a sweep, some lines of text."""
    search = sweep.search
    trials = (
        f"{search.num_trials} by {search.sampler.name} and {search.scheduler.name}, "
        f"for {search.metric} on dev"
    )
    head = {
        "sweep": _place(sweep),
        **_base(sweep, plan),
        "method": _method(sweep),
        "trials": trials,
        "searched": _searched(sweep),
        "execution": _execution(sweep, plan),
    }
    return _text(head, sweep, plan, of=" a trial")


def describe_run(run: SweepConfig, plan: Plan) -> str:
    """The derived arithmetic of a run that is trained alone, some lines of text."""
    keeps = (
        f"the best step by {run.search.metric} on dev" if "dev" in plan.rows else "the last step"
    )
    method = f"{run.method.name}, keeps {keeps}"
    return _text({"run": _place(run), **_base(run, plan), "method": method}, run, plan, of="")


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


def _place(sweep: SweepConfig) -> str:
    return f"{sweep.run.name}, results in {sweep.run.folder}"


def _base(sweep: SweepConfig, plan: Plan) -> dict[str, str]:
    total = plan.model.shape.total_parameters
    quantization = f", {sweep.model.quantization}" if sweep.model.quantization else ""
    return {
        "model": f"{sweep.model.path} ({plan.model.family.name}), {total:,} parameters, "
        f"{sweep.model.precision}{quantization}",
        "data": ", ".join(f"{split} {count:,} rows" for split, count in plan.rows.items()),
    }


def _text(head: dict[str, str], sweep: SweepConfig, plan: Plan, *, of: str) -> str:
    train, run = sweep.train, sweep.run
    total, most = plan.model.shape.total_parameters, plan.trainable[1]
    lines = head | {
        "trainable": f"{_span(plan.trainable)} parameters, "
        f"at most {100 * most / total:.4g} % of the base's",
        "step": f"{train.batch_size} rows = {train.micro_batch_size} a pass x "
        f"{sweep.gradient_accumulation_steps} passes x {run.num_workers} worker(s), "
        f"at most {_span(plan.tokens_per_step)} tokens",
        "steps": f"{_span(plan.steps)}{of}",
        "resources": "each pack host all CPUs of its node, or a GPU and its share of them"
        if plan.is_packed
        else f"{run.num_workers} worker(s){of}, each {run.cpus_per_worker:g} CPU"
        + (" and a GPU where there is one" if run.gpus_per_worker is None else "")
        + (f" and {run.gpus_per_worker:g} GPU" if run.gpus_per_worker else ""),
    }
    said = [*lines.items(), *(("note", remark) for remark in plan.remarks)]
    return "\n".join(f"{name:<10} {text}" for name, text in said)


def _execution(sweep: SweepConfig, plan: Plan) -> str:
    if plan.is_packed:
        return "packed, trials share one base a device"
    why = f", since {plan.packing_obstacle} cannot be packed" if plan.packing_obstacle else ""
    return f"solo, each trial with workers of its own{why}"


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
