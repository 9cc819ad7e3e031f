"""Where a night's shards run: one by one here, all over a Ray cluster,
or on the worker of another deployment."""

from functools import partial

from prefect import flow

from cfjobs.night import story
from cfjobs.night.records import Night, Prepared, Scored, Shard, Trained
from flows.elsewhere import run_elsewhere
from flows.observe import log_to_run, progress_artifact
from flows.on_ray import ray_cluster
from flows.stages import stage


@stage(name="score", task_run_name="score users {shard.start} to {shard.stop}")
def score_shard(night: Night, prepared: Prepared, trained: Trained, shard: Shard) -> Scored:
    log_to_run(night)  # on Ray this is a process of its own
    bar = progress_artifact(f"scoring-{shard.number}", f"Scoring users {shard.start:,} to {shard.stop:,}")
    return story.score(night, prepared, trained, shard, progress=bar)


def score_all(
    night: Night, prepared: Prepared, trained: Trained, *, deployment: str | None = None
) -> list[Scored]:
    """Every shard of the night, where its configuration or the deployment says;
    a finished one is not redone."""
    if deployment:
        records = {"night": night, "prepared": prepared, "trained": trained}
        found = partial(story.scored_already, night, prepared)
        scored: list[Scored] = run_elsewhere(deployment, "scoring", records, found)
        return scored
    if night.config.runner == "ray":
        on_ray = score_on_ray.with_options(task_runner=ray_cluster(night.config))
        return on_ray(night, prepared, trained)
    return [score_shard(night, prepared, trained, shard) for shard in story.shards(night, prepared)]


@flow(name="shards", flow_run_name="shards of {night.run_date}", persist_result=False)
def score_here(night: Night, prepared: Prepared, trained: Trained) -> list[Scored]:
    """The shards one by one in this process: as a deployment, on a worker with a GPU."""
    log_to_run(night)
    return [score_shard(night, prepared, trained, shard) for shard in story.shards(night, prepared)]


@flow(name="shards on ray", flow_run_name="shards of {night.run_date} on Ray", persist_result=False)
def score_on_ray(night: Night, prepared: Prepared, trained: Trained) -> list[Scored]:
    """The shards as tasks of a Ray cluster,
    each on the processor threads and GPUs that the configuration asks for."""
    from prefect_ray.context import remote_options

    threads = night.config.threads or 1
    submit = score_shard.submit  # type: ignore[attr-defined]  # a Prefect task
    night = night.model_copy(update={"config": night.config.model_copy(update={"threads": threads})})
    with remote_options(num_cpus=threads, num_gpus=night.config.gpus_per_shard):
        running = [submit(night, prepared, trained, shard) for shard in story.shards(night, prepared)]
    return [task.result() for task in running]
