"""What a sweep is about to do, in figures, for `--check` and for the head of a run."""

from __future__ import annotations

from raytune_glm.config import SweepConfig
from raytune_glm.config.check import Plan


def describe_plan(sweep: SweepConfig, plan: Plan) -> str:
    """The derived arithmetic of a sweep, some lines of text."""
    train, run, search = sweep.train, sweep.run, sweep.search
    shape = plan.model.shape
    most = plan.trainable[1]
    lines = {
        "sweep": f"{run.name}, results in {run.folder}",
        "model": f"{sweep.model.path} ({plan.model.family.name}), "
        f"{shape.total_parameters:,} parameters, {sweep.model.precision}"
        + (f", {sweep.model.quantization}" if sweep.model.quantization else ""),
        "data": ", ".join(f"{split} {count:,} rows" for split, count in plan.rows.items()),
        "trials": f"{search.num_trials} by {search.sampler.name} and {search.scheduler.name}, "
        f"for {search.metric} on dev",
        "trainable": f"{_span(plan.trainable)} parameters, "
        f"at most {100 * most / shape.total_parameters:.4g} % of the base's",
        "step": f"{train.batch_size} rows = {train.micro_batch_size} a pass x "
        f"{sweep.gradient_accumulation_steps} passes x {run.num_workers} worker(s), "
        f"at most {_span(plan.tokens_per_step)} tokens",
        "steps": f"{_span(plan.steps)} a trial",
        "execution": _execution(sweep, plan),
        "resources": "each pack host all CPUs of its node, or a GPU and its share of them"
        if plan.is_packed
        else f"{run.num_workers} worker(s) a trial, each {run.cpus_per_worker:g} CPU"
        + (" and a GPU where there is one" if run.gpus_per_worker is None else "")
        + (f" and {run.gpus_per_worker:g} GPU" if run.gpus_per_worker else ""),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _execution(sweep: SweepConfig, plan: Plan) -> str:
    if plan.is_packed:
        return "packed, trials share one base a device"
    why = f", since {plan.packing_obstacle} cannot be packed" if plan.packing_obstacle else ""
    return f"solo, each trial with workers of its own{why}"


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
