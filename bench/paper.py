#!/usr/bin/env python3
"""paper: what a step should cost on GPUs that nobody has run it on. A model to be proven wrong.

    bench/paper.py                    prints the page
    bench/paper.py --write            writes docs/paper.md
    bench/paper.py --count BUILD      counts the kernels' PTX in BUILD again into bench/paper-counts.json (make paper-counts)

paper_devices.py has the devices' constants and their sources, paper_model.py the operations of a step and how a time follows from numbers,
paper_counts.py those numbers. Nothing reads a clock, so the page is the same on every machine.
"""
import sys
from pathlib import Path

import paper_counts
from paper_counts import PROMPT, STEPS, load_counts, plan
from paper_devices import CPU, CPU_PORTS, DEVICES, SOURCES
from paper_model import MODELS, PAPER_MODELS, TYPES, Step, bound_of, cpu_parts, decode, fits, kv_read, time_step

PAGE_FILE = Path(__file__).resolve().parent.parent / "docs" / "paper.md"
HOT = 64  # requests of a block from which its sectors are looked at

INTRO = """# The paper model

Written by `make paper-docs`; `make paper` prints it. nextd's CUDA kernels have never run on a GPU. This page says what they should cost on three of
them, from counts and constants alone, so that a measurement can prove it wrong: `make gpu-check` prints the measured side where there is a GPU.

- The launches of a step are those that the backend makes on the emulated device, for a layer of each model. What a launch asks of a device is counted
  in nvcc's PTX for sm_80 by an interpreter (`tests/cuda/ptx`), in a few blocks of threads: instructions by class, 32-byte sectors, turns of shared
  memory's banks.
- PTX is not what runs. Held against disassembled loops of nvcc 13.0 for sm_80, on Q4_K, `matrix_few<1>` counts 89 instructions a warp and 8 blocks
  where 72 run, `matrix_many<8>` 45 for an mma where 48 run. Bounds by issue are that uncertain.
- A launch takes the longest of: its bytes at the device's bandwidth; on the busiest multiprocessor its instructions by class, mma and shared memory
  at their rates; the waits of a block alone, as many times as blocks come after each other. Plus the gap between two nodes of a graph.
  `bench/paper_model.py` has the rule, `bench/paper_counts.py` the chains of waits. Rates are nominal: what a device gives to the best of programs is
  less.
- Drawing the next token is not in it, nor copies to and from the host.
"""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in r) + " |" for r in rows])


def percent(x):
    return f"{100 * x:.0f} %"


# ---- sections ----

def devices():
    rows = [[what, *(f"{getattr(d, key):g}" for d in DEVICES), source] for what, key, source in SOURCES]
    return ("## Devices\n\n" + table(["constant", *(d.name for d in DEVICES), "source"], rows) +
            "\n\n\\* looked up in a public copy; the others are named by title, their figures from memory. Nothing of this was measured by nextd.\n")


def models():
    rows = []
    for key in PAPER_MODELS:
        m = MODELS[key]
        kinds = ", ".join(f"{n} layers {'/'.join(dict.fromkeys(t.values()))}" for n, t in m.kinds())
        rows.append([m.title, m.layers, m.d_model, m.d_ff, f"{m.heads}/{m.kv} x {m.head_dim}", m.vocab, f"{kinds}; output {m.output}",
                     f"{m.step_bytes(planes=False) / 1e9:.3f}", f"{m.step_bytes() / 1e9:.3f}", f"{m.kv_bytes() / 1024:.1f}"])
    head = ["model", "layers", "d_model", "d_ff", "heads/kv x dim", "vocabulary", "types", "GB a step, file", "in planes", "KiB of KV a position"]
    return ("## Models\n\n" + table(head, rows) + "\n\nThe 8B and 70B are the usual shapes with llama.cpp's mixture for Q4_K_M, half of the layers "
            "with v and down in Q6_K.\n")


