"""Data to start from: generated ratings, and the downloads of GroupLens."""
