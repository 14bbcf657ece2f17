"""The real daemon on a GPU, which is emulated: what its clients get is what they get from the CPU, and a GPU that fails or will not do is said.

build/cuda-emulated/nextd is the daemon with the CUDA backend and, in place of CUDA's runtime, tests/cuda/emulator; EMULATOR_* makes it misbehave. The
CPU's answers are the truth: they are compared as bytes.
"""
import asyncio
import json
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from daemon import EMULATED, ROOT, SMOLLM2, TOY, Daemon, nextd
from test_load import WORDS, at_once, one_by_one, same
from test_load import request as load_request

POOL = ("--kv-tokens", "8192", "--max-seqs", "16", "--queue", "32")
TEXT = {"model": "", "prompt": "The lake lies between mountains. Most paper is", "max_tokens": 24}
CHAT = {"model": "", "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What is the Moon?"}],
        "max_tokens": 24}


@pytest.fixture(scope="module")
def cpu():
    with Daemon("--device", "cpu", *POOL, model=TOY) as d:
        yield d


@pytest.fixture(scope="module")
def gpu():
    with Daemon("--device", "cuda:0", *POOL, model=TOY, binary=EMULATED) as d:
        yield d


def text(more=None, **fields):
    return {**TEXT, "seed": 4, **fields, "extra_body": {"ignore_eos": True, **(more or {})}}


REQUESTS = {
    "greedy": text(temperature=0),
    "seeded": text(temperature=1.0, seed=11),
    "truncated": text({"top_k": 20, "min_p": 0.02}, temperature=0.8, top_p=0.9),
    "penalties": text({"repetition_penalty": 1.2}, temperature=0.7, frequency_penalty=0.7, presence_penalty=0.4),
    "bias": text(temperature=1.0, logit_bias={"300": 4, "290": -100}),
    "choices": text(temperature=1.3, n=3, logprobs=2, prompt=[TEXT["prompt"], "Water boils at"]),
    "scored": text(temperature=0, logprobs=5, echo=True),
    "stopped": text(temperature=1.0, seed=9, stop=["e", " t"]),
    "chat": {**CHAT, "temperature": 0, "seed": 4},
    "chat seeded": {**CHAT, "temperature": 0.9, "seed": 3, "logprobs": True, "top_logprobs": 4},
}


def ask(daemon, body):
    """The answer's bytes, but for its id and time."""
    c = daemon.client()
    answer = (c.chat.completions if "messages" in body else c.completions).with_raw_response.create(**body)
    lines = json.dumps(json.loads(answer.text), indent=1, sort_keys=True).splitlines()
    return [line for line in lines if '"id": ' not in line and '"created": ' not in line]


def ask_stream(daemon, body):
    """Per choice: text, log-probabilities, how it ended; how a text is cut into events is a matter of time."""
    c = daemon.client()
    choices = {}
    for event in (c.chat.completions if "messages" in body else c.completions).create(**body, stream=True):
        for e in event.choices:
            text, logprobs, finish = choices.setdefault(e.index, ([], [], []))
            text.append((e.delta.content or "") if "messages" in body else e.text)
            logprobs.append([t.model_dump() for t in e.logprobs.content] if e.logprobs and "messages" in body else
                            list(zip(e.logprobs.tokens, e.logprobs.token_logprobs, e.logprobs.top_logprobs)) if e.logprobs else [])
            finish.append(e.finish_reason)
    return {i: ("".join(t), sum(p, []), [f for f in finish if f]) for i, (t, p, finish) in choices.items()}


