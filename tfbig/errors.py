"""The errors that tfbig raises itself, each one sentence that a person can act on."""


class TfbigError(Exception):
    """Base class of every error that tfbig raises on purpose."""


class UserError(TfbigError, ValueError):
    """Something the caller gave cannot be used; the message says what, and what to write."""


class NotBuiltError(TfbigError, NotImplementedError):
    """The public name exists, but the part behind it is not built yet."""


class TrainingDiverged(TfbigError, ArithmeticError):
    """The loss became NaN or infinite."""


class CheckpointError(TfbigError, RuntimeError):
    """A checkpoint cannot be written, read, or belongs to another model."""


class FoldFailed(TfbigError, RuntimeError):
    """The process of a fold of a cross-validation has ended in an error; its log is kept."""


class PeerLost(TfbigError, RuntimeError):
    """Another task of the cluster has stopped answering."""
