#!/usr/bin/env python3
"""serving: what serving costs: the same requests through HTTP with streaming clients and through engine.h alone.

    bench/serving.py                                    # SmolLM2; about 4 minutes
    bench/serving.py --model models/... --pairs 7 --cases "8 streams" arrival --peer /path/to/llama-server

Two processes stay up: `nextd serve`, asked by bench/load, and bench/engine_load, which has no server. For each case they take turns, in pairs and
in alternating order, with the same prompts in a pair and new ones in the next; whoever is not measured sleeps. With --peer a third takes part:
bench/load asking llama-server. Prompts of the `streams` cases are 32 random token ids, outputs have 64 tokens, greedy.

    tokens/s        output tokens / wall time from the first request to the last stream's end
    of the engine   the pairs' ratio of these; then with the client's CPU time taken off: wall time less client CPU time / processors. The client
                    shares the processors with the server, as a real one would not. That is the least it can have cost: time it took from one
                    of several threads that wait for each other costs more
    us a token      CPU time of the client, and of the server's threads that do not compute: HTTP, JSON, scheduling of requests, the kernel's TCP
    TTFT, gaps      request sent to first text, and between two texts of a stream, as the client saw them

`prefix`: 8 streams whose prompts share 1,000 words that the cache holds. `mixed`: 4 prompts of 2,048 tokens arrive while 16 short streams run.
`arrival`: a prompt of 6,000 tokens arrives while 8 streams run; their gaps before and meanwhile stand beside the time of its last, longest chunk. The
prompts are words there, for random tokens are often answered by parts of characters, and a text that waits for the rest looks like a gap.
Needs `make all bench-tools`, and nothing but Python's own library.
"""
import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from servers import ROOT, Server, free_port, say, spread  # noqa: E402  (scripts/bench imports both from elsewhere)

LOAD, ENGINE_LOAD = ROOT / "build" / "bench" / "load", ROOT / "build" / "bench" / "engine_load"
PROMPT, WORDS, LONG, ARRIVAL = 32, 1000, 2048, 6000
WORD_TOKENS = 1.6  # room, not a measurement: tokens of a word at the most


def all_cases(options):
    """{name: the workload's options}"""
    cases = {f"{n} stream{'s' if n > 1 else ''}": {"streams": n, "prompt": PROMPT, "tokens": options.tokens} for n in options.streams}
    cases["prefix"] = {"streams": 8, "prefix-words": WORDS, "tokens": options.tokens}
    cases["mixed"] = {"streams": 16, "prompt": PROMPT, "tokens": 2 * options.tokens, "long": 4, "long-prompt": LONG, "long-tokens": 8,
                      "long-every": 6 * options.tokens}
    cases["arrival"] = {"streams": 8, "prefix-words": PROMPT, "tokens": 3 * options.tokens, "long": 1, "long-prompt": ARRIVAL, "long-tokens": 8,
                        "long-every": 8 * options.tokens}
    return {name: case for name, case in cases.items() if not options.cases or name in options.cases}


def room_of(case):
    """(sequences, tokens of the longest, tokens of all) that the case needs."""
    short = int(case.get("prompt", 0) + case.get("prefix-words", 0) * WORD_TOKENS + case["tokens"]) + 64
    longest = case.get("long-prompt", 0) + 64 if case.get("long") else 0
    return case["streams"] + case.get("long", 0), max(short, longest), case["streams"] * short + case.get("long", 0) * longest


def flags(case):
    return [str(x) for name, value in case.items() for x in (f"--{name}", value)]


def over_http(server, case, seed):
    command = [LOAD, "--port", server.port, "--pid", server.process.pid, *flags(case), "--seed", seed]
    return json.loads(subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=True).stdout)


class Engine:
    """bench/engine_load with one case: runs it when told a seed."""

    def __init__(self, options, room, case):
        command = [ENGINE_LOAD, "--model", options.model, *room, *flags(case)]
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, seed):
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("engine_load ended early")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def start_peer(options, case):
    n_seqs, longest, _ = room_of(case)
    port = free_port()
    each = (longest + 255) // 256 * 256
    command = [options.peer, "-m", options.model, "--host", "127.0.0.1", "--port", port, "-t", options.threads, "-c", n_seqs * each, "-np", n_seqs]
    return Server("llama-server", command, port)


def measure_sides(sides, pairs, first_seed):
    """{side: [result, ...]}; one round to warm up, then all sides in each pair, going first by turns."""
    results = {name: [] for name in sides}
    for i in range(pairs + 1):
        order = list(sides) if i % 2 == 0 else list(sides)[::-1]
        for name in order:
            result = sides[name](first_seed + i)
            if i > 0:
                results[name].append(result)
    return results


def measure(options, server, room, name, case, first_seed):
    sides = {"http": lambda seed: over_http(server, case, seed)}
    with Engine(options, room, case) as engine:
        sides["engine"] = engine.run
        if options.peer:
            with start_peer(options, case) as peer:
                sides["peer"] = lambda seed: over_http(peer, case, seed)
                results = measure_sides(sides, options.pairs, first_seed)
        else:
            results = measure_sides(sides, options.pairs, first_seed)
    say(f"{name}: " + ", ".join(f"{side} {statistics.median(r['tokens_per_s'] for r in rs):,.0f}" for side, rs in results.items()) + " tokens/s")
    return results


def chunk_ms(options, server, first_seed):
    """Time of a long prompt's last chunk with nothing beside it: the prefix cache has the rest, for the same prompt was asked for without it."""
    rest = (ARRIVAL - 1) // options.chunk * options.chunk
    times = []
    for seed in range(first_seed, first_seed + min(options.pairs, 3)):
        for n in (rest, ARRIVAL):
            last = over_http(server, {"streams": 0, "long": 1, "long-every": 0, "long-tokens": 1, "long-prompt": n}, seed)
        times.append(last["long_ttft_ms"]["p50"])
    return times


