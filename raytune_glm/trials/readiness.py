"""Before any training: Ray is up with room, hosts have what DeepSpeed compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytune_glm.config import SweepConfig
from raytune_glm.config.check import Plan
from raytune_glm.log import printing_to
from raytune_glm.trials import cluster
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.leftovers import written_down
from raytune_glm.trials.ops import look_for_libraries, prepare_hosts
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.sight import require_sight

if TYPE_CHECKING:
    from rich.console import Console


def make_ready(
    sweep: SweepConfig, plan: Plan, results: ResultsFolder, console: Console
) -> Placement:
    """Connect to the cluster and ready its hosts; the caller shuts Ray down.

    Args:
        sweep: The sweep, or a run that is trained alone.
        plan: Its figures.
        results: Its folder; Ray's own words go to `ray.log` in it.
        console: Where to tell of it.

    Returns:
        What a worker takes and how many trials fit at a time.

    Raises:
        ResourceError: There is no cluster, no room in it, or a host that cannot compile or does
            not see what trials read and write.
    """
    ray_log = results.root / "ray.log"
    if plan.compiled_ops and cluster.is_this_host_alone(sweep.run.ray_address):
        with printing_to(ray_log):
            look_for_libraries(plan.compiled_ops)
    with written_down(results):
        cluster.connect(sweep.run.ray_address, log_file=ray_log)
    placement = cluster.place(
        sweep,
        precisions=plan.precisions,
        execution=plan.execution,
        total_parameters=plan.model.shape.total_parameters,
        leave_devices=plan.off_hosts is not None,
    )
    console.print(f"cluster    {placement.describe()}", highlight=False)
    if sweep.search.scheduler.wants_all_at_once:
        _tell_of_missing_room(sweep, placement, console)
    require_sight(sweep, results.root)
    if plan.compiled_ops:
        names = ", ".join(sorted(plan.compiled_ops))
        console.print(f"deepspeed  compiles {names} where a host has not yet (some minutes)")
        with printing_to(ray_log):
            prepare_hosts(plan.compiled_ops, per_worker=placement.per_worker)
    return placement


def _tell_of_missing_room(sweep: SweepConfig, placement: Placement, console: Console) -> None:
    population, beside = sweep.search.num_trials, placement.max_concurrent
    if beside < population:
        console.print(
            f"           {sweep.search.scheduler.name} has room for {beside} of its population of "
            f"{population} at a time: trials are compared, and copied, among those alone",
            highlight=False,
        )
