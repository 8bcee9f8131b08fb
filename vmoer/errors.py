"""Errors whose message is one clear sentence for the user: what was wrong, and what would be right."""


class VmoerError(Exception):
    """Base of every error that a user can cause; its message is shown as it is, without a traceback."""


class UnsupportedModelError(VmoerError):
    """The model has no router this library knows how to wrap, or is in a state it cannot be wrapped in."""


class UnknownNameError(VmoerError):
    """A method, family, estimator or model name that is not registered."""


class LayerSelectionError(VmoerError):
    """A layer selection that does not fit the model."""


class CheckpointError(VmoerError):
    """A router checkpoint that is damaged or belongs to another model, method or layer set."""


class ModelSourceError(VmoerError):
    """A model source that cannot be found, fetched or read safely."""
