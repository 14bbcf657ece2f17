"""paper_model: the operations of a step as launches, what each asks of a device, and how long that takes.

A step is forward.c's list. Each operation becomes the launches of engine/backend/cuda, and a launch becomes numbers for one of its blocks of
threads: warp instructions by class, bytes asked of the second-level cache, wavefronts of shared memory, multiplications of mma, and the clocks that a
block takes from its first instruction to its last where nobody disturbs it. paper_counts.py has those numbers. A launch takes

    n        = blocks of the busiest SM = ceil(blocks / SMs)
    resident = blocks that an SM holds at once, by threads, registers and shared memory
    busy     = the longest of n * (issue, integer, f32, conversion, load-store, mma, shared memory of a block) at the SM's rates
    wait     = ceil(n / resident) * clocks of an undisturbed block
    flow     = the longer of its bytes from memory and its bytes from the second-level cache at their rates
    time     = launch gap + max(max(busy, flow) + first load, wait)

and its bound is the longest of busy (blocks spread evenly) and flow alone: what `of bound` compares. Bytes from memory are weights and pages once,
and what kernels hand each other only where it does not fit half of the second-level cache.
"""
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = 64
SUM_FLOATS = 8  # of a partial, beside its values: ATTEND_PARTIAL


def source(path):
    return (ROOT / path).read_text(encoding="utf-8")


def constant(path, name):
    """A #define of a number in a source file."""
    return int(re.search(rf"#define {name} (\d+)", source(path)).group(1))


# ---- types ----

