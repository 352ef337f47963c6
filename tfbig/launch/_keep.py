"""The program that ends the tasks when the launcher has died without doing so itself.

It runs by itself, outside of the package, so that it starts at once. On standard input it gets
"+4711" for a process group that is to be ended, and "-4711" for one that has ended; the end of
the input is the end of the launcher, however it came about: SIGKILL leaves it no last word.

Linux has prctl(PR_SET_PDEATHSIG) for this, but what the kernel then kills is the task alone: it
does not reach the processes that the task has started, and gives the task no time to save.
"""

import os
import signal
import sys
import time

_SECONDS_TO_SAVE = 15.0


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends all processes at once comes here too
    groups = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    deadline = time.monotonic() + _SECONDS_TO_SAVE
    send(groups, signal.SIGTERM)
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        send(groups, 0)
    send(groups, signal.SIGKILL)


def send(groups: set, number: int) -> None:
    """Sends a signal to all groups, and forgets those that are no more."""
    for group in list(groups):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            groups.discard(group)


if __name__ == "__main__":
    main()
