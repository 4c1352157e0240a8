"""Runs a command in a pseudo terminal of 120 x 36 and presses Ctrl-C each time that a file has come to so many lines.

    in_terminal.py FILE LINES[,LINES…] COMMAND…

Prints an object: the exit code, the text that was shown, how often Ctrl-C was pressed, whether the dashboard's screen was
entered and left, and whether the terminal's modes are those of before.
"""
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

LIMIT = 120  # seconds


def lines(path):
    try:
        with open(path, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return -1


def main():
    path, due, command = sys.argv[1], [int(n) for n in sys.argv[2].split(",")], sys.argv[3:]
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    before = termios.tcgetattr(terminal)
    child = os.fork()
    if child == 0:
        os.close(master)
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        [os.dup2(terminal, stream) for stream in (0, 1, 2)]
        os.environ.update(TERM="xterm-256color", NO_COLOR="1")
        os.execvp(command[0], command)
    shown, pressed, started, status = b"", 0, time.monotonic(), None
    while status is None and time.monotonic() - started < LIMIT:
        if select.select([master], [], [], 0.01)[0]:
            try:
                shown += os.read(master, 1 << 16)
            except OSError:
                pass
        if pressed < len(due) and lines(path) >= due[pressed]:
            # Where a step takes no time, the dashboard has to have its turn first.
            time.sleep(0.5)
            os.write(master, b"\x03")
            pressed += 1
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    while select.select([master], [], [], 0.1)[0]:
        shown += os.read(master, 1 << 16)
    print(json.dumps({
        "code": None if status is None else os.waitstatus_to_exitcode(status),
        "text": shown.decode(errors="replace"),
        "pressed": pressed,
        "entered": shown.count(b"\x1b[?1049h"),
        "left": shown.count(b"\x1b[?1049l"),
        "restored": termios.tcgetattr(terminal) == before,
    }))


main()
