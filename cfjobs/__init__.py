"""A nightly batch recommendation job: rating Parquet in, top-N tables out."""

from cfjobs import resources

__version__ = "0.1.0"

resources.size_thread_pools()  # here, for native libraries read the environment once, as they are loaded
