"""The load client and its twin without HTTP: counts, never times. Both take the same requests, so the same pieces of text have to come."""
import json
import subprocess
from pathlib import Path

import pytest

from daemon import SMOLLM2

ROOT = Path(__file__).resolve().parents[2]
CHUNK, LONG = 64, 640
WORKLOAD = ["--streams", 4, "--prefix-words", 40, "--tokens", 40, "--long", 1, "--long-prompt", LONG, "--long-tokens", 3, "--long-every", 20]


@pytest.fixture(scope="module")
def tools():
    subprocess.run(["make", "-s", "bench-tools"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return ROOT / "build" / "bench"


def report(*words, stdin=""):
    r = subprocess.run([str(w) for w in words], input=stdin, capture_output=True, text=True, check=False)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def test_a_long_prompt_costs_the_others_one_chunk_between_two_texts(start, tools):
    d = start("--chunk", CHUNK, "--kv-tokens", 4096)
    r = report(tools / "load", "--port", d.port, "--pid", d.process.pid, *WORKLOAD, "--seed", 5)
    assert (r["streams"], r["tokens"], r["ttft_ms"]["n"], r["long_ttft_ms"]["n"]) == (4, 4 * 40 + 3, 4, 1)
    assert r["engine_cpu_s"] > 0 and r["other_cpu_s"] > 0
    # A step that reads a chunk gives each stream its token: as many gaps as chunks overlap the reading, or some gap held two.
    assert r["crowded_gap_ms"]["n"] >= 4 * (LONG // CHUNK)
    alone = report(tools / "engine_load", "--model", SMOLLM2, "--chunk", CHUNK, "--kv-tokens", 4096, *WORKLOAD, stdin="5\n")
    assert (alone["tokens"], alone["events"]) == (r["tokens"], r["events"])


def test_a_refusal_is_told(start, tools):
    d = start("--ctx", 64, "--kv-tokens", 512)
    r = subprocess.run([tools / "load", "--port", str(d.port), "--prompt", "100"], capture_output=True, text=True, check=False)
    assert r.returncode == 1
    assert "400" in r.stderr
