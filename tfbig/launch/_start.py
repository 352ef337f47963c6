"""The program that a task is until it becomes the user's: it tells the keeper its group first.

So the keeper knows of the task before it can do anything, also if the launcher is killed in the
moment after it has started it. Arguments: a file descriptor, and the command.
"""

import os
import signal
import sys


def main() -> None:
    descriptor, command = int(sys.argv[1]), sys.argv[2:]
    # A shell that starts the launcher in the background lets it, and so its tasks, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(descriptor, b"+%d\n" % os.getpid())
    os.close(descriptor)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(126)  # as shells say it


if __name__ == "__main__":
    main()