def cell(model, step, device, counts):
    if not fits(model, step, device):
        return "does not fit"
    t = time_step(plan(model, step, counts), device)
    worst = max(t.by_bound, key=t.by_bound.get)
    return f"{t.us / 1e3:.2f} ms, {step.rows / t.us * 1e6:,.0f}/s, {percent(t.bound_us / t.us)} {worst}"


def steps(counts):
    out = ["## Steps\n\nTime of a step, tokens a second, and in the end bound / time: what the launches' bounds add up to, and what binds most of "
           "the time: bytes, mma, issue (instructions of any class), shared memory, L2 (the second-level cache's bandwidth). What is missing to "
           "100 % are gaps between launches, waits, and multiprocessors without work.\n"]
    for key in PAPER_MODELS:
        model = MODELS[key]
        rows = [[f"{s.title()} positions", *(cell(model, s, d, counts) for d in DEVICES)] for s in STEPS]
        rows.append([f"prompt of {PROMPT.rows}", *(cell(model, PROMPT, d, counts) for d in DEVICES)])
        out.append(f"### {model.title}\n\n" + table(["streams x context", *(d.name for d in DEVICES)], rows) + "\n")
    return "\n".join(out)


def kernels(counts):
    out = ["## Kernels\n\nOf the 8B model on an A100: microseconds of one launch, its bound and what binds, and what share of the step all of its "
           "launches have. `blocks` are of threads, on 108 multiprocessors that hold `resident` of them at once.\n"]
    device = DEVICES[0]
    for step in (decode(1, 4096), decode(32, 4096), PROMPT):
        launches = plan(MODELS["8b"], step, counts)
        total = time_step(launches, device).us
        rows = []
        for launch in launches:
            bounds, us = launch.times(device)
            bound, name = bound_of(bounds)
            us += device.launch_us
            rows.append([launch.op, f"`{launch.kernel}`", launch.count, launch.blocks, launch.resident(device), f"{us:.1f}", f"{bound:.1f} {name}",
                         percent(bound / us), percent(launch.count * us / total)])
        out.append(f"### {step.title()}{' positions' if step.decode else ''}: {total / 1e3:.2f} ms\n\n" +
                   table(["operation", "kernel", "launches", "blocks", "resident", "us", "bound, us", "of bound", "of the step"], rows) + "\n")
    return "\n".join(out)


def touched(line):
    return line["sectors"] / line["least_sectors"]


def hot_ways(line):
    """The worst access to shared memory of a loop: what a warp does a few times, as when chains are folded at the end of a stripe, is none."""
    conflict = line.get("conflict", {"requests": 0})
    stripes = {"vocab": 8, "gate_up": 2}.get(line["op"], 1)
    return conflict["ways"] if conflict["requests"] > 4 * stripes * line["threads"] / 32 else 2


def issued(line):
    return sum(n for name, n in line["issues"].items() if name in paper_counts.CLASSES)


def per_mma(line):
    mma = line["issues"].get("mma_k16", 0) / 2 + line["issues"].get("mma_k32", 0)
    return f"{issued(line) / mma:.0f}" if mma else ""


def read_ratio(kind, rows, line):
    """Sectors that the counted blocks of 4,096 x 4,096 weights read, each once, over the bytes of their weights and of x."""
    blocks, grid_x = line["grid"][0] * line["grid"][1] * line["grid"][2], line["grid"][0]
    n = min(blocks, paper_counts.SAMPLE)
    x = rows * 4096 * (4 if TYPES[kind].is_float else 40 / 32)
    return 32 * line["read_sectors"] * n / (TYPES[kind].planes_bytes(4096, 4096) * min(1, n * grid_x / blocks) + x)


