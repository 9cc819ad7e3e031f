"""A night: its story, its stages, each of which joins I/O to computation,
and the records that they pass on."""
