"""Errors whose message is one clear sentence for the user: what was wrong, and what would be right."""


class PipelineError(Exception):
    """Base of every error that a user can cause; shown as it is, without a traceback."""


class SpecError(PipelineError):
    """A spec that cannot be read, has an unknown key or a value out of range; names the key."""


class DataError(PipelineError):
    """A question set that is missing, unreadable or has a bad row; names the file and the row."""


class JobError(PipelineError):
    """A job that does not exist, failed, or cannot be changed in its present state."""


class DeviceBusyError(PipelineError):
    """Another live worker already holds this device in this data folder."""


class ServeError(PipelineError):
    """The dashboard cannot be started, for instance because its port is taken."""