def accesses(counts):
    rows = []
    for kind in TYPES:
        line = [kind]
        for x_rows in paper_counts.TYPE_ROWS:
            entry = counts[paper_counts.type_case(kind, x_rows)][0]
            many = entry["kernel"].startswith("matrix_many")
            if x_rows <= counts[""]["constants"]["few_rows"]:
                line += [f"{issued(entry) / (8 * 16):.0f}", f"{read_ratio(kind, x_rows, entry):.3f}", f"{touched(entry):.2f}"]
            else:
                line += [per_mma(entry), hot_ways(entry)] if many else ["", ""]
        rows.append(line)
    few, eight, many = paper_counts.TYPE_ROWS
    head = ["type", f"{few} row: issues", "read", "touched", f"{eight} rows: issues", "read", "touched", f"{many} rows: issues an mma",
            "bank ways"]
    return ("## Accesses of the matrix kernels\n\nOf 4,096 columns. `issues`: warp instructions for 8 blocks of 32 values of four outputs, by "
            "`matrix_few`; for an mma, which is a k32 or two k16, by `matrix_many` (which floats do not go to). `read`: distinct sectors over the "
            "bytes of weights and rows of x, what passes between the caches; `touched`: sectors that the requests touch over the least they could, "
            "first-level hits included. `bank ways`: the worst access to shared memory in the loop.\n\n" + table(head, rows) + "\n")


# ---- goals ----

def goals(counts):
    rows = []

    def goal(what, wanted, value, met, note=""):
        rows.append([what, wanted, value, "met" if met else "**missed**", note])

    ratios = []
    for key in PAPER_MODELS:
        for step in STEPS:
            for device in DEVICES:
                if fits(MODELS[key], step, device):
                    t = time_step(plan(MODELS[key], step, counts), device)
                    least = MODELS[key].step_bytes(planes=False) + kv_read(MODELS[key], step)
                    ratios.append((t.bytes / least, f"{MODELS[key].title}, {step.title()}, {device.name}"))
    few, worst = sum(r <= 1.05 for r, _ in ratios), max(ratios)
    goal("bytes of a step over weights (as the file has them) and pages", "<= 1.05", f"{min(ratios)[0]:.3f} .. {worst[0]:.3f}", worst[0] <= 1.05,
         f"{few} of {len(ratios)} cases within; worst {worst[1]}: partials of attention")

    reads = [(read_ratio(kind, n, counts[paper_counts.type_case(kind, n)][0]), f"{kind}, {n} rows") for kind in TYPES
             for n in paper_counts.TYPE_ROWS if n <= counts[""]["constants"]["few_rows"]]
    goal("sectors that matrix_few reads, each once", "<= 1.1 of the least", f"{max(reads)[0]:.3f}", max(reads)[0] <= 1.1, max(reads)[1])
    lines = [line for case, launches in counts.items() if case for line in launches]
    apart = max((touched(line), line["kernel"]) for line in lines if line["requests"] >= HOT)
    goal("sectors touched by requests, hits of the first-level cache included", "<= 1.1 of the least", f"{apart[0]:.2f}", apart[0] <= 1.1, apart[1])

    ways = sorted({(hot_ways(line), line["kernel"]) for line in lines}, reverse=True)
    bad = [f"{kernel} {n}" for n, kernel in ways if n > 2]
    goal("bank conflicts in hot loops", "<= 2 ways", f"at most {ways[0][0]}", not bad, ", ".join(bad))

    flights = []
    for device in DEVICES:
        for key in PAPER_MODELS:
            for launch in plan(MODELS[key], decode(1, 512), counts):
                if launch.kernel.startswith("matrix"):
                    blocks = min(launch.resident(device) * device.sms, launch.blocks)
                    asked = launch.flight * launch.warps * blocks
                    need = device.dram_gbps * 1e9 * device.dram_clk * device.clk_us * 1e-6
                    flights.append((asked / need, f"{MODELS[key].title}, {launch.op}, {device.name}"))
    goal("bytes in flight over bandwidth x latency, matrices at one stream", ">= 1", f"{min(flights)[0]:.2f} .. {max(flights)[0]:.1f}",
         min(flights)[0] >= 1, f"{sum(f < 1 for f, _ in flights)} of {len(flights)} short; least {min(flights)[1]}: too few blocks of threads")

    local = sorted({line["kernel"] for line in lines if line["local"]})
    goal("local memory", "none", f"{len(local)} kernels", not local, ", ".join(local))

    parts = []
    for key in PAPER_MODELS:
        for device in DEVICES:
            if fits(MODELS[key], PROMPT, device):
                t = time_step(plan(MODELS[key], PROMPT, counts), device)
                parts.append((t.bound_us / t.us, f"{MODELS[key].title}, {device.name}"))
    goal(f"a prompt of {PROMPT.rows}: bound over time", ">= 60 %", f"{percent(min(parts)[0])} .. {percent(max(parts)[0])}", min(parts)[0] >= 0.6,
         min(parts)[1])
    alone = []
    for device in DEVICES:
        launches = plan(MODELS["8b"], PROMPT, counts)
        without = [{k: v for k, v in launch.times(device)[0].items() if k not in ("issue", "int", "imad")} for launch in launches]
        least, us = sum(launch.count * bound_of(b)[0] for launch, b in zip(launches, without)), time_step(launches, device).us
        mma = MODELS["8b"].macs() * PROMPT.rows / (device.mma_macs * device.sms * device.ghz * 1e3)
        alone.append(f"{percent(least / us)} and {percent(mma / us)} on {device.name}")
    return ("## Goals\n\n" + table(["what", "goal", "found", "", "where"], rows) +
            "\n\nThe bound of a prompt is the instructions that the kernels issue, addresses included. Of the bound without integer instructions, "
            f"and of that by mma alone, the 8B model's prompt reaches {'; '.join(alone)}.\n")


