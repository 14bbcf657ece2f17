"""plans: what is measured of each model, and what is to be reached.

The goals are ratios to llama.cpp and fractions of a plain read of the weights, both within one run on one machine. Steps and repetitions are chosen
so that a turn of the slower side takes a few seconds: enough to measure, little enough that the machine stays the same from turn to turn.
"""
from dataclasses import dataclass, field

PREFILL = [128, 512]
STREAMS = [1, 8, 32]
CONTEXT = 128                                        # positions that each stream holds before its steps are timed
CURVE_STREAMS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
CURVE_CONTEXT = [128, 256, 512, 1024, 2048, 4096, 8192]
CURVE_STEPS = 16                                     # decoded at each context
BESIDE_PEER = ("1 stream", "8 streams", "32 streams")
FAST_READ_GBPS = 60                                  # above it, a goal may be lower: overheads weigh more


@dataclass
class Plan:
    title: str
    file: str
    goals: dict                # case -> ratio to llama.cpp, at least
    read_goal: float = 0       # fraction of a plain read at 1 stream, at least; 0: none
    fast_read_goal: float = 0  # the same where that read exceeds FAST_READ_GBPS; 0: read_goal
    reps: dict = field(default_factory=lambda: {128: 6, 512: 2})         # our prompts of a turn
    steps: dict = field(default_factory=lambda: {1: 64, 8: 64, 32: 32})  # by streams, both sides
    curve_reps: int = 3
    startup: bool = False
    # Rounds of serving.py: cases, and whether llama-server takes part.
    http: tuple = ((BESIDE_PEER, True), (("128 streams",), False))
    http_tokens: int = 48
    http_pairs: int = 3        # at most

    def goal_of_read(self, gbps):
        return self.fast_read_goal if self.fast_read_goal and gbps > FAST_READ_GBPS else self.read_goal


def goals(prefill, one, eight, many):
    return {"prefill 128": prefill, "prefill 512": prefill, "1 stream": one, "8 streams": eight, "32 streams": many}


PLANS = {
    "smollm2": Plan("SmolLM2-135M Q4_1", "smollm2-135m-instruct-q4_1.gguf", goals(8, 2.5, 7, 6), read_goal=0.75, fast_read_goal=0.70, startup=True,
                    http=((BESIDE_PEER, True), (("128 streams", "prefix", "mixed", "arrival"), False)), http_tokens=64),
    "qwen": Plan("Qwen2.5-Coder-0.5B Q4_K_M", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", goals(4, 1.8, 4, 5), reps={128: 4, 512: 1},
                 steps={1: 48, 8: 32, 32: 24}, curve_reps=2),
    "gemma": Plan("Gemma 3 270M Q4_K_M", "gemma-3-270m-q4_k_m.gguf", goals(4, 1.8, 4, 5)),
    "qwen-1.5b": Plan("Qwen2.5-Coder-1.5B Q4_K_M", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", goals(1.8, 1, 3, 3), read_goal=0.85,
                      reps={128: 2, 512: 1}, steps={1: 32, 8: 16, 32: 12}, curve_reps=1, http=((BESIDE_PEER, True),), http_tokens=24),
}


def case_of_streams(n):
    return f"{n} stream{'s' if n > 1 else ''}"
