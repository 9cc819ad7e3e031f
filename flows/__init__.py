"""What Prefect runs: thin flows over the stages of `cfjobs.night`."""
