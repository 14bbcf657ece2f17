"""What the process may weigh: weights once while they load, and afterwards weights, KV pool, one group of scores, and little else."""
import json
import os
import re
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon import GEMMA, NEXTD, QWEN, SMOLLM2, clean_environment

MIB = 1 << 20
N_STREAMS = 32
GROUP_ROWS = 32  # rows of scores held at once


def peak_bytes(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) * 1024


def test_loading_takes_the_weights_once():
    # Twice would be some 980 MB. The peak of the whole process, pages of the file included.
    command = [str(NEXTD), "complete", "-m", str(QWEN), "-p", "Hello", "-n", "1", "--ctx", "256"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss * 1024 <= QWEN.stat().st_size + 128 * MIB


def stream(url, model, i):
    prompt = f"Number {i}. " + "Once upon a time there was a king. " * 8
    body = {"model": model, "prompt": prompt, "max_tokens": 24, "ignore_eos": True, "logprobs": 2, "echo": i % 8 == 0}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.load(answer)["usage"]["completion_tokens"]


@pytest.mark.parametrize(("model", "n_vocab"), [(SMOLLM2, 49152), (GEMMA, 262144)], ids=["smollm2", "gemma"])
def test_serving_takes_weights_pool_scores_and_little_more(start, model, n_vocab):
    d = start("--kv-tokens", "6144", "--max-seqs", "128", model=model)
    plan = re.search(r"weights (\d+) MiB; KV pool \d+ tokens, (\d+) MiB", d.log())
    weights, pool = (int(x) + 1 for x in plan.groups())
    with ThreadPoolExecutor(N_STREAMS) as streams:
        drawn = list(streams.map(lambda i: stream(d.url, d.model, i), range(N_STREAMS)))
    assert drawn == [24] * N_STREAMS
    assert weights * MIB <= model.stat().st_size * 1.03 + MIB
    assert peak_bytes(d.process.pid) <= (weights + pool + 60) * MIB + GROUP_ROWS * n_vocab * 4
