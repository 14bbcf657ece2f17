"""paper_counts: what the launches of a step ask of a device, by counting.

The counts are of nvcc's PTX for sm_80, which an interpreter ran (tests/cuda/ptx): each case below is a launch of which one block is counted, and the
results are kept in paper-counts.json (`make paper-counts` counts again; it needs nvcc, no GPU). A case is a line for tests/cuda/launches.c.

What counting cannot tell is how long a block takes alone: it follows from how its loads and its chains of dependent operations follow each other in
the source, and stands here as clocks and as waits for memory, kernel by kernel.
"""
import json
import os
import re
import subprocess
from pathlib import Path

from paper_model import MODELS, PAGE, PAPER_MODELS, SUM_FLOATS, TYPES, Launch, blocks_of, constant, decode, kv_read, prompt

COUNTS = Path(__file__).resolve().parent / "paper-counts.json"
FEW_ROWS = constant("engine/backend/cuda/matrix.cu", "MATRIX_FEW_ROWS")
MANY_ROWS = constant("engine/backend/cuda/matrix_many.cu", "MANY_ROWS")
WALK_ROWS = constant("engine/backend/cuda/kernels.h", "ATTEND_ROWS")
SCORE_ROWS = constant("engine/model/model.c", "SCORE_ROWS")  # whose scores are held at once: the vocabulary is read again for the next ones
NUMBER = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
          "BF16": 30}
STORE, ADD, SCORES, PAIR = range(4)
STEPS = [decode(streams, context) for streams in (1, 32, 256) for context in (512, 4096)]
PROMPT = prompt(512)

# Classes of the interpreter -> resource. A division is a subroutine of about so many multiply-adds. Parameters are operands, moves mostly vanish.
CLASSES = {"f32": "f32", "alu": "int", "bits": "int", "imad": "imad", "dp4a": "imad", "convert": "convert", "shuffle": "ls", "ldmatrix": "ls",
           "global_load": "ls", "global_store": "ls", "shared_load": "ls", "shared_store": "ls", "copy": "ls", "atomic": "ls", "local": "ls",
           "mma_k16": "tensor", "mma_k32": "tensor", "barrier": "other", "branch": "other", "f64": "other"}
DIVISION = 8
MACS = {"mma_k16": 16 * 8 * 16, "mma_k32": 16 * 8 * 32}

# Clocks: of a block from its start to its first load and from its last product to its end; of a dependent operation; of a barrier.
AROUND, CHAIN, BARRIER = 600, 4.5, 30


# ---- counted cases ----

def product_case(kernel, epilogue, rows, kind, cols):
    return f"product {kernel} {epilogue} {rows} {cols} {256 if epilogue == SCORES else 32} {NUMBER[kind]}"


def cases():
    """All that the page needs: every matrix of its models as few rows and as many, and the other kernels at the models' shapes."""
    found = {}
    for key in PAPER_MODELS:
        model = MODELS[key]
        for step in [*STEPS, decode(8, 512), PROMPT]:
            for launch in plan(model, step, lambda case, _: found.setdefault(case) or dict(EMPTY)):
                assert launch.count > 0
    for kind in TYPES:  # every type, for what is said of loads and banks
        for kernel, rows in (("few", 1), ("few", 8), ("many", MANY_ROWS)):
            if kernel == "few" or not TYPES[kind].is_float:
                found.setdefault(product_case(kernel, STORE, rows, kind, 4096))
    return list(found)


EMPTY = {"issues": {}, "shared_turns": 0, "load_sectors": 0, "read_sectors": 0, "registers": 32, "shared_bytes": 0, "grid": [1, 1, 1]}


def load_counts():
    return json.loads(COUNTS.read_text(encoding="utf-8"))


# ---- from counts to a launch ----

def use_of(count):
    """What a block uses of each resource."""
    use = {}
    for name, n in count["issues"].items():
        if name == "divide":
            use["f32"] = use.get("f32", 0) + DIVISION * n
        elif name in CLASSES:
            use[CLASSES[name]] = use.get(CLASSES[name], 0) + n
        use["mma"] = use.get("mma", 0) + MACS.get(name, 0) * n
    use["shared"] = count["shared_turns"] + count["load_sectors"] / 4  # global loads pass through the same 128 bytes a clock
    return use


def mixed(parts):
    """(share, use, bytes from the second-level cache) of several kinds of blocks to one of them all."""
    total = sum(share for share, _, _ in parts)
    keys = {k for _, use, _ in parts for k in use}
    return {k: sum(share * use.get(k, 0) for share, use, _ in parts) / total for k in keys}, sum(share * b for share, _, b in parts) / total


def few_width(rows):
    return next((n for n in (1, 2, 4) if rows <= n), 8)