def test_the_build_knows_gpus_and_one_without_a_compiler_says_so_once():
    said = nextd("complete", "-m", TOY, "-p", "x", "--device", "cuda:99").stderr.decode()
    assert "cuda:99" in said and "this build has" not in said  # scripts/get-cuda
    command = ["make", "-n", "NVCC=", "BUILD=build/cpu-alone", "build/cpu-alone/nextd"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert plan.count("nextd is built for the CPU alone") == 1 and "cudart" not in plan and "-o build/cpu-alone/nextd" in plan


def test_it_says_where_it_computes(gpu):
    assert "plan: cuda:0, " in gpu.log()
    assert re.search(r"decode graphs: [1-9][0-9]* of [1-9][0-9]* launches, captured in [0-9]+ ms, [0-9.]+ MiB", gpu.log())
    assert gpu.get("/version").json()["device"] == "cuda:0"


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_the_cpus_to_the_byte(cpu, gpu, name):
    want = ask(cpu, REQUESTS[name])
    assert ask(gpu, REQUESTS[name]) == want
    assert ask(gpu, REQUESTS[name])[:-12] == want[:-12]  # from the prefix cache; usage, at the end, counts what came from there


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_is_the_cpus_to_the_byte(cpu, gpu, name):
    want = ask_stream(cpu, REQUESTS[name])
    assert want and all(len(finish) == 1 for _, _, finish in want.values())
    assert ask_stream(gpu, REQUESTS[name]) == want


def test_many_at_once_get_the_bytes_of_the_cpus_lone_runs(cpu, gpu):
    bodies = [load_request(i, max_tokens=12) for i in range(9)]
    for got, want in zip(asyncio.run(at_once(gpu.url, bodies)), asyncio.run(one_by_one(cpu.url, bodies))):
        same(got, want)


@pytest.mark.parametrize("schedule", ["reverse", "random:5"])
def test_a_small_pool_and_another_order_of_threads_change_nothing(cpu, start, schedule):
    """Eight pages for six sequences of three: preemption must happen."""
    options = ("--device", "cuda:0", "--kv-tokens", 512, "--max-seqs", 6, "--queue", 16)
    d = start(*options, model=TOY, binary=EMULATED, env={"EMULATOR_SCHEDULE": schedule})
    bodies = [{**load_request(i, max_tokens=110), "prompt": " ".join(WORDS[i:i + 8]), "ignore_eos": True} for i in range(6)]
    together = asyncio.run(at_once(d.url, bodies))
    assert d.metric("num_preemptions_total") > 0
    for got, want in zip(together, asyncio.run(one_by_one(cpu.url, bodies))):
        same(got, want)


def test_a_real_model_answers_as_the_cpu_does(start):
    body = {"model": "", "prompt": "The capital of France is", "max_tokens": 3, "temperature": 0, "seed": 1, "logprobs": 5}
    options = ("--kv-tokens", 256, "--max-seqs", 2)
    want = ask(start("--device", "cpu", *options, model=SMOLLM2), body)
    d = start("--device", "cuda:0", *options, model=SMOLLM2, binary=EMULATED)
    assert ask(d, body) == want
    assert "Paris" in "".join(want)


# ---- a GPU that fails ----

def end_of(call):
    """What a client hears of a request: the text so far, and the error or the reason of its end."""
    text = ""
    try:
        for event in call():
            text += event.choices[0].text
            if event.choices[0].finish_reason is not None:
                return text, event.choices[0].finish_reason
    except openai.APIError as e:
        return text, e
    return text, None


@pytest.mark.parametrize("n", [1501, 4000])
def test_a_fault_while_serving_ends_every_request_and_the_daemon(cpu, start, n):
    """Streams and plain requests, running and waiting: each hears the sentence once, and what was streamed before is the CPU's."""
    options = ("--device", "cuda:0", "--kv-tokens", 16384, "--max-seqs", 3, "--queue", 16)
    d = start(*options, model=TOY, binary=EMULATED, env={"EMULATOR_FAULT_AT": str(n)})
    # Eight times 900 tokens are more than any of these numbers of launches lets pass.
    bodies = [{**TEXT, "prompt": f"{WORDS[i]} {WORDS[i + 3]}", "max_tokens": 900, "temperature": i % 2, "seed": i, "stream": i % 3 != 2,
               "extra_body": {"ignore_eos": True}} for i in range(8)]

    def run(body):
        c = d.client().completions
        return end_of(lambda: c.create(**body) if body["stream"] else iter([c.create(**body)]))

    with ThreadPoolExecutor(len(bodies)) as threads:
        ends = list(threads.map(run, bodies))
    assert d.process.wait(30) == 1
    for body, (text, end) in zip(bodies, ends):
        assert isinstance(end, openai.APIError) and "device cuda:0 failed while computing a step: illegal memory access" in str(end), (body, end)
        if text:
            whole = cpu.client().completions.create(**{**body, "stream": False}).choices[0].text
            assert whole.startswith(text)
    assert sum(text != "" for text, _ in ends) >= 2  # of three that ran, two were streams
    assert "ended with status 1" in d.log()


def complete(n, **env):
    return nextd("complete", "-m", TOY, "-p", "Water boils", "-n", 3, "--ignore-eos", "--ctx", 256, "--device", "cuda:0", binary=EMULATED,
                 env={k: str(v) for k, v in env.items()} | ({n[0]: str(n[1])} if n else {}))


@pytest.mark.parametrize("what", ["EMULATOR_FAULT_AT", "EMULATOR_FAIL_MALLOC_AT"])
def test_wherever_the_device_fails_a_sentence_says_so(what):
    """Each operation and each allocation in turn, from the first to the last, through loading, prompt and tokens."""
    whole = complete(None)
    assert whole.returncode == 0, whole.stderr
    n = failures = 0
    while True:
        n += 1 if what != "EMULATOR_FAULT_AT" or n < 40 else 7
        r = complete((what, n))
        if r.returncode == 0:
            break
        said = r.stderr.decode()
        assert r.returncode == 1, (n, said)
        assert "cuda:0" in said and ("illegal memory access" in said if what == "EMULATOR_FAULT_AT" else "MiB" in said), (n, said)
        assert whole.stdout.startswith(r.stdout.rstrip(b"\n"))
        failures += 1
    assert r.stdout == whole.stdout
    assert failures >= (20 if what == "EMULATOR_FAULT_AT" else 8), failures


def test_a_damaged_model_is_told_in_the_cpus_words(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(TOY.read_bytes()[:-68] + b"\xff" * 68)  # NaN, in whatever the file ends with
    said = {}
    for device in "cpu", "cuda:0":
        r = nextd("complete", "-m", damaged, "-p", "Hello", "-n", 2, "--device", device, binary=EMULATED)
        assert r.returncode == 1
        said[device] = r.stderr
    assert b"not finite" in said["cpu"] and said["cuda:0"] == said["cpu"]


# ---- a GPU that will not do ----

UNFIT = {
    "old driver": ({"EMULATOR_DRIVER": "11040"}, "the NVIDIA driver supports CUDA 11.4; this build needs 11.8 or newer"),
    "no driver": ({"EMULATOR_DRIVER": "0"}, "there is no NVIDIA driver"),
    "no GPU": ({"EMULATOR_DEVICES": "0"}, "there is no GPU"),
    "old GPU": ({"EMULATOR_CAPABILITY": "75"}, "device cuda:0 has compute capability 7.5; nextd needs 8.0 or newer"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_gpu_that_will_not_do_is_refused_by_name_and_left_out_by_auto(cpu, start, name):
    env, sentence = UNFIT[name]
    d = start("--device", "cuda:0", *POOL, model=TOY, binary=EMULATED, env=env, wait=False)
    assert d.process.wait(30) == 1
    assert sentence in d.log()
    d = start(*POOL, model=TOY, binary=EMULATED, env=env)
    assert "device auto: " in d.log() and sentence in d.log() and "the CPU computes" in d.log()
    assert d.get("/version").json()["device"].startswith("cpu")
    assert ask(d, REQUESTS["greedy"]) == ask(cpu, REQUESTS["greedy"])


def test_a_gpu_that_is_not_there_is_said_with_those_that_are(start):
    d = start("--device", "cuda:3", model=TOY, binary=EMULATED, wait=False, env={"EMULATOR_DEVICES": "2"})
    assert d.process.wait(30) == 1
    assert "cuda:3" in d.log() and "the last one is cuda:1" in d.log()


def test_auto_takes_the_gpu_and_its_last_one_when_asked(start):
    assert start(*POOL, model=TOY, binary=EMULATED).get("/version").json()["device"] == "cuda:0"
    d = start("--device", "cuda:1", *POOL, model=TOY, binary=EMULATED, env={"EMULATOR_DEVICES": "2"})
    assert d.get("/version").json()["device"] == "cuda:1"


# ---- memory ----

def test_weights_that_do_not_fit_are_said_with_numbers_and_left_to_the_cpu_by_auto(start):
    d = start("--device", "cuda:0", model=SMOLLM2, binary=EMULATED, wait=False, env={"EMULATOR_MEMORY": "90"})
    assert d.process.wait(60) == 1
    assert "MiB free" in d.log() and "need" in d.log()
    d = start("--kv-tokens", 1024, model=SMOLLM2, binary=EMULATED, env={"EMULATOR_MEMORY": "90"})
    assert "the CPU computes" in d.log()


def test_the_pool_takes_what_the_gpu_has_free(start):
    tokens = []
    for mib in 24, 48:
        d = start("--device", "cuda:0", model=TOY, binary=EMULATED, env={"EMULATOR_MEMORY": str(mib)})
        tokens.append(int(d.log().split("KV pool ")[1].split(" tokens")[0]))
        assert ask(d, REQUESTS["greedy"])
        assert d.stop(signal.SIGTERM) == 0
    assert 0 < tokens[0] < tokens[1]
    assert tokens[1] * 256 > (48 << 20) * 0.6
