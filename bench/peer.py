"""peer: llama.cpp beside us: built once from the source package that the tests' vectors come from, then asked for one figure at a time.

Its own measuring programs are used as they are: llama-bench for prompts, llama-batched-bench for streams. Each call is a process of its own that
loads the model and warms up before it measures, so nothing of an earlier turn is left in it. Streams share the computation of their prompt (-pps),
not its KV cells: those are copied, as ours are; only the time of the steps after it is taken.
"""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from servers import ROOT, say

CACHE = Path(os.environ.get("NEXTD_CACHE") or Path.home() / ".cache" / "nextd")
PACKAGE = "llama-cpp-python 0.3.36"
SOURCE = CACHE / PACKAGE.replace(" ", "-") / "vendor" / "llama.cpp"
BUILD = CACHE / "llama.cpp-build"
PROGRAMS = ["llama-server", "llama-bench", "llama-batched-bench"]
FLAGS = ["-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DCMAKE_BUILD_TYPE=Release"]
NATIVE = ["-DGGML_NATIVE=ON"]
# Some virtual machines advertise AMX and do not let a process use it; a native build dies there by its first tile instruction.
NO_AMX = ["-DGGML_NATIVE=OFF"] + [f"-DGGML_{x}=ON" for x in (
    "SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C", "AVX_VNNI", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16")]
CELLS = 256     # llama.cpp rounds the room of a stream up to these
LIMIT_S = 600   # of one call; ten times what the slowest takes where nobody disturbs it


def build(amx):
    """The directory of its programs, in the cache; nothing of it enters the tree."""
    where = BUILD if amx else BUILD.with_name(BUILD.name + "-no-amx")
    if not all((where / "bin" / p).exists() for p in PROGRAMS):
        say("building llama.cpp in the cache (about 6 minutes on 2 cores)")
        subprocess.run([ROOT / "scripts" / "get-model", "vectors"], check=True)
        subprocess.run(["cmake", "-S", SOURCE, "-B", where, *FLAGS, *(NATIVE if amx else NO_AMX)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", where, "--target", *PROGRAMS, "-j", str(os.cpu_count())], check=True, stdout=subprocess.DEVNULL)
    return where / "bin"


def version(programs):
    """A build outside a repository knows no commit; then the package that its source came from has to do."""
    r = subprocess.run([programs / "llama-server", "--version"], capture_output=True, text=True, check=False)
    m = re.search(r"commit ([0-9a-f]+)", r.stdout + r.stderr)
    return f"llama.cpp {m.group(1)} of {PACKAGE}" if m else f"llama.cpp of {PACKAGE}"


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def call(command):
    try:
        r = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{Path(command[0]).name} did not end in {LIMIT_S} s")
    results = json_lines(r.stdout)
    if r.returncode != 0 or not results:
        sys.exit(f"{Path(command[0]).name} failed:\n{r.stderr[-2000:]}")
    return results


def prefill(programs, model, threads, lengths):
    """{length: tokens/s}"""
    got = call([programs / "llama-bench", "-m", model, "-t", threads, "-p", ",".join(map(str, lengths)), "-n", 0, "-r", 1, "-o", "jsonl"])
    return {r["n_prompt"]: r["avg_ts"] for r in got}


def decode(programs, model, threads, n_streams, context, steps):
    """tokens/s of n_streams streams, `steps` steps after a prompt of `context` tokens"""
    room = -(-(context + steps) // CELLS) * CELLS
    got = call([programs / "llama-batched-bench", "-m", model, "-t", threads, "-c", n_streams * room, "-npp", context, "-ntg", steps,
                "-npl", n_streams, "-pps", "--output-format", "jsonl"])
    return got[-1]["speed_tg"]
