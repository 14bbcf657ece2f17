"""engine: build/bench/engine_rate, one process that holds a model and runs one command when told to; in turns with the peer, and for the curves."""
import json
import statistics
import subprocess
import sys

import peer
from plans import CONTEXT, CURVE_CONTEXT, CURVE_STEPS, CURVE_STREAMS, PREFILL, STREAMS, case_of_streams
from servers import ROOT, say

ENGINE_RATE = ROOT / "build" / "bench" / "engine_rate"
POSITIONS_PER_STREAM = 256  # room for CONTEXT and the longest run of steps, in whole pages
READ_PASSES = 5


class Engine:
    """Ready inside a `with`; `ready` is what it said of the model and the machine."""

    def __init__(self, model, threads, streams, positions, rows=512):
        command = [ENGINE_RATE, model, threads, positions, streams, rows]
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("engine_rate ended early")
        result = json.loads(line)
        if "error" in result:
            sys.exit(f"engine_rate: {result['error']}")
        return result

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def prefill(self, n, reps):
        return self.ask("prefill", n, reps)["rate"]

    def decode(self, n_streams, context, steps):
        return self.ask("decode", n_streams, context, steps)["rate"]

    def read_gbps(self):
        return self.ask("read", READ_PASSES)["gbps"]

    def contexts(self, steps, contexts):
        return [self.ask("context", steps, *contexts)] + [self.answer() for _ in contexts[1:]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def open_engine(model, threads, most_streams, longest):
    return Engine(model, threads, most_streams, max(most_streams * POSITIONS_PER_STREAM, longest + 64))


def turn_of_ours(engine, plan, group):
    """{case: tokens/s}; at one stream also what a plain read gives just before and just after."""
    if group == "prefill":
        return {f"prefill {n}": engine.prefill(n, plan.reps[n]) for n in PREFILL}
    if group > 1:
        return {case_of_streams(group): engine.decode(group, CONTEXT, plan.steps[group])}
    before, rate, after = engine.read_gbps(), engine.decode(1, CONTEXT, plan.steps[1]), engine.read_gbps()
    return {case_of_streams(1): rate, "read": (before + after) / 2}


def turn_of_peer(programs, model, threads, plan, group):
    if group == "prefill":
        return {f"prefill {n}": rate for n, rate in peer.prefill(programs, model, threads, PREFILL).items()}
    return {case_of_streams(group): peer.decode(programs, model, threads, group, CONTEXT, plan.steps[group])}


def measure_pairs(engine, programs, model, threads, plan, n_pairs):
    """{"cases": {case: {"ours": [...], "peer": [...]}}, "read": [...]}, one entry a pair; the two of a pair follow each other, first by turns."""
    cases, reads = {}, []
    for group in ["prefill", *STREAMS]:
        turn_of_ours(engine, plan, group)  # not counted: the first use of memory
    for i in range(n_pairs):
        for group in ["prefill", *STREAMS]:
            sides = {"ours": lambda g=group: turn_of_ours(engine, plan, g), "peer": lambda g=group: turn_of_peer(programs, model, threads, plan, g)}
            for side in list(sides) if i % 2 == 0 else list(sides)[::-1]:
                for case, value in sides[side]().items():
                    if case == "read":
                        reads.append(value)
                    else:
                        cases.setdefault(case, {"ours": [], "peer": []})[side].append(value)
        say(f"  pair {i + 1} of {n_pairs}: " + ", ".join(f"{c} {s['ours'][-1]:,.0f}/{s['peer'][-1]:,.0f}" for c, s in cases.items()) +
            f" tokens/s; plain read {reads[-1]:.1f} GB/s")
    return {"cases": cases, "read": reads}


def steps_at(n_streams):
    return max(4, min(32, 256 // n_streams))


def measure_curves(engine, reps, most_streams=256, longest=8192):
    """Medians of `reps` rounds: {"streams": [[n, tokens/s]], "context": [[n, prefill tokens/s, decode tokens/s]], "limits": {...}}"""
    limits = engine.ask("limits")
    lengths = [c for c in CURVE_CONTEXT if c <= min(longest, engine.ready["n_ctx_train"])]
    streams, contexts = {}, {}
    for _ in range(reps):
        for n in [n for n in CURVE_STREAMS if n <= most_streams]:
            streams.setdefault(n, []).append(engine.decode(n, CONTEXT, steps_at(n)))
        for got in engine.contexts(CURVE_STEPS, lengths):
            contexts.setdefault(got["context"], []).append((got["prefill_rate"], got["decode_rate"]))
    return {"limits": limits, "streams": [[n, statistics.median(rates)] for n, rates in streams.items()],
            "context": [[n, *(statistics.median(rates) for rates in zip(*got))] for n, got in contexts.items()]}
