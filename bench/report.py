"""report: what was measured, as tables and pictures. Pure: results in, text out.

`results` is what scripts/bench keeps of a model: see measure() there. Bounds are a roofline: a step cannot be faster than its bytes at the bandwidth
of its working set, nor than its integer operations at the peak. Attention's arithmetic and all else is left out. The bandwidth is a plain read's,
loads and nothing else: memory gives up to a fifth more to code that prefetches far ahead, which is how a step can come to lie on its bound.
"""
import math
import statistics

from plans import CONTEXT, FAST_READ_GBPS, PLANS
from plot import Line, Panel, picture
from servers import spread


def ratios(sides):
    return [a / b for a, b in zip(sides["ours"], sides["peer"])]


def verdict(value, goal):
    return "" if not goal else f"≥ {goal:g}" + ("" if value >= goal else ", missed")


# ---- the table of pairs ----

def read_fractions(results):
    """Of each pair: the weights' bytes that our steps at one stream take in a second, by the median plain read of all pairs."""
    gb = results["ready"]["step_bytes"] / 1e9
    read = statistics.median(results["read"])
    return [rate * gb / read for rate in results["cases"]["1 stream"]["ours"]], read


def rate_table(results):
    plan = PLANS[results["key"]]
    lines = ["| tokens/s | nextd | llama.cpp | ratio of the pairs | goal |", "|---|---|---|---|---|"]
    for case, sides in results["cases"].items():
        of_pairs = ratios(sides)
        lines.append(f"| {case} | {spread(sides['ours'], 1)} | {spread(sides['peer'], 1)} | {spread(of_pairs, 2)} "
                     f"| {verdict(statistics.median(of_pairs), plan.goals.get(case))} |")
    fractions, read = read_fractions(results)
    goal = plan.goal_of_read(read)
    lines.append(f"| 1 stream, of a plain read of the weights | {spread(fractions, 2)} | | | {verdict(statistics.median(fractions), goal)} |")
    return lines


def section(results):
    """Markdown of one model."""
    plan, ready = PLANS[results["key"]], results["ready"]
    read = results["read"]
    lines = [f"### {plan.title}", "",
             f"`{results['command']}` on {results['date']}; {results['machine']}, {ready['device']}; {ready['threads']} threads each, "
             f"{len(read)} interleaved pairs; nextd {results['commit']}, {results['peer']}. "
             f"It took {results['minutes']:.0f} minutes, in which other programs had {results['others']:.0%} of the processors.", "",
             *rate_table(results), "",
             f"A step reads {ready['step_bytes'] / 1e6:,.1f} MB of weights; a plain read of as much, in the same pairs, gave {spread(read, 1)} GB/s. "
             f"Loading took {ready['load_s']:.2f} s, digest included; the weights take {ready['loaded_bytes'] / ready['file_bytes']:.3f} "
             "of the file's size."]
    for part, heading in (("startup", "Start and memory"), ("http", "Through HTTP")):
        if results.get(part):
            lines += ["", f"#### {heading}", "", results[part].rstrip()]
    return "\n".join(lines) + "\n"


