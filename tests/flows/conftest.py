"""A Ray cluster for the flows."""

import pytest


@pytest.fixture
def ray_of_two(prefect_server: str, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A Ray cluster of two worker processes on this machine, which counts a GPU that is not there;
    its address."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.init(
        num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