def corrected_wall(result):
    return result["wall_s"] - result["client_cpu_s"] / os.cpu_count()


def us_a_token(results, field):
    return sum(r[field] for r in results) / sum(r["tokens"] for r in results) * 1e6


def rate_table(results):
    peer = any("peer" in sides for sides in results.values())
    lines = ["| | engine, tokens/s | HTTP, tokens/s | of the engine | client's CPU taken off | client, us a token | server but engine, us a token |" +
             (" llama-server, tokens/s | nextd's lead |" if peer else ""), "|---" * (9 if peer else 7) + "|"]
    for name, sides in results.items():
        http, engine = sides["http"], sides["engine"]
        raw = [e["wall_s"] / h["wall_s"] for h, e in zip(http, engine)]
        corrected = [e["wall_s"] / corrected_wall(h) for h, e in zip(http, engine)]
        line = f"| {name} | {spread([r['tokens_per_s'] for r in engine])} | {spread([r['tokens_per_s'] for r in http])} | {spread(raw, 3)} " \
               f"| {spread(corrected, 3)} | {us_a_token(http, 'client_cpu_s'):.1f} | {us_a_token(http, 'other_cpu_s'):.1f} |"
        if peer:
            lead = [p["wall_s"] / h["wall_s"] for h, p in zip(http, sides["peer"])]
            line += f" {spread([r['tokens_per_s'] for r in sides['peer']])} | {spread(lead, 2)} |"
        lines.append(line)
    return lines


def time_table(results):
    def times(rs, field, percentiles):
        return " / ".join(f"{statistics.median(r[field][p] for r in rs):,.1f}" for p in percentiles)

    lines = ["Milliseconds: time to the first text p50 / p99, gap between texts p50 / p99 / longest; medians of the runs.", "",
             "| | HTTP, first | HTTP, gap | engine, first | engine, gap |", "|---|---|---|---|---|"]
    peer = any("peer" in sides for sides in results.values())
    if peer:
        lines[2:] = [lines[2] + " llama-server, first | llama-server, gap |", lines[3] + "---|---|"]
    for name, sides in results.items():
        cells = []
        for side in ("http", "engine", "peer") if peer else ("http", "engine"):
            cells += [times(sides[side], "ttft_ms", ("p50", "p99")), times(sides[side], "gap_ms", ("p50", "p99", "max"))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def arrival_lines(options, results, chunks):
    """What the arrival of a long prompt does to the gaps of the others. Counts do not depend on the machine: a text for every chunk, so never two
    chunks between texts. Times do."""
    typical = [r["quiet_gap_ms"]["p50"] for r in results]
    longest = [r["crowded_gap_ms"]["max"] for r in results]
    rows = [("gap without it, median", typical), ("gap while it is read, median", [r["crowded_gap_ms"]["p50"] for r in results]),
            ("gap while it is read, longest", longest), ("that is more than without it by", [c - t for c, t in zip(longest, typical)]),
            ("its last chunk alone takes", chunks), ("its first text comes after", [r["long_ttft_ms"]["p50"] for r in results])]
    texts = spread([r["crowded_gap_ms"]["n"] / r["streams"] for r in results], 1)
    lines = [f"A prompt of {ARRIVAL:,} tokens arrives while 8 streams run. It is read in {-(-ARRIVAL // options.chunk)} chunks of {options.chunk}; "
             f"meanwhile each of the others has {texts} gaps, the one that its arrival cuts and the one that its first text cuts included.",
             "", "| | ms |", "|---|---|"]
    return lines + [f"| {n} | {spread(v, 1)} |" for n, v in rows]


def run(options):
    """Measures; returns the tables as Markdown."""
    cases = all_cases(options)
    rooms = [room_of(c) for c in cases.values()]
    room = ["--threads", str(options.threads), "--max-seqs", str(max(r[0] for r in rooms)), "--chunk", str(options.chunk),
            "--kv-tokens", str(max(r[2] for r in rooms) + 8192)]
    port = free_port()
    results, chunks = {}, []
    with Server("nextd", [options.nextd, "serve", "-m", options.model, "--port", port, *room], port) as server:
        for k, (name, case) in enumerate(cases.items()):
            results[name] = measure(options, server, room, name, case, 1000 * k)
        if "arrival" in cases:
            chunks = chunk_ms(options, server, 900000)
    lines = rate_table(results) + [""] + time_table(results)
    if "arrival" in cases:
        lines += [""] + arrival_lines(options, results["arrival"]["http"], chunks)
    return "\n".join(lines) + "\n"


def add_options(p):
    p.add_argument("--model", default="models/smollm2-135m-instruct-q4_1.gguf")
    p.add_argument("--nextd", default=ROOT / "build" / "nextd", help="the server to measure")
    p.add_argument("--peer", help="a llama-server binary that takes part")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--tokens", type=int, default=64, help="output tokens of each stream")
    p.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32, 128])
    p.add_argument("--chunk", type=int, default=128, help="nextd's")
    p.add_argument("--cases", nargs="*", help="only these, by their names in the table")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(p)
    options = p.parse_args()
    shown = " ".join(["bench/serving.py", *map(shlex.quote, sys.argv[1:])])
    print(f"### {Path(options.model).stem}\n\n`{shown}` on {datetime.date.today()}, {options.pairs} pairs, {options.threads} threads.\n")
    print(run(options))


if __name__ == "__main__":
    main()
