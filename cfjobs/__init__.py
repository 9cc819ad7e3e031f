"""A nightly batch recommendation job: rating Parquet in, top-N tables out."""

__version__ = "0.1.0"