def summary(all_results):
    """Markdown of all models: medians of the pairs' ratios, and goals."""
    cases = list(next(iter(all_results))["cases"])
    lines = ["| times llama.cpp (goal) | " + " | ".join(cases) + " | 1 stream, of a plain read |", "|---" * (len(cases) + 2) + "|"]
    for results in all_results:
        plan = PLANS[results["key"]]
        cells = [f"{statistics.median(ratios(results['cases'][c])):.2f} ({plan.goals[c]:g})" for c in cases]
        fractions, read = read_fractions(results)
        goal = plan.goal_of_read(read)
        cells.append(f"{statistics.median(fractions):.2f}" + (f" ({goal:.2f})" if goal else ""))
        lines.append(f"| {plan.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# ---- bounds and pictures ----

def bandwidth(limits, n_bytes):
    """GB/s of all threads for a working set of n_bytes: between two measured sizes on the straight line of their logarithms."""
    sizes = [(math.log(size), gbps) for size, _, gbps in limits["read"]]
    at = math.log(n_bytes)
    if at <= sizes[0][0]:
        return sizes[0][1]
    for (a, x), (b, y) in zip(sizes, sizes[1:]):
        if at <= b:
            return x + (y - x) * (at - a) / (b - a)
    return sizes[-1][1]


def kv_bytes(ready, context):
    """Read of one stream's KV by a step at this context; windowed layers see no more than their window."""
    each = ready["kv_bytes_per_pos"] / ready["n_layers"]
    near = min(context, ready["window"]) if ready["window"] else context
    return each * ((ready["n_layers"] - ready["n_windowed"]) * context + ready["n_windowed"] * near)


def decode_bounds(ready, limits, n_streams, context):
    """(memory's, arithmetic's) tokens/s at most"""
    n_bytes = ready["step_bytes"] + n_streams * kv_bytes(ready, context)
    ops = 2 * (ready["macs"] + ready["vocab_macs"])
    return n_streams * bandwidth(limits, n_bytes) * 1e9 / n_bytes, limits["int8_gops"][1] * 1e9 / ops


def prefill_bound(ready, limits):
    return limits["int8_gops"][1] * 1e9 / (2 * ready["macs"])


def powers(values):
    return [(v, f"{v:,}") for v in values]


def streams_panel(results):
    ready, curves = results["ready"], results["curves"]
    n = [s for s, _ in curves["streams"]]
    bounds = [decode_bounds(ready, curves["limits"], s, CONTEXT) for s in n]
    peer = [(int(case.split()[0]), statistics.median(sides["peer"])) for case, sides in results["cases"].items() if "stream" in case]
    return Panel(PLANS[results["key"]].title, [
        Line("nextd", "ours", curves["streams"]),
        Line("llama.cpp", "peer", peer),
        Line("memory bound", "bound", [(s, b[0]) for s, b in zip(n, bounds)]),
        Line("int8 bound", "bound 2", [(s, b[1]) for s, b in zip(n, bounds)])], powers(n))


def context_panel(results):
    ready, curves = results["ready"], results["curves"]
    n = [c for c, _, _ in curves["context"]]
    return Panel(PLANS[results["key"]].title, [
        Line("prefill of so many tokens", "ours 2", [(c, p) for c, p, _ in curves["context"]]),
        Line("decode at it, 1 stream", "ours", [(c, d) for c, _, d in curves["context"]]),
        Line("memory bound of decode", "bound", [(c, decode_bounds(ready, curves["limits"], 1, c)[0]) for c in n]),
        Line("int8 bound of prefill", "bound 2", [(c, prefill_bound(ready, curves["limits"])) for c in n])], powers(n))


def size_text(n_bytes):
    return f"{n_bytes >> 20} MiB" if n_bytes >= 1 << 20 else f"{n_bytes >> 10} KiB"


def pictures(all_results):
    """{file name: SVG}"""
    with_curves = [r for r in all_results if r.get("curves")]
    if not with_curves:
        return {}
    limits = with_curves[-1]["curves"]["limits"]
    read = Panel(f"{limits['threads']} threads: {limits['int8_name']} at {limits['int8_gops'][1]:,.0f} Gop/s", [
        Line(f"{limits['threads']} threads", "ours", [(size, both) for size, _, both in limits["read"]]),
        Line("1 thread", "ours 2", [(size, one) for size, one, _ in limits["read"]]),
    ], [(size, size_text(size)) for size, _, _ in limits["read"]])
    return {
        "bench-streams.svg": picture(f"Decode, streams of {CONTEXT} tokens and up", [streams_panel(r) for r in with_curves],
                                     "streams", "tokens/s, all streams"),
        "bench-context.svg": picture("One stream, growing context", [context_panel(r) for r in with_curves], "tokens of context", "tokens/s"),
        "bench-bandwidth.svg": picture("Plain read by working set", [read], "working set", "GB/s"),
    }


def limits_table(all_results):
    """The bandwidth that each model's bounds were drawn with."""
    with_curves = [r for r in all_results if r.get("curves")]
    sizes = [size for size, _, _ in with_curves[0]["curves"]["limits"]["read"]]
    lines = ["| measured with | " + " | ".join(size_text(s) for s in sizes) + " | int8 |", "|---" * (len(sizes) + 2) + "|"]
    for r in with_curves:
        limits = r["curves"]["limits"]
        cells = [f"{both:.0f} GB/s" for _, _, both in limits["read"]]
        lines.append(f"| {PLANS[r['key']].title} | " + " | ".join(cells) + f" | {limits['int8_gops'][1]:,.0f} Gop/s |")
    return "\n".join(lines) + "\n"


NO_AMX = ("This machine advertises AMX units that fault when they are used, so the peer was built with everything else that a native build would "
          "choose (`--no-amx`). ")


def page(all_results):
    """What scripts/bench writes into docs/bench.md."""
    note = NO_AMX if any("without AMX" in r["peer"] for r in all_results) else "The peer was built with the machine's native flags. "
    lines = ["## Engine beside engine", "",
             "Tokens per second: median (lowest .. highest) of the pairs. A pair is one turn of each, right after one another, first by turns; "
             "every ratio is of one pair, and its median stands against the goal. " + note.rstrip(), "",
             "- `prefill N`: a prompt of N tokens (llama-bench; ours in steps of 512 rows).",
             f"- `S streams`: steps of S rows at {CONTEXT} tokens of context and up (llama-batched-bench -pps; ours samples every row's next token).",
             "- of a plain read: the weights' bytes times our steps a second, by the median GB/s of reading as many bytes with as many threads. "
             f"SmolLM2's goal is lower where that read exceeds {FAST_READ_GBPS} GB/s.", "", summary(all_results)]
    lines += [section(r) for r in all_results]
    if any(r.get("curves") for r in all_results):
        lines += ["## Growth", "",
                  "Medians of the rounds, under what the machine allowed in the same run: memory's bound is the bytes of weights and KV that a step "
                  "reads, at the bandwidth of that working set; int8's is the matrices' operations at the peak of its instruction. Attention's "
                  "arithmetic is in neither. The bandwidth is that of plain loads; steps prefetch, so one stream can touch its bound.", "",
                  "![tokens/s over streams](bench-streams.svg)", "", "![tokens/s over context](bench-context.svg)", "",
                  "![bandwidth by working set](bench-bandwidth.svg)", "", limits_table(all_results)]
    return "\n".join(lines)


def readme(all_results):
    """What scripts/bench writes into README.md."""
    first = all_results[0]
    return (f"`{first['command']}` on {first['date']}; {first['machine']}, {first['ready']['threads']} threads each, medians of {len(first['read'])} "
            "interleaved pairs (goals in brackets):\n\n" + summary(all_results))


def put_between(document, mark, text):
    """The document with what stands between its two marks replaced; ValueError where it has none."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"the document needs one pair of marks {begin} and {end}")
    return document[:document.index(begin) + len(begin)] + "\n" + text.strip() + "\n" + document[document.index(end):]
