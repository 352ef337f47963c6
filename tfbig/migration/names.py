"""Names of TensorFlow, and what becomes of them."""

from typing import NamedTuple


class Rename(NamedTuple):
    """A new name, and what the call of a function needs for it.

    Attributes:
        used: number of parts of the old name that the new one replaces.
        new: the new name.
        in_v1: whether it is a name in tf.compat.v1, under any import alias.
        in_tf: whether it is a name in tf, under any import alias.
        positional: names of the positional arguments; they are written out in the call, since the
            new function has them in another order.
        renamed: pairs of an argument's old name and its new one.
        accepts: old names of the arguments that mean the same in the new function; None: all.
        needs: names of arguments that the new function must have.
        first: the first argument as the new function needs it: "0.5 * {}".
        otherwise: advice for calls that do not fit.
    """

    used: int
    new: str
    in_v1: bool = False
    in_tf: bool = False
    positional: tuple[str, ...] = ()
    accepts: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    first: str = ""
    otherwise: str = ""

    @property
    def any_call(self) -> bool:
        """Whether a use of the old name becomes one of the new, whatever its arguments are."""
        return not self.positional and self.accepts is None

    def under(self, tensorflow: str, is_v1: bool = False) -> str:
        """The new name, where TensorFlow has a given name.

        Example: `Rename(1, "get_variable", in_v1=True).under("tf") == "tf.compat.v1.get_variable"`.

        Args:
            tensorflow: the name of the module.
            is_v1: whether that is tf.compat.v1 itself.
        """
        if self.in_v1 and not is_v1:
            return f"{tensorflow}.compat.v1.{self.new}"
        return f"{tensorflow}.{self.new}" if self.in_v1 or self.in_tf else self.new


class Name(NamedTuple):
    """A name of TensorFlow: the parts after `tf` or `tf.compat.v1`, and which of these it is in.

    Example: `Name.of("tensorflow.compat.v1.train.AdamOptimizer").parts[0] == "train"`.

    Attributes:
        ours: whether it is already the name in tfbig.
    """

    parts: tuple[str, ...]
    v1: bool
    ours: bool = False

    @classmethod
    def of(cls, full: str) -> "Name | None":
        """Parses a full name; None: it is not a name of TensorFlow."""
        root, *parts = full.split(".")
        if root == "tfbig":
            if parts[:2] == ["compat", "v1"]:
                return cls(tuple(parts[2:]), True, True)
            return cls(("estimator", "RunConfig"), True, True) if parts == ["RunConfig"] else None
        if root != "tensorflow":
            return None
        if parts[:2] == ["compat", "v1"]:
            return cls(tuple(parts[2:]), True)
        if parts[:2] == ["compat", "v2"]:
            return cls(tuple(parts[2:]), False)
        return cls(tuple(parts), False)
