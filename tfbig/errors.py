"""The errors that tfbig raises; each message says what is wrong and what to do."""


class TfbigError(Exception):
    """Base class of all errors of tfbig."""


class UserError(TfbigError, ValueError):
    """An argument or input of the user is invalid; the message says what to pass instead."""


class NotBuiltError(TfbigError, NotImplementedError):
    """The public name exists, but it is not implemented yet."""


class OutOfMemory(TfbigError, MemoryError):
    """This process has run out of memory; the message says what needs less."""


class TrainingDiverged(TfbigError, ArithmeticError):
    """The loss became NaN or infinite."""


class CheckpointError(TfbigError, RuntimeError):
    """A checkpoint cannot be written or read, or belongs to another model."""


class FoldFailed(TfbigError, RuntimeError):
    """The process of a cross-validation fold failed; its log file is kept."""


class PeerLost(TfbigError, RuntimeError):
    """Another task of the cluster has stopped answering."""
