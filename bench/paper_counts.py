"""paper_counts: what the launches of a step ask of a device, by counting.

`make paper-counts` runs steps of one layer of each model on the emulated device, nvcc's PTX for sm_80 in an interpreter
(tests/cuda/ptx/ptx_counts.c), and keeps of each launch its grid and what a block of threads did, on the average of some blocks, in
paper-counts.json. It needs nvcc, no GPU. A key is a case: the model, which of its kinds of layers, and the step.

What counting cannot tell is how long a block takes alone: it follows from how its loads and its chains of dependent operations follow each other in
the source, and stands here as clocks and as waits for memory, kernel by kernel.
"""
import hashlib
import json
import math
import os
import re
import subprocess
from pathlib import Path

from paper_devices import DEVICES
from paper_model import MODELS, PAGE, PAPER_MODELS, ROOT, SUM_FLOATS, TYPES, Launch, Step, all_of, blocks_of, constant, decode, kv_read, prompt

COUNTS = Path(__file__).resolve().parent / "paper-counts.json"
KERNELS = "engine/backend/cuda"
CONSTANTS = {"blocks_of_sm": ("engine/backend/cuda/cuda.c", "BLOCKS_OF_SM"),
             "few_rows": ("engine/backend/cuda/matrix.cu", "MATRIX_FEW_ROWS"),
             "ring": ("engine/backend/cuda/matrix_many.cu", "MANY_STAGES"),
             # Rows whose scores are held at once: the vocabulary is read again for the next ones.
             "score_rows": ("engine/model/model.c", "MAX_SCORE_ROWS")}
STEPS = [decode(streams, context) for streams in (1, 32, 256) for context in (512, 4096)]
PROMPT = prompt(512)
VOCABULARY = 4096  # of a counted step; its launch grows with it
TYPE_ROWS = (1, 8, 64)  # of the steps that every type is counted in, 4,096 columns
SAMPLE = 4   # blocks of a launch that are counted
WHOLE_ROWS = 16  # enough for the emulated device to take them whole
SHORT = 63   # positions before a step whose attention is not looked at

# Classes of the interpreter -> resource. A division is a subroutine of about so many multiply-adds. Parameters are operands, moves mostly vanish.
CLASSES = {"f32": "f32", "alu": "int", "bits": "int", "imad": "imad", "dp4a": "imad", "convert": "convert", "shuffle": "ls", "ldmatrix": "ls",
           "global_load": "ls", "global_store": "ls", "shared_load": "ls", "shared_store": "ls", "copy": "ls", "atomic": "ls", "local": "ls",
           "mma_k16": "tensor", "mma_k32": "tensor", "barrier": "other", "branch": "other", "f64": "other"}
DIVISION = 8
MACS = {"mma_k16": 16 * 8 * 16, "mma_k32": 16 * 8 * 32}

# Clocks: of a block from its start to its first load and from its last product to its end; of a dependent operation; of a barrier.
AROUND, CHAIN, BARRIER = 600, 4.5, 30


# ---- counted cases ----

def rows_case(model, kind, step):
    """All but attention: it does not depend on the context."""
    return f"{model.key} {kind} {step.rows} rows" if step.decode else f"{model.key} {kind} {step.title()}"


def attends_whole(model, step, blocks_of_sm):
    """Whether a block of threads takes a row's chunks one after another (cuda_attends_whole): where rows alone keep half of the device busy."""
    whole = {step.rows > 1 and 2 * step.rows * model.kv >= blocks_of_sm * d.sms for d in DEVICES}
    assert len(whole) == 1, "the devices of the page agree for the page's steps"
    return whole.pop()


def attention_case(model, context, whole):
    return f"{model.key} attention {WHOLE_ROWS if whole else 1} x {context}"


def type_case(kind, rows):
    return f"type {kind} {rows}"


def arguments_of(model, types, step):
    positions = step.context + step.per_seq()
    return [f"d_model={model.d_model}", f"d_ff={model.d_ff}", f"n_head={model.heads}", f"n_kv={model.kv}", f"head_dim={model.head_dim}",
            f"n_vocab={VOCABULARY}", f"rows={step.rows}", f"context={positions}", f"prefill={0 if step.decode else 1}",
            "types=" + ",".join(types[t].lower() for t in ("q", "k", "v", "o", "gate", "up", "down")) + f",{model.output.lower()}"]


