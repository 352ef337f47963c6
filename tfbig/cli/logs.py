"""RunLog: the log of a command, as plain lines on stderr and in a file with timestamps."""

import logging
import logging.handlers
import os
import sys
import tempfile
import traceback

from tfbig.errors import TfbigError

_LONGEST_MESSAGE = 400  # characters of an error of another library


class RunLog:
    """The log of one command.

    Records of tfbig and of absl (Keras, TensorFlow Datasets) go to stderr as plain lines and to
    `<model_dir>/logs/<verb>.log`. The file is created once model_dir exists, so a command that is
    refused creates no files.

    Args:
        verb: the name of the file.
        model_dir: the folder; None for no file.
    """

    def __init__(self, verb: str, model_dir: str | None):
        self._verb, self._model_dir = verb, model_dir
        self._path = os.path.join(model_dir, "logs", f"{verb}.log") if model_dir else None
        console = logging.StreamHandler()
        console.setFormatter(_PlainFormatter())
        self._handlers: list[logging.Handler] = [console]
        if self._path:
            self._handlers.append(_DeferredFileHandler(self._path, model_dir))
        for name in ("tfbig", "absl"):
            logger = logging.getLogger(name)
            logger.handlers[:] = self._handlers
            logger.propagate = False
        logging.getLogger("tfbig").setLevel(logging.INFO)

    def report(self, error: Exception) -> None:
        """Prints an error as one line on stderr, and writes the traceback to a file.

        A user error needs no traceback, so no file is created for it.
        """
        expected = isinstance(error, TfbigError)
        text = _one_line(error) if expected else f"{type(error).__name__}: {_one_line(error)}"
        path = self._write_traceback(error, expected)
        where = f" (traceback: {path})" if path else ""
        print(f"error: {text}{where}", file=sys.stderr)

    def close(self) -> None:
        """Flushes and closes the log file."""
        for handler in self._handlers:
            handler.close()

    def _write_traceback(self, error: Exception, expected: bool) -> str | None:
        lines = "".join(traceback.format_exception(error))
        if self._path and (os.path.isdir(self._model_dir) or not expected):
            try:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                self.close()  # writes the lines before the traceback
                with open(self._path, "a") as file:
                    file.write(lines)
                return self._path
            except OSError:  # a full disk or no permission, which may be the reported error
                pass
        if expected:
            return None
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix=f"tfbig-{self._verb}-", suffix=".log", delete=False
            ) as file:
                file.write(lines)
            return file.name
        except OSError:
            return None


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class _DeferredFileHandler(logging.handlers.MemoryHandler):
    """Buffers records until a folder exists, and then writes them to a file in it."""

    def __init__(self, path: str, folder: str):
        super().__init__(capacity=10_000, flushOnClose=False)
        self._path, self._folder = path, folder

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        return os.path.isdir(self._folder)

    def flush(self) -> None:
        if not os.path.isdir(self._folder):  # the interpreter flushes handlers at exit
            return
        if self.target is None and self.buffer:
            try:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                self.setTarget(_FileHandler(self._path))
            except OSError as error:
                self._give_up(error)
        super().flush()

    def close(self) -> None:
        self.flush()
        super().close()

    def _give_up(self, error: OSError) -> None:
        self.buffer.clear()
        self.setTarget(logging.NullHandler())
        print(f"warning: no log file {self._path}: {error.strerror}", file=sys.stderr)


class _FileHandler(logging.FileHandler):
    def __init__(self, path: str):
        super().__init__(path)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        # A full disk must not cause a traceback for every line.
        if not self._failed:
            self._failed = True
            print(f"warning: {self.baseFilename} cannot be written", file=sys.stderr)


def _one_line(error: Exception) -> str:
    # The `message` of TensorFlow errors lacks the trace of operations.
    text = " ".join(str(getattr(error, "message", None) or error).split()) or "no message"
    if isinstance(error, TfbigError) or len(text) <= _LONGEST_MESSAGE:
        return text
    return text[: _LONGEST_MESSAGE - 1] + "…"
