"""Data to start from: generated ratings, and downloads as input tables."""
