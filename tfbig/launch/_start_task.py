"""The program that registers a task with the watchdog and then executes the user's command.

The watchdog thus knows the task even if the launcher is killed right after starting it.
Arguments: the file descriptor of the watchdog's input, and the command.
"""

import os
import signal
import sys


def main() -> None:
    """Writes this process's group to the watchdog and replaces the process by the command."""
    descriptor, command = int(sys.argv[1]), sys.argv[2:]
    # A shell starts background jobs with SIGINT ignored; tasks would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(descriptor, b"+%d\n" % os.getpid())
    os.close(descriptor)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(126)  # the exit code of shells for this


if __name__ == "__main__":
    main()