def cases():
    """{case: arguments} of all that the page needs."""
    out = {}
    for key in PAPER_MODELS:
        model = MODELS[key]
        for step in [*(decode(n, SHORT) for n in (1, 32, 256)), PROMPT]:
            for kind, (_, types) in enumerate(model.kinds()):
                out[rows_case(model, kind, step)] = arguments_of(model, types, step)
        for context in (512, 4096):
            types = all_of("Q4_K" if model.d_model % 256 == 0 else "Q4_1")
            for whole in (False, True):
                out[attention_case(model, context, whole)] = arguments_of(model, types, decode(WHOLE_ROWS if whole else 1, context))
    for kind in TYPES:
        for rows in TYPE_ROWS:
            out[type_case(kind, rows)] = ["d_model=4096", "d_ff=256", "n_head=32", "n_kv=1", "head_dim=128", "n_vocab=256", f"rows={rows}",
                                          "context=64", "prefill=0", "types=" + ",".join([kind.lower()] * 8)]
    return out


def wanted(case, op):
    """Whether a launch of an operation is kept."""
    return op == "project_o" if case.startswith("type") else op == "attend" if " attention " in case else op != "attend" or " prompt " in case


def load_counts():
    """{case: launches}, and under "" what they were counted from: constants of the sources, and the sources' digests."""
    return json.loads(COUNTS.read_text(encoding="utf-8"))


def sources():
    """Of kernels and their headers but those of drawing, which is not in the model."""
    files = [p for p in sorted(Path(ROOT, KERNELS).glob("*.cu*")) if p.stem not in ("draw", "survivors")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in files}


def changed_since(counts):
    """Kernels and headers that are not what was counted."""
    then, now = counts[""]["sources"], sources()
    return sorted(name for name in {**then, **now} if then.get(name) != now.get(name))


# ---- from counts to a launch ----

def use_of(line):
    """What a block uses of each resource."""
    use = {}
    for name, n in line["issues"].items():
        if name == "divide":
            use["f32"] = use.get("f32", 0) + DIVISION * n
        elif name in CLASSES:
            use[CLASSES[name]] = use.get(CLASSES[name], 0) + n
        use["mma"] = use.get("mma", 0) + MACS.get(name, 0) * n
    use["shared"] = line["turns"] + line["sectors"] / 4  # global loads pass through the same 128 bytes a clock
    return use


def tensors_of(model, types, op):
    t = model.tensors(types)
    return {"qkv": [t["q"], t["k"], t["v"]], "project_o": [t["o"]], "gate_up": [t["gate"], t["up"]], "project_h": [t["down"]],
            "vocab": [(model.output, model.vocab, model.d_model)]}[op]


