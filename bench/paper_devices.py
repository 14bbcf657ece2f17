"""paper_devices: what bench/paper.py knows of devices: one table of constants, each with its source.

Nothing here was measured by nextd, whose kernels have never run on a GPU. A source marked * was looked up in a public copy when the table was made;
the others are named by title and their figure is from memory. Rates are nominal peaks at the boost clock. What no document gives is an assumption and
says so. The CPU's constants are nextd's own measurements (docs/cpu.md).
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    key: str
    name: str
    sms: int
    ghz: float
    memory_gb: float
    dram_gbps: float
    dram_clk: int       # latency of a load from memory, unloaded
    l2_mb: float
    l2_gbps: float
    l2_clk: int
    mma_macs: int       # int8, mma.sync, a clock and SM
    f32_lanes: int      # add, mul, fma; a clock and SM, as all below
    int_lanes: int      # add, logic, shift
    imad_lanes: int     # integer multiply-add, dp4a
    convert_lanes: int  # between f16, integers and f32
    shared_kb: int      # of an SM
    threads: int        # resident on an SM
    blocks: int
    # The same for all three.
    issue: int = 4           # warp instructions
    ls_lanes: int = 32       # lanes of loads and stores
    shared_bytes: int = 128  # a wavefront
    shared_clk: int = 30
    registers: int = 65536
    launch_us: float = 1.0
    copy_gbps: float = 25.0

    @property
    def clk_us(self):
        return 1e-3 / self.ghz


A100 = Device("a100", "A100 SXM 80 GB", sms=108, ghz=1.41, memory_gb=80, dram_gbps=2039, dram_clk=466, l2_mb=40, l2_gbps=7219, l2_clk=262,
              mma_macs=2048, f32_lanes=64, int_lanes=64, imad_lanes=64, convert_lanes=16, shared_kb=164, threads=2048, blocks=32)
H200 = Device("h200", "H200 SXM", sms=132, ghz=1.83, memory_gb=141, dram_gbps=4800, dram_clk=479, l2_mb=50, l2_gbps=5700, l2_clk=262,
              mma_macs=2576, f32_lanes=128, int_lanes=64, imad_lanes=64, convert_lanes=64, shared_kb=228, threads=2048, blocks=32)
RTX4090 = Device("rtx4090", "RTX 4090", sms=128, ghz=2.52, memory_gb=24, dram_gbps=1008, dram_clk=542, l2_mb=72, l2_gbps=5000, l2_clk=273,
                 mma_macs=1024, f32_lanes=128, int_lanes=64, imad_lanes=64, convert_lanes=64, shared_kb=100, threads=1536, blocks=24)
DEVICES = (A100, H200, RTX4090)

GUIDE = "CUDA C++ Programming Guide, throughput of native arithmetic instructions"
HOPPER = "Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture (arXiv 2402.13499)"
# What, the field or a text, source.
SOURCES = (
    ("memory, GB", "memory_gb", "NVIDIA A100, H200 and RTX 4090 data sheets*"),
    ("bandwidth, GB/s", "dram_gbps", "NVIDIA A100, H200 and RTX 4090 data sheets*"),
    ("SMs", "sms", "deviceQuery of an A100* (108); NVIDIA H100 architecture white paper (132); Ada GPU architecture white paper* (128)"),
    ("clock, GHz", "ghz", "deviceQuery of an A100* (1.41); H200: 1,979 dense int8 TOPS / (132 x 8,192); RTX 4090 boost*"),
    ("second-level cache, MB", "l2_mb", "deviceQuery of an A100*; Hopper tuning guide; reviews of the RTX 4090*"),
    ("its bandwidth, GB/s", "l2_gbps", "A100 white paper, 5,120 B a clock; H100 (PCIe) and RTX 4090 as measured by Chips and Cheese, Nvidia's H100: "
                                       "Funny L2, and Tons of Bandwidth; Microbenchmarking Nvidia's RTX 4090"),
    ("its latency, clocks", "l2_clk", HOPPER),
    ("memory's latency, clocks", "dram_clk", HOPPER),
    ("int8 mma, MAC a clock and SM", "mma_macs", "A100 624 TOPS*, RTX 4090 660.6 TOPS*, dense, at the clock above; Hopper: 62.9 % of 4,096, what "
                                                 "mma.sync reaches by arXiv 2402.13499"),
    ("dp4a and multiply-add, lanes", "imad_lanes", "a public instruction microbenchmark* (IDP.4A and IMAD: 16 lanes a scheduler); " + GUIDE),
    ("f32 add, multiply, fma, lanes", "f32_lanes", GUIDE),
    ("integer add, logic, shift, lanes", "int_lanes", GUIDE),
    ("conversions, lanes", "convert_lanes", GUIDE),
    ("shared memory, KB of an SM", "shared_kb", "Ampere, Hopper and Ada tuning guides*"),
    ("threads of an SM", "threads", "Ampere, Hopper and Ada tuning guides*"),
    ("blocks of an SM", "blocks", "Ampere, Hopper and Ada tuning guides*"),
    ("registers of an SM", "registers", "Ampere, Hopper and Ada tuning guides*"),
    ("warp instructions a clock and SM", "issue", "four schedulers: the architecture white papers"),
    ("loads and stores, lanes", "ls_lanes", GUIDE + ": as many as banks"),
    ("shared memory, bytes a clock and SM", "shared_bytes", GUIDE + ": 32 banks of 4 bytes"),
    ("its latency, clocks", "shared_clk", HOPPER),
    ("from one node of a graph to the next, us", "launch_us", "assumed; NVIDIA's blog Getting Started with CUDA Graphs found 0.5 "
                                                              "between short kernels of a V100"),
    ("copies to the host, GB/s", "copy_gbps", "assumed: PCIe 4.0 x16, 32 GB/s nominal"),
)


@dataclass(frozen=True)
class Measured:
    """A step as docs/cpu.md has it: milliseconds, and the plain read of the same run."""
    rows: int
    seqs: int
    context: int  # positions before the step
    ms: float
    read_gbps: float


@dataclass(frozen=True)
class Cpu:
    """The processor of docs/cpu.md: two cores, AVX-512 VNNI."""
    int8_gops: float
    f32_gops: float
    steps: tuple


def steps(*rows):
    return tuple(Measured(*r) for r in rows)


CPU = {  # docs/cpu.md, the tables of 2026-11-24
    "smollm2": Cpu(1961, 498, steps((128, 1, 0, 35.0, 54), (512, 1, 0, 158, 54), (1, 1, 160, 2.0, 54), (8, 8, 160, 4.1, 55),
                                    (32, 32, 160, 16.0, 54))),
    "gemma": Cpu(1911, 485, steps((128, 1, 0, 36.5, 29), (512, 1, 0, 153, 36), (1, 1, 160, 6.8, 37), (8, 8, 160, 8.7, 37), (32, 32, 160, 22.7, 37))),
    "qwen": Cpu(1964, 485, steps((128, 1, 0, 99.3, 32), (512, 1, 0, 445, 33), (1, 1, 160, 12.1, 32), (8, 8, 160, 17.0, 33), (32, 32, 160, 42.7, 33))),
    "qwen-1.5b": Cpu(1961, 498, steps((128, 1, 0, 334, 32), (512, 1, 0, 1460, 32), (1, 1, 160, 31.9, 32), (8, 8, 160, 48.5, 32),
                                      (32, 32, 160, 118, 32))),
}
# Of the int8 peak that a block of 32 leaves where its scaling shares the ports: docs/cpu.md.
CPU_PORTS = {"Q8_0": 0.80, "Q5_0": 0.80, "Q4_1": 0.73, "Q4_K": 0.73, "Q6_K": 0.67}
