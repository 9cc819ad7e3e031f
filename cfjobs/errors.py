"""What can go wrong, by who has to act: the user, the gate's reader, or nobody but a retry.

The command line turns each into one line and an exit code; the flows retry only `StorageFault`.
"""


class CfjobsError(Exception):
    """An end of the run that has an explanation; shown as one line, without a traceback."""

    exit_code = 1


class InputError(CfjobsError, ValueError):
    """Wrong input or configuration: says what, what was got, and the remedy. Retrying does not help."""

    exit_code = 2


class Stale(InputError):
    """The night comes too late: a newer date is published already."""


class GateRefused(CfjobsError):
    """The night was computed but is not good enough to publish; the published tables are as they were."""

    exit_code = 3


class TooOld(CfjobsError):
    """The newest published night is older than it may be."""

    exit_code = 4


class TrainingDiverged(InputError):
    """The loss became NaN or infinite: a setting has to be changed, retrying does not help."""


class StorageFault(CfjobsError, OSError):
    """The object store did not answer or refused for a passing reason; a retry may help."""


class DamagedFile(StorageFault):
    """A file that a stage wrote is not whole: what it holds has to be made again."""
