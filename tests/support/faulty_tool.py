"""A tool that misbehaves: ``faulty_tool.py FAULTS WORDS...`` runs WORDS, after taking one fault off the file FAULTS.

The faults, a line each: ``ok``; ``die`` (by a signal, nothing done); ``fail`` (exit 1, nothing done); ``grumble`` (all
done, exit 1); ``lie`` (nothing done, exit 0); ``lose`` (one line left out, exit 0); ``cut`` (half of the output, exit
0); ``hang``; ``empty`` (no output, exit 0). When the file is empty the tool behaves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def main() -> int:
    path, words = sys.argv[1], sys.argv[2:]
    with open(path, "r+", encoding="ascii") as file:
        faults = file.read().splitlines()
        file.seek(0)
        file.truncate()
        file.write("\n".join(faults[1:]))
    fault = faults[0] if faults else "ok"
    listing = "-l" in words
    text = b"" if listing else sys.stdin.buffer.read()
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600)
    if fault == "fail":
        sys.stderr.write("ioctl: the weather is bad\n")
        return 1
    if fault in ("lie", "empty"):
        return 0
    if fault == "lose" and not listing:
        lines = text.splitlines(keepends=True)
        del lines[len(lines) // 2]
        text = b"".join(lines)
    done = subprocess.run(words, input=text, capture_output=True)
    out = done.stdout[:len(done.stdout) // 2] if fault == "cut" else done.stdout
    sys.stdout.buffer.write(out)
    sys.stderr.buffer.write(done.stderr)
    return 1 if fault == "grumble" else done.returncode


sys.exit(main())
