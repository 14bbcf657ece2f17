#!/usr/bin/env python3
"""speed.py [WORD...]: megabytes per second of processor time over a megabyte of each kind of text, for each vocabulary whose name has one of the
words."""
import random
import sys

import tool

MEGABYTE = 1 << 20


def fill(piece):
    piece = piece.encode() if isinstance(piece, str) else piece
    return piece * (MEGABYTE // len(piece))


def texts():
    rng = random.Random(7)
    source = (tool.ROOT / "engine/text/tokenizer.c").read_bytes() + (tool.ROOT / "CONTRIBUTING.md").read_bytes()
    anything = [chr(c) for c in range(0x20, 0x30000) if not 0xd800 <= c < 0xe000]
    return {
        "prose and code": fill(source), "a": fill("a"), "spaces": fill(" "), "newlines": fill("\n"), "tabs": fill("\t"), "digits": fill("7"),
        "punctuation": fill("!"), "two marks": fill(".,"), "alphabet": fill("abcdefghijklmnopqrstuvwxyz"), "quotes": fill("' "),
        "contractions": fill("'S'LL"), "combining marks": fill("\u0301\u0323"), "marks on a": fill("a" + "\u0301\u0323" * 8),
        "jamo": fill("\u1100\u1161\u11a8"), "decomposed": fill("Tie\u0302\u0301ng Vie\u0323\u0302t "), "notes that grow": fill("\U0001d160"),
        "chinese": fill("中文字符"), "spaces then x": fill(" " * 1000 + "x"), "space tab": fill(" \t"), "space newline": fill(" \n"),
        "no-break space": fill("\u00a0 "), "half a marker": fill("<|im_"), "zeros": fill(b"\0"), "continuation bytes": fill(b"\x80"),
        "unfinished": fill(b"\xf0\x9f"), "random bytes": rng.randbytes(MEGABYTE),
        "random characters": "".join(rng.choice(anything) for _ in range(MEGABYTE // 3)).encode()[:MEGABYTE],
    }


def measure(path, inputs=None):
    """Seconds for each text."""
    inputs = inputs or texts()
    return {name: a.seconds for name, a in zip(inputs, tool.tokenize(path, list(inputs.values())))}


def main():
    tool.build()
    paths = [tool.SMOLLM2, tool.QWEN, tool.GEMMA] + [tool.vocabulary(k) for k in tool.KINDS]
    inputs = texts()
    for path in paths:
        if len(sys.argv) == 1 or any(word in path.name for word in sys.argv[1:]):
            took = measure(path, inputs)
            slowest = max(took, key=took.get)
            typical, least = (MEGABYTE / 1e6 / took[name] for name in ("prose and code", slowest))
            print(f"{path.name:45} prose and code {typical:6.2f} MB/s   slowest {least:6.2f} MB/s ({slowest})")


if __name__ == "__main__":
    main()