@dataclass(frozen=True)
class Type:
    """Bytes: of a unit of the file, and of a block of 32 (of 8 blocks: supers, sixes) in the planes."""
    name: str
    unit: int
    unit_bytes: int
    chunks: int
    chunk_bytes: int
    high: int
    scale: int
    supers: int
    sixes: int

    @property
    def halves(self):
        return self.name in ("Q2_K", "Q3_K", "Q6_K")

    @property
    def n_min(self):
        return {"Q4_1": 1, "Q5_1": 1, "Q4_K": 1, "Q5_K": 1, "Q2_K": 2}.get(self.name, 0)

    @property
    def is_float(self):
        return self.name in ("F32", "F16", "BF16")

    def file_bytes(self, rows, cols):
        return rows * (cols // self.unit) * self.unit_bytes

    def planes_bytes(self, rows, cols):
        """repack_bytes: whole stripes of 32 rows."""
        n, supers = blocks_of(cols), -(-blocks_of(cols) // 8)
        return -(-rows // 32) * 32 * (n * (self.chunks * self.chunk_bytes + self.high + self.scale) + supers * (self.supers + self.sixes))


def blocks_of(cols):
    return -(-cols // 32)


def read_types():
    units = {m[0]: (int(m[1]), int(m[2])) for m in re.findall(r"\[TENSOR_(\w+)\] = \{(\d+), (\d+)\}", source("engine/numerics/quant.h"))}
    layouts = re.findall(r"X\(DEVICE_(\w+), (\d+), (\d+), (\d+), (\d+), (\d+), (\d+)\)", source("engine/backend/cuda/layout.h"))
    return {name: Type(name, *units[name], *map(int, numbers)) for name, *numbers in layouts}


TYPES = read_types()


# ---- models ----

@dataclass(frozen=True)
class Model:
    key: str
    title: str
    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv: int
    head_dim: int
    vocab: int
    embed: str            # type of the embedding
    output: str           # of the vocabulary; the embedding itself where it is tied
    tied: bool
    plain: dict           # types of q, k, v, o, gate, up, down in most layers
    better: dict = field(default_factory=dict)  # in `n_better` layers instead
    n_better: int = 0
    window: int = 0       # of the layers that have one
    n_windowed: int = 0
    post_norms: bool = False
    biases: bool = False

    def kinds(self):
        """[(layers, types)]"""
        return [(n, t) for n, t in ((self.layers - self.n_better, self.plain), (self.n_better, {**self.plain, **self.better})) if n > 0]

    def tensors(self, types):
        q, kv = self.heads * self.head_dim, self.kv * self.head_dim
        return {"q": (types["q"], q, self.d_model), "k": (types["k"], kv, self.d_model), "v": (types["v"], kv, self.d_model),
                "o": (types["o"], self.d_model, q), "gate": (types["gate"], self.d_ff, self.d_model), "up": (types["up"], self.d_ff, self.d_model),
                "down": (types["down"], self.d_model, self.d_ff)}

    def matrices(self):
        """All that a step reads as weights: (count, type, rows, cols)."""
        out = [(1, self.output, self.vocab, self.d_model)]
        for n, types in self.kinds():
            out += [(n, *t) for t in self.tensors(types).values()]
        return out

    def step_bytes(self, planes=True):
        size = Type.planes_bytes if planes else Type.file_bytes
        return sum(n * size(TYPES[t], rows, cols) for n, t, rows, cols in self.matrices())

    def loaded_bytes(self):
        extra = 0 if self.tied else TYPES[self.embed].planes_bytes(self.vocab, self.d_model)
        return self.step_bytes() + extra

    def macs(self):
        """Multiplications of a row but for the vocabulary's."""
        return sum(n * rows * cols for n, _, rows, cols in self.matrices()[1:])

    def kv_bytes(self, positions=1):
        return positions * 2 * 2 * self.layers * self.kv * self.head_dim

    def seen(self, positions):
        """Positions that the layers' attention reads of so many, summed over layers."""
        full = self.layers - self.n_windowed
        return full * positions + self.n_windowed * (min(positions, self.window) if self.window else positions)


def all_of(kind):
    return dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), kind)


def small(kind, o, down):
    return {**all_of(kind), "o": o, "down": down}


MODELS = {m.key: m for m in (
    Model("smollm2", "SmolLM2-135M Q4_1", 30, 576, 1536, 9, 3, 64, 49152, "Q8_0", "Q8_0", True, all_of("Q4_1")),
    Model("8b", "8B Q4_K_M", 32, 4096, 14336, 32, 8, 128, 128256, "Q4_K", "Q6_K", False, all_of("Q4_K"), {"v": "Q6_K", "down": "Q6_K"}, 16),
    Model("70b", "70B Q4_K_M", 80, 8192, 28672, 64, 8, 128, 128256, "Q4_K", "Q6_K", False, {**all_of("Q4_K"), "v": "Q5_K"},
          {"v": "Q6_K", "down": "Q6_K"}, 40),
    # Of the models that this processor's steps were measured with.
    Model("qwen", "Qwen2.5-Coder-0.5B Q4_K_M", 24, 896, 4864, 14, 2, 64, 151936, "Q5_0", "Q8_0", False, small("Q5_0", "Q5_0", "Q4_K"),
          {"v": "Q8_0", "down": "Q6_K"}, 12, biases=True),
    Model("gemma", "Gemma 3 270M Q4_K_M", 18, 640, 2048, 4, 1, 256, 262144, "Q8_0", "Q8_0", True, small("Q5_0", "Q4_K", "Q4_K"),
          {"v": "Q8_0", "down": "Q6_K"}, 9, window=512, n_windowed=15, post_norms=True),
    Model("qwen-1.5b", "Qwen2.5-Coder-1.5B Q4_K_M", 28, 1536, 8960, 12, 2, 128, 151936, "Q4_K", "Q6_K", False, all_of("Q4_K"),
          {"v": "Q6_K", "down": "Q6_K"}, 14, biases=True),
)}
PAPER_MODELS = ("smollm2", "8b", "70b")


# ---- steps ----

@dataclass(frozen=True)
class Step:
    rows: int
    seqs: int
    context: int  # positions of each sequence before the step
    wanted: int   # rows whose scores are wanted

    @property
    def decode(self):
        return self.rows == self.seqs

    def per_seq(self):
        return self.rows // self.seqs

    def title(self):
        return f"{self.seqs} x {self.context}" if self.decode else f"prompt of {self.rows}"


def decode(streams, context):
    return Step(streams, streams, context, streams)


def prompt(rows):
    return Step(rows, 1, 0, 1)


def kv_read(model, step):
    """Bytes of pages that a step must read: each sequence's once, those of its own rows included."""
    per_position = 2 * 2 * model.kv * model.head_dim
    return per_position * model.seen(step.context + step.per_seq()) * step.seqs


def memory_bytes(model, step):
    """What a device must hold: weights, the pages of all sequences, and the buffers of a step."""
    pages = step.seqs * -(-(step.context + step.per_seq()) // PAGE)
    wide = max(model.d_ff, model.d_model, model.heads * model.head_dim)
    buffers = step.rows * (4 * (4 * model.d_model + 2 * wide) + 5 * 4 * wide) + min(step.wanted, 64) * 4 * model.vocab
    partials = pages * model.heads * 4 * (model.head_dim + SUM_FLOATS)
    return model.loaded_bytes() + pages * PAGE * model.kv_bytes() + partials + buffers


def fits(model, step, device):
    return memory_bytes(model, step) <= device.memory_gb * 1e9


# ---- launches ----

@dataclass
class Launch:
    op: str
    kernel: str
    count: int            # times in a step
    blocks: int
    warps: int            # of a block
    registers: int        # of a thread
    shared: int           # bytes of a block
    use: dict             # of a block: warp instructions by class; mma: MACs; shared: wavefronts
    clocks: float         # of a block alone, without the waits below
    dram_waits: float = 0 # loads from memory that follow each other
    l2_waits: float = 0
    l2_bytes: float = 0   # of a block
    weights: float = 0    # bytes from memory, of the launch: weights,
    pages: float = 0      # pages,
    moved: float = 0      # and what kernels hand each other
    flight: float = 0     # bytes that a warp has asked for at once

    def resident(self, d):
        registers = -(-self.registers // 8) * 8 * 32 * self.warps
        by_shared = d.shared_kb * 1024 // (self.shared + 1024)
        return max(1, min(d.threads // (32 * self.warps), d.blocks, d.registers // registers, by_shared))

    def busy(self, d):
        """Clocks of a block on each resource."""
        u = self.use
        return {"issue": sum(v for k, v in u.items() if k not in ("mma", "shared")) / d.issue,
                "int": 32 * u.get("int", 0) / d.int_lanes, "f32": 32 * u.get("f32", 0) / d.f32_lanes,
                "imad": 32 * u.get("imad", 0) / d.imad_lanes, "convert": 32 * u.get("convert", 0) / d.convert_lanes,
                "ls": 32 * u.get("ls", 0) / d.ls_lanes, "mma": u.get("mma", 0) / d.mma_macs, "shared": u.get("shared", 0)}

    def dram_bytes(self, d):
        return self.weights + self.pages + (self.moved if self.moved > d.l2_mb * 5e5 else 0)

    def times(self, d):
        """Microseconds: {resource: bound}, and what is expected of one launch without the gap before it."""
        busy = self.busy(d)
        bounds = {k: v * self.blocks / d.sms * d.clk_us for k, v in busy.items()}
        bounds["bytes"] = self.dram_bytes(d) / d.dram_gbps * 1e-3
        bounds["L2"] = self.l2_bytes * self.blocks / d.l2_gbps * 1e-3
        n = math.ceil(self.blocks / d.sms)
        first = (d.dram_clk if self.dram_waits else d.l2_clk) * d.clk_us
        crowded = max(max(busy.values()) * n * d.clk_us, bounds["bytes"], bounds["L2"]) + first
        alone = (self.clocks + self.dram_waits * d.dram_clk + self.l2_waits * d.l2_clk) * d.clk_us
        return bounds, max(crowded, math.ceil(n / self.resident(d)) * alone)


def bound_of(bounds):
    """The longest, and its name: bytes, mma, shared, L2, or issue for every class of instructions."""
    name = max(bounds, key=bounds.get)
    return bounds[name], name if name in ("bytes", "mma", "shared", "L2") else "issue"


@dataclass
class Timed:
    """Microseconds of a whole step."""
    us: float = 0
    bound_us: float = 0
    bytes: float = 0
    weights: float = 0
    pages: float = 0
    launches: int = 0
    by_bound: dict = field(default_factory=dict)


def time_step(launches, device):
    t = Timed()
    for launch in launches:
        bounds, us = launch.times(device)
        bound, name = bound_of(bounds)
        us += device.launch_us
        t.us += launch.count * us
        t.bound_us += launch.count * bound
        t.bytes += launch.count * launch.dram_bytes(device)
        t.weights += launch.count * launch.weights
        t.pages += launch.count * launch.pages
        t.launches += launch.count
        t.by_bound[name] = t.by_bound.get(name, 0) + launch.count * us
    return t


# ---- this processor ----

def cpu_parts(model, step, read_gbps, int8_gops, f32_gops, ports):
    """Seconds of a step by the same rule - an operation takes the longest of its bytes and its arithmetic - without and with the ports' share."""
    plain = shared = 0.0
    for i, (n, kind, rows, cols) in enumerate(model.matrices()):
        x = step.wanted if i == 0 else step.rows
        read = n * TYPES[kind].file_bytes(rows, cols) / (read_gbps * 1e9)
        arithmetic = 2.0 * n * x * rows * cols / (int8_gops * 1e9)
        plain += max(read, arithmetic)
        shared += max(read, arithmetic / ports[kind])
    seen = sum(model.seen(step.context + i + 1) for i in range(step.per_seq())) * step.seqs
    attend = max(kv_read(model, step) / (read_gbps * 1e9), 4.0 * seen * model.heads * model.head_dim / (f32_gops * 1e9))
    return plain + attend, shared + attend
