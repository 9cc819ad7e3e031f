"""Training as a flow of its own, so that it can run on a GPU worker."""

from prefect import flow

from cfjobs.night import story
from cfjobs.night.records import Night, On, Prepared, Trained
from flows.observe import log_to_run, progress_artifact
from flows.stages import stage


@stage(name="fit", task_run_name="fit on {on} ratings")
def fit(night: Night, prepared: Prepared, on: On, stop_fraction: float) -> Trained:
    return story.fit(
        night,
        prepared,
        on=on,
        stop_fraction=stop_fraction,
        progress=progress_artifact(f"training-{on}", f"Training on {on} ratings"),
    )


@flow(name="train", flow_run_name="train {night.run_date} on {on} ratings", persist_result=False)
def train(night: Night, prepared: Prepared, on: On = "train", stop_fraction: float = 1.0) -> Trained:
    """Train the night's network on the ratings outside the holdout, or on all, and save the model.

    The record of the training stays in the night's work folder, where the nightly flow finds it.
    """
    log_to_run(night)
    return fit(night, prepared, on, stop_fraction)