def product(op, counted, tensors, rows, epilogue, count=1):
    """A matrix of tensors (type, rows, cols) side by side, or gate and up, times `rows` rows."""
    cols = tensors[0][2]
    few = rows <= FEW_ROWS or any(TYPES[t].is_float for t, _, _ in tensors)
    width = few_width(rows) if few else MANY_ROWS
    stripes = 8 if epilogue == SCORES else 2 if epilogue == PAIR else 1
    groups = -(-blocks_of(cols) // 8)
    parts, blocks, entry = [], 0, None
    for kind, outputs, _ in tensors[:1] if epilogue == PAIR else tensors:
        entry = counted(product_case("few" if few else "many", epilogue, width, kind, cols), 0)
        n = -(-outputs // (256 if epilogue == SCORES else 32))
        parts.append((n, use_of(entry), 32 * entry["read_sectors"]))
        blocks += n
    use, l2_bytes = mixed(parts)
    row_groups = -(-rows // width)
    weights = sum(TYPES[t].planes_bytes(outputs, c) for t, outputs, c in tensors)
    if few:
        ahead = {1: 4, 2: 2}.get(width, 1)
        waits = groups // ahead + groups % ahead
        clocks, flight = waits * (75 * -(-width // 4) + 16 * ahead), ahead * 32 * TYPES[tensors[0][0]].chunk_bytes * TYPES[tensors[0][0]].chunks
    else:
        waits, clocks, flight = groups, groups * (BARRIER + 90), 2 * 32 * 16
    lone = {"dram_waits": waits * stripes} if row_groups == 1 else {"l2_waits": waits * stripes}
    clocks = AROUND + stripes * (clocks + 150)
    moved = rows * (cols * 38 / 32 + 4 * sum(outputs for _, outputs, _ in tensors))
    return Launch(op, f"matrix_few<{width}>" if few else "matrix_many", count, blocks * row_groups, 8, entry["registers"], entry["shared_bytes"], use,
                  clocks, l2_bytes=l2_bytes, weights=weights, moved=moved, flight=flight, **lone)


def rowwise(op, kernel, counted, case, rows, cols, waits, clocks, count=1, blocks=None, warps=8):
    entry = counted(case, 0)
    return Launch(op, kernel, count, blocks or rows, warps, entry["registers"], entry["shared_bytes"], use_of(entry), AROUND + clocks,
                  l2_waits=waits, l2_bytes=32 * entry["read_sectors"], moved=rows * cols * 8)


def norm(op, counted, rows, cols, count=1):
    return rowwise(op, "rows_norm", counted, f"norm 1 {cols}", rows, cols, 2, cols / 64 * 8 + 3 * BARRIER + -(-blocks_of(cols) // 32) * 150, count)


def chunks_of(positions, window):
    return -(-min(positions, window or positions) // PAGE) + (1 if window and positions > window else 0)


def attend_decode(model, step, counted):
    """attend_rope_split and attend_merge, for layers that see everything (no model of the page has a window)."""
    heads, dim, positions = model.heads // model.kv, model.head_dim, step.context + 1
    n = chunks_of(positions, 0)
    shape = f"{model.heads} {model.kv} {dim}"
    split, merge = counted(f"split 1 {shape} {2 * PAGE - 1}", 0), counted(f"split 1 {shape} {positions - 1}", 1)
    partials = step.rows * model.heads * n * 4 * (dim + SUM_FLOATS)
    per_layer = kv_read(model, step) / model.layers
    batches = -(-dim // 32)  # four pieces of 8 dimensions at once
    one = Launch("attend", "attend_rope_split", model.layers, step.rows * model.kv * n * -(-heads // 8), 2, split["registers"], split["shared_bytes"],
                 use_of(split), AROUND + 300 + CHAIN * dim + 400 + 12 * PAGE, dram_waits=batches, l2_waits=1, l2_bytes=32 * split["read_sectors"],
                 pages=per_layer, moved=partials, flight=32 * 4 * 16 + 32 * dim * 2)
    together = 1
    while together * dim % 32:
        together *= 2
    two = Launch("attend", "attend_merge", model.layers, step.rows * -(-model.heads // together), 4, merge["registers"], merge["shared_bytes"],
                 use_of(merge), AROUND + 75 * min(n, 64) * -(-n // 64), l2_waits=1 + -(-n // 4), l2_bytes=32 * merge["read_sectors"], moved=partials)
    return [one, two]


def attend_prompt(model, step, counted):
    """kv_rope, attend_walk and attend_round of a prompt from position 0: a block meets half of all chunks on the average."""
    heads, dim, rows = model.heads // model.kv, model.head_dim, step.rows
    shape = f"{model.heads} {model.kv} {dim}"
    rope = rowwise("rope_store", "kv_rope", counted, f"rope 1 {shape}", rows, (model.heads + 2 * model.kv) * dim, 2, 300, model.layers,
                   rows * -(-(model.heads + 2 * model.kv) // 4), 4)
    full, none = counted(f"walk {WALK_ROWS} {shape} {2 * PAGE - 1}", 0), counted(f"walk {WALK_ROWS} {shape} {PAGE - 1}", 0)
    chunks = sum(-(-(first + WALK_ROWS) // PAGE) for first in range(0, rows, WALK_ROWS)) / (rows / WALK_ROWS)
    use_one, use_two = use_of(none), use_of(full)
    use = {k: use_one.get(k, 0) + (chunks - 1) * (v - use_one.get(k, 0)) for k, v in use_two.items()}
    bytes_one, bytes_two = 32 * none["read_sectors"], 32 * full["read_sectors"]
    tiles = full["grid"][2]
    clocks = chunks * (dim // 8 * 182 + 16 * 160 + 700 + 4 * BARRIER)
    walk = Launch("attend", "attend_walk", model.layers, rows // WALK_ROWS * model.kv * tiles, 4, full["registers"], full["shared_bytes"], use,
                  AROUND + clocks, l2_waits=chunks * (dim // 8 + 16), l2_bytes=bytes_one + (chunks - 1) * (bytes_two - bytes_one),
                  pages=kv_read(model, step) / model.layers, moved=rows * model.heads * dim * 8)
    entry = counted(f"walk {WALK_ROWS} {shape} {2 * PAGE - 1}", 1)
    rounds = Launch("attend", "attend_round", model.layers, rows * -(-blocks_of(model.heads * dim) // 16), 4, entry["registers"], 0, use_of(entry),
                    AROUND + 150, l2_waits=1, l2_bytes=32 * entry["read_sectors"], moved=rows * model.heads * dim * 5)
    return [rope, walk, rounds]


def plan(model, step, counted):
    """The launches of a step. counted(case, i): the counts of launch i of a case."""
    rows, d = step.rows, model.d_model
    launches = [rowwise("embed", "rows_embed", counted, f"embed {NUMBER[model.embed]} 1 {d}", rows, d, 2, 100)]
    for op in ("attn norm", "ffn norm"):
        launches.append(norm(op, counted, rows, d, model.layers))
    launches += attend_decode(model, step, counted) if step.decode else attend_prompt(model, step, counted)
    for n, types in model.kinds():
        t = model.tensors(types)
        launches.append(product("qkv", counted, [t["q"], t["k"], t["v"]], rows, STORE, n))
        launches.append(product("project_o", counted, [t["o"]], rows, ADD, n))
        launches.append(product("gate_up", counted, [t["gate"], t["up"]], rows, PAIR, n))
        launches.append(product("project_h", counted, [t["down"]], rows, ADD, n))
    for n, group in ((step.wanted // SCORE_ROWS, SCORE_ROWS), (1, step.wanted % SCORE_ROWS)):
        if n > 0 and group > 0:
            launches.append(norm("vocab", counted, group, d, n))
            launches.append(product("vocab", counted, [(model.output, model.vocab, d)], group, SCORES, n))
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
    out.unlink(missing_ok=True)
    ptx = " ".join(str(p) for p in sorted(Path(build, "engine/backend/cuda").glob("*.sm_80.ptx")))
    environment = {**os.environ, "EMULATOR_PTX": ptx, "EMULATOR_PTX_COUNTS": str(out), "EMULATOR_PTX_BLOCKS": "1"}
    subprocess.run([program], input="\n".join(cases()) + "\n", text=True, env=environment, check=True)
    registers, kept = registers_of(build), {}
    for line in out.read_text(encoding="utf-8").splitlines():
        launch = json.loads(line)
        kept.setdefault(launch["label"], []).append(kept_of(launch, registers))
    COUNTS.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kept.items())) + "\n}\n", encoding="utf-8")


def kept_of(launch, registers):
    c = launch["counts"]
    assert c["blocks_run"] == 1
    name = re.sub(r"^void ", "", launch["kernel"]).replace("(int)", "").replace("(bool)0", "false").replace("(bool)1", "true")
    uneven = [{k: u[k] for k in ("text", "requests", "cost", "least", "most_ways")} for u in c["uneven"]]
    return {"kernel": name, "grid": launch["grid"], "registers": registers[name], "shared_bytes": launch["shared_bytes"],
            "issues": {k: v for k, v in c["issues"].items() if v}, "read_sectors": c["read_sectors"], "local": c["local_requests"],
            "load": c["global_load"], "store": c["global_store"], "load_sectors": c["global_load"]["sectors"],
            "shared_turns": c["shared_load"]["turns"] + c["shared_store"]["turns"],
            "shared_phases": c["shared_load"]["phases"] + c["shared_store"]["phases"], "uneven": uneven}