# ---- this processor ----

def cpu_errors():
    """[(model, step, measured ms, plain ms, ms with ports)]"""
    out = []
    for key, cpu in CPU.items():
        for m in cpu.steps:
            step = Step(m.rows, m.seqs, m.context, m.seqs)
            plain, ports = cpu_parts(MODELS[key], step, m.read_gbps, cpu.int8_gops, cpu.f32_gops, CPU_PORTS)
            out.append((MODELS[key].title, step, m.ms, 1e3 * plain, 1e3 * ports))
    return out


def processor():
    errors = cpu_errors()
    rows = [[title, f"{s.seqs} x 1" if s.decode else f"prompt of {s.rows}", f"{ms:g}", f"{plain:.1f}", f"{ports:.1f}", f"{ms / ports:.2f}"]
            for title, s, ms, plain, ports in errors]
    off = {k: [ms / ports for _, s, ms, _, ports in errors if rule(s)] for k, rule in
           (("one stream", lambda s: s.rows == 1), ("8 streams", lambda s: s.rows == 8), ("32 streams", lambda s: s.rows == 32),
            ("prompts", lambda s: not s.decode))}
    text = "; ".join(f"{k} {min(v):.2f} .. {max(v):.2f}" for k, v in off.items())
    return ("## The same model on a processor that was measured\n\nAn operation takes the longest of its bytes and its arithmetic, with the "
            "constants and the steps of "
            "[cpu.md](cpu.md): two cores, the plain read and the int8 and f32 peaks of the same run, and the share of the int8 peak that a block's "
            "scaling leaves (80 % Q8_0, 73 % Q4_K, 67 % Q6_K).\n\n" +
            table(["model", "rows", "measured, ms", "bytes and peaks", "with the ports' share", "measured / model"], rows) +
            f"\n\nMeasured over modelled: {text}. So the model is right where memory binds and promises too much where instructions do, up to twice: "
            "what it leaves out here are norms and rotation, memory and arithmetic that do not overlap, and clocks below their peak. The GPU figures "
            "above deserve the same doubt: those bound by bytes are likely, those bound by issue may be twice as long.\n")


def page(counts):
    return "\n".join((INTRO, devices(), models(), steps(counts), kernels(counts), accesses(counts), goals(counts), processor()))


def main(arguments):
    if arguments[:1] == ["--count"] and len(arguments) == 2:
        paper_counts.count(arguments[1], f"{arguments[1]}/cuda-emulated/tests/cuda/ptx/ptx_counts")
        return 0
    if arguments not in ([], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    counts = load_counts()
    changed, text = paper_counts.changed_since(counts), page(counts)
    if changed:
        print(f"paper: changed since they were counted: {', '.join(changed)}; make paper-counts", file=sys.stderr)
    if arguments:
        PAGE_FILE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