def product(launch, line, tensors, rows, ring):
    """A matrix: the bytes that it reads, and how long a block of threads takes alone."""
    cols, grid_x = tensors[0][2], line["grid"][0]
    groups, few = -(-blocks_of(cols) // 8), line["kernel"].startswith("matrix_few")
    stripes = 8 if launch.op == "vocab" else len(tensors) if launch.op == "gate_up" else 1
    launch.weights = sum(TYPES[t].planes_bytes(outputs, c) for t, outputs, c in tensors)
    x_bytes = rows * cols * (4 if TYPES[tensors[0][0]].is_float else 40 / 32)
    launch.l2_bytes = (launch.weights * grid_x + x_bytes * launch.blocks / grid_x) / launch.blocks
    launch.moved = x_bytes + 4 * rows * sum(outputs for _, outputs, _ in tensors)
    quants = TYPES[tensors[0][0]].chunk_bytes * TYPES[tensors[0][0]].chunks
    if few:
        width = int(re.search(r"<(\d+)>", line["kernel"]).group(1))
        ahead = {1: 4, 2: 2}.get(width, 1)
        waits = groups // ahead + groups % ahead
        clocks, launch.flight = waits * (75 * -(-width // 4) + 16 * ahead), ahead * 32 * quants
    else:
        waits, clocks, launch.flight = 2, groups * (BARRIER + 90), ring * 2 * 32 * 16
    launch.clocks += stripes * (clocks + 150)
    if grid_x == 1:
        launch.dram_waits = waits * stripes
    else:
        launch.l2_waits = waits * stripes


def attention(launch, line, model, step):
    """The kernels of attention. A split's grid depends on the device, its items do not: a block here has one."""
    heads, dim, rows = model.heads // model.kv, model.head_dim, step.rows
    chunks = -(-(step.context + 1) // PAGE) if step.decode else (step.rows + PAGE) / 2 / PAGE
    partials = rows * model.heads * chunks * 4 * (dim + SUM_FLOATS)
    launch.moved = rows * model.heads * dim * 8
    if "split" in launch.kernel:
        items = rows * chunks * model.kv * -(-heads // 8)
        taken = -(-chunks // line["grid"][0])  # by a block that was counted, of one row: those of the first item and every grid's x'th after it
        launch.use = {k: v / taken for k, v in launch.use.items()}
        launch.blocks, launch.pages, launch.moved = items, kv_read(model, step) / model.layers, partials
        launch.clocks += 300 + CHAIN * dim + 400 + 12 * PAGE
        launch.dram_waits, launch.l2_waits = -(-dim // 32), 1  # four pieces of 8 dimensions of a key at once
        launch.l2_bytes, launch.flight = PAGE * dim * 4 + heads * dim * 8, 32 * 4 * 16 + 32 * dim * 2
    elif "whole" in launch.kernel:
        launch.blocks, launch.pages = launch.blocks * rows // WHOLE_ROWS, kv_read(model, step) / model.layers
        launch.clocks += 300 + chunks * (CHAIN * dim + 400 + 12 * PAGE + 4 * BARRIER)
        launch.dram_waits, launch.l2_waits = chunks * -(-dim // 32), 1
        launch.l2_bytes, launch.flight = chunks * PAGE * dim * 4 + heads * dim * 8, 32 * 4 * 16 + 32 * dim * 2
    elif launch.kernel == "attend_round" and step.decode:
        launch.blocks, launch.clocks, launch.l2_waits = launch.blocks * rows // WHOLE_ROWS, launch.clocks + 150, 1
    elif "merge" in launch.kernel:
        launch.blocks *= rows
        launch.clocks += 300 + 17 * chunks  # a scan of maxima, and a chain over the sums
        launch.l2_waits, launch.moved, launch.l2_bytes = 1 + -(-chunks // 8), partials, partials / launch.blocks
    elif "walk" in launch.kernel:
        launch.use = {k: v * chunks for k, v in launch.use.items()}  # the blocks that were counted are of the first walk, with one chunk
        launch.clocks += chunks * (dim // 8 * 182 + 16 * 160 + 700 + 4 * BARRIER)
        launch.l2_waits, launch.pages = chunks * (dim // 8 + 16), kv_read(model, step) / model.layers
        launch.l2_bytes = chunks * PAGE * dim * 4 + 32 * dim * 4
    else:
        launch.clocks, launch.l2_waits = launch.clocks + 300, 2


def launch_of(model, types, step, line, count, constants):
    op = line["op"]
    launch = Launch(op, line["kernel"], count, math.prod(line["grid"]), line["threads"] // 32, line["registers"], line["shared_bytes"], use_of(line),
                    AROUND)
    if line["kernel"].startswith("matrix"):
        rows = step.wanted if op == "vocab" else step.rows
        if op == "vocab":
            launch.blocks = launch.blocks * model.vocab // VOCABULARY
        product(launch, line, tensors_of(model, types, op), rows, constants["ring"])
        return launch
    if op in ("attend", "rope_store"):
        attention(launch, line, model, step)
        return launch
    launch.l2_bytes, launch.moved, launch.l2_waits = 32 * line["read_sectors"], step.rows * model.d_model * 8, 2
    if line["kernel"] == "rows_norm":
        launch.clocks += model.d_model / 64 * 8 + 3 * BARRIER + -(-blocks_of(model.d_model) // 32) * 150
    else:
        launch.clocks += 100
    return launch


def plan(model, step, counts):
    """The launches of a step."""
    launches, constants = [], counts[""]["constants"]
    for kind, (n, types) in enumerate(model.kinds()):
        for line in counts[rows_case(model, kind, step)]:
            if line["op"] == "vocab" or (kind > 0 and line["op"] in ("begin", "embed")):
                continue
            launches.append(launch_of(model, types, step, line, 1 if line["op"] in ("begin", "embed") else n, constants))
    if step.decode:
        for line in counts[attention_case(model, step.context, attends_whole(model, step, constants["blocks_of_sm"]))]:
            launches.append(launch_of(model, model.plain, step, line, model.layers, constants))
    rows = min(step.wanted, constants["score_rows"])
    scored = step if step.wanted == rows else Step(rows, rows, step.context, rows)
    for line in counts[rows_case(model, 0, scored)]:
        if line["op"] == "vocab":
            launches.append(launch_of(model, model.plain, scored, line, -(-step.wanted // rows), constants))
    return launches


# ---- counting ----

def registers_of(build):
    """{kernel: registers} of sm_80, from ptxas's reports."""
    out = {}
    for report in Path(build, "engine/backend/cuda").glob("*.ptxas"):
        for name, used in re.findall(r"entry function '(\w+)' for 'sm_80'\n(?:.*\n){0,3}?.*Used (\d+) registers", report.read_text(encoding="utf-8")):
            out[demangled(name)] = int(used)
    return out


def demangled(name):
    """_Z10matrix_fewILi8EEv14device_product -> matrix_few<8>"""
    m = re.match(r"_Z(\d+)", name)
    end = m.end() + int(m.group(1))
    base, rest = name[m.end():end], name[end:]
    arguments = re.match(r"I((?:L[ib]\d+E)+)E", rest)
    if not arguments:
        return base
    values = [("true" if v == "1" else "false") if k == "b" else v for k, v in re.findall(r"L([ib])(\d+)E", arguments.group(1))]
    return f"{base}<{', '.join(values)}>"


def count(build, program):
    """Runs all cases; keeps of each launch what a block did."""
    out = Path(build, "paper-counts.txt")
    ptx = " ".join(str(p) for p in sorted(Path(build, "engine/backend/cuda").glob("*.sm_80.ptx")))
    environment = {**os.environ, "EMULATOR_PTX": ptx, "EMULATOR_PTX_COUNTS": str(out), "EMULATOR_PTX_BLOCKS": str(SAMPLE)}
    registers = registers_of(build)
    kept = {"": {"constants": {k: constant(*where) for k, where in CONSTANTS.items()}, "sources": sources()}}
    for case, arguments in cases().items():
        out.unlink(missing_ok=True)
        subprocess.run([program, *arguments], env=environment, check=True)
        lines = [kept_of(json.loads(line), registers) for line in out.read_text(encoding="utf-8").splitlines()]
        kept[case] = [line for line in lines if wanted(case, line["op"])]
    COUNTS.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n", encoding="utf-8")


def kept_of(line, registers):
    c = line["counts"]
    n, load = c["blocks_run"], c["global_load"]
    name = re.sub(r"^void ", "", line["kernel"]).replace("(int)", "").replace("(bool)0", "false").replace("(bool)1", "true")
    hot = [u for u in c["uneven"] if u["most_ways"] > 2]
    worst = max(hot, key=lambda u: u["requests"], default=None)

    def each(x):
        return round(x / n, 1)
    kept = {"op": line["label"], "kernel": name, "grid": line["grid"], "threads": math.prod(line["block"]), "registers": registers[name],
            "shared_bytes": line["shared_bytes"], "issues": {k: each(v) for k, v in c["issues"].items() if v}, "local": c["local_requests"],
            "requests": each(load["requests"]), "sectors": each(load["sectors"]), "least_sectors": each(load["least_sectors"]),
            "read_sectors": each(c["read_sectors"]), "turns": each(c["shared_load"]["turns"] + c["shared_store"]["turns"])}
    if worst is not None:
        kept["conflict"] = {"ways": worst["most_ways"], "requests": each(worst["requests"]), "text": " ".join(worst["text"].split())}
    return kept
