#!/usr/bin/env python3
"""neighbour: what is left of nextd's and llama-server's rates when other processes want the same processors.

    python3 bench/neighbour.py --peer /path/to/llama-server              # one markdown table on standard output
    python3 bench/neighbour.py --peer ... --pairs 1 --data runs.json     # adds a pair to those of earlier runs; the table is of all of them

Threads that wait for each other at every operation lose more than their neighbours take: while one is off its processor, the others stand at the
barrier. A neighbour here is a process that computes without end at normal priority. With n threads, p processors and k neighbours a fair share is
n / (n + k) of p processors (all of p / n threads' worth when there is room for everyone): the table puts it beside what was kept.

Both servers stay up; within a pair each number of neighbours is tried on both, in alternating order. Requests do not stream, so the client costs
next to nothing, and every figure is of whole requests, one round after the other, until a second is over:

    prefill 128   prompts of 128 random tokens, one output token
    S streams     S requests at once, one output token of each counted for every step

Needs nothing but Python's own library.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import datetime
import http.client
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from servers import ROOT, Server, free_port, say, spread

SECONDS = 1.0       # each figure is measured at least so long
STREAM_TOKENS = {1: 32, 8: 16}
CASES = ["prefill 128", "1 stream", "8 streams"]
# Says that it runs, then computes until it is ended; or until its parent is gone, whatever became of that.
SPIN = "import os, sys; p = os.getppid(); sys.stdout.write('.'); sys.stdout.flush()\nwhile os.getppid() == p:\n for _ in range(1000000): pass"


def complete(server, n_prompt, n_output, seed):
    """One whole request; returns the number of output tokens."""
    rng = random.Random(seed)
    body = {"prompt": [rng.randrange(100, 40000) for _ in range(n_prompt)], "max_tokens": n_output, "temperature": 0, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=110)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{server.name}: {answer[:300]}")
    return json.loads(answer)["usage"]["completion_tokens"]


@contextlib.contextmanager
def neighbours(n):
    """n spinning processes, running when the body begins, gone when it ends."""
    spinning = []
    try:
        for _ in range(n):
            spinning.append(subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        for p in spinning:
            if p.stdout.read(1) != b".":
                raise RuntimeError("a neighbour did not start")
        yield
    finally:
        for p in spinning:
            p.kill()
            p.wait()
            p.stdout.close()


def rate(server, case, seed, executor):
    """Tokens per second of a case."""
    n_prompt, n_output, n_streams = (128, 1, 1) if case == CASES[0] else (4, STREAM_TOKENS[int(case.split()[0])], int(case.split()[0]))
    counted, begun, turn = 0, time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        jobs = [executor.submit(complete, server, n_prompt, n_output, f"{seed} {turn} {i}") for i in range(n_streams)]
        got = sum(j.result() for j in jobs)
        if got != n_streams * n_output:
            raise RuntimeError(f"{server.name}: {got} tokens came, {n_streams * n_output} were asked for")
        counted += n_prompt if case == CASES[0] else got
        turn += 1
    return counted / (time.perf_counter() - begun)


def measure(servers, n_pairs, most_neighbours=2, seed=0, cases=CASES, keep=None):
    """[{"server", "case", "neighbours", "rate"}] of n_pairs rounds; keep(figure) hears each at once."""
    found = []
    with concurrent.futures.ThreadPoolExecutor(max(STREAM_TOKENS)) as executor:
        for server in servers:
            complete(server, 128, 1, "warm")
        for i in range(n_pairs):
            for k in range(most_neighbours + 1):
                with neighbours(k):
                    for server in servers if (i + k) % 2 == 0 else servers[::-1]:
                        for case in cases:
                            got = rate(server, case, f"{seed} {i} {k}", executor)
                            found.append({"server": server.name, "case": case, "neighbours": k, "rate": got})
                            say(f"{server.name}, {case}, {k} neighbours: {got:.1f} tokens/s")
                            if keep is not None:
                                keep(found[-1])
    return found


def fair_share(n_threads, n_neighbours, n_processors):
    return min(1, n_processors / (n_threads + n_neighbours)) / min(1, n_processors / n_threads)


def table(found, n_threads, n_processors):
    """Rows: cases by neighbours; a server's columns are its rate and the part kept of its own undisturbed rate in the same round."""
    names = list(dict.fromkeys(f["server"] for f in found))
    lines = ["| | neighbours | fair share | " + " | ".join(f"{n} | kept" for n in names) + " |", "|---" * (3 + 2 * len(names)) + "|"]
    for case in dict.fromkeys(f["case"] for f in found):
        for k in sorted({f["neighbours"] for f in found}):
            cells = [case, str(k), f"{fair_share(n_threads, k, n_processors):.0%}" if k else ""]
            for name in names:
                rates = {j: [f["rate"] for f in found if (f["server"], f["case"], f["neighbours"]) == (name, case, j)] for j in (0, k)}
                kept = [b / a for a, b in zip(rates[0], rates[k])]
                cells += [spread(rates[k]), f"{statistics.median(kept):.0%} ({min(kept):.0%} .. {max(kept):.0%})" if k else ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine():
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else os.uname().machine}, {len(os.sched_getaffinity(0))} processors, Linux {os.uname().release.split('-')[0]}"


def commit():
    r = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    return r.stdout.strip() or "unknown"


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="models/smollm2-135m-instruct-q4_1.gguf")
    p.add_argument("--binary", default=ROOT / "build" / "nextd", help="a nextd binary")
    p.add_argument("--peer", help="a llama-server binary (default: nextd alone)")
    p.add_argument("--also", nargs="*", default=[], help="other nextd binaries, beside the first")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--neighbours", type=int, default=2, help="0, 1, ... so many")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    p.add_argument("--data", type=Path, help="keep the figures here, and make the table of all that are kept")
    return p.parse_args()


def start(options, model):
    servers = []
    others = [(f"nextd ({i + 2})", binary) for i, binary in enumerate(options.also)]
    for name, binary in [("nextd", options.binary), *others, ("llama-server", options.peer)]:
        if binary is None:
            continue
        port = free_port()
        command = [binary, "serve", "-m", model, "--port", port, "--threads", options.threads, "--kv-tokens", 8192, "--max-seqs", 8]
        if name == "llama-server":
            command = [binary, "-m", model, "--host", "127.0.0.1", "--port", port, "-t", options.threads, "-c", 8192, "-np", 8, "--no-cache-prompt"]
        servers.append(Server(name, command, port))
    return servers


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes are ended on the way out
    model = ROOT / options.model
    kept = json.loads(options.data.read_text()) if options.data and options.data.exists() else []
    servers = start(options, model)

    def keep(figure):
        kept.append(figure)
        if options.data:
            options.data.write_text(json.dumps(kept))

    try:
        for server in servers:
            server.wait_ready()
        measure(servers, options.pairs, options.neighbours, len(kept), options.cases, keep)
    finally:
        for server in servers:
            server.stop()
    # Where this machine keeps its programs is of no use to the reader.
    shown = [a for before, a in zip([""] + sys.argv[1:], sys.argv[1:]) if not {a, before} & {"--peer", "--binary", "--data"}]
    n_pairs = min(collections.Counter((f["server"], f["case"], f["neighbours"]) for f in kept).values())
    print(f"`{' '.join(['python3 bench/neighbour.py', *map(shlex.quote, shown)])}` on {datetime.date.today()}; {machine()}; {model.stem}, "
          f"{options.threads} threads, {n_pairs} interleaved pairs; nextd {commit()}.\nTokens per second, median (lowest .. highest).\n")
    print(table(kept, options.threads, len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    main()
