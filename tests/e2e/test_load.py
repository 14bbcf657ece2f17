"""Many clients at once: nobody's bytes change, nobody waits for ever, nothing leaks, and too much is refused in words.

The lone run of a request is the truth: what a client gets under load is compared with what it got alone, text and log-probabilities, byte for byte.
"""
import asyncio
import json
import signal
import socket
import time

import httpx
import openai
import pytest

WORDS = "the river runs past old stone houses while nobody counts hours and every evening brings some new song to those who wait".split()


def prompt(i):
    """Different beginnings and lengths, from a few tokens to several pages."""
    return " ".join(WORDS[(i * 7 + k * (i + 3)) % len(WORDS)] for k in range(5 + 11 * (i % 16)))


def request(i, max_tokens=24):
    body = {"model": None, "prompt": prompt(i), "max_tokens": max_tokens, "logprobs": 2, "seed": 1000 + i, "temperature": 0.0}
    if i % 2:
        body["temperature"] = 0.9
    if i % 5 == 3:
        body.update(frequency_penalty=0.5, presence_penalty=0.2)
    return body


async def stream(http, url, body, until=None):
    """Sends a streamed completion; returns (text, log-probabilities, finish reason, usage). `until` pieces: leaves in the middle."""
    text, logprobs, finish, usage, n = "", [], None, None, 0
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    body.pop("model", None)
    async with http.stream("POST", url + "/v1/completions", json=body) as r:
        if r.status_code != 200:
            return r.status_code, r.headers, (await r.aread()).decode()
        async for line in r.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return text, logprobs, finish, usage
            event = json.loads(line[6:])
            assert "error" not in event, event
            usage = event.get("usage") or usage
            for c in event["choices"]:
                text += c["text"]
                finish = c["finish_reason"] or finish
                logprobs += list(zip(c["logprobs"]["tokens"], c["logprobs"]["token_logprobs"])) if c.get("logprobs") else []
            n += 1
            if until is not None and n >= until:
                return None
    raise AssertionError("the stream ended without [DONE]")


def post_head(data):
    return (b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data))


def client():
    return httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=200))


async def one_by_one(url, bodies):
    async with client() as http:
        return [await stream(http, url, b) for b in bodies]


async def at_once(url, bodies):
    async with client() as http:
        return await asyncio.gather(*(stream(http, url, b) for b in bodies))


def same(got, want):
    """Text, log-probabilities and finish reason; usage too but for what came from the cache."""
    assert got[0] == want[0]
    assert got[1] == want[1]
    assert got[2] == want[2]
    assert got[3]["completion_tokens"] == want[3]["completion_tokens"]


def test_32_streams_get_the_bytes_of_their_lone_runs(smollm2):
    bodies = [request(i) for i in range(32)]
    alone = asyncio.run(one_by_one(smollm2.url, bodies))
    together = asyncio.run(at_once(smollm2.url, bodies))
    for got, want in zip(together, alone):
        assert want[3]["completion_tokens"] > 0
        same(got, want)


def test_clients_that_leave_free_everything_and_change_nobody(smollm2):
    body = request(2, max_tokens=60)
    alone = asyncio.run(one_by_one(smollm2.url, [body]))[0]

    async def mixed():
        async with client() as http:
            leavers = [stream(http, smollm2.url, request(40 + i, max_tokens=300), until=1 + i % 5) for i in range(16)]
            results = await asyncio.gather(stream(http, smollm2.url, body), *leavers)
        return results[0]

    same(asyncio.run(mixed()), alone)
    smollm2.wait_metric("num_requests_running", 0)
    smollm2.wait_metric("num_requests_waiting", 0)
    # A reset instead of a close, before the first byte of the answer.
    for i in range(8):
        s = smollm2.connect()
        data = json.dumps({"prompt": prompt(i), "max_tokens": 500, "ignore_eos": True}).encode()
        s.sendall(post_head(data) + data)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    smollm2.wait_metric("num_requests_running", 0)
    same(asyncio.run(one_by_one(smollm2.url, [body]))[0], alone)


def test_what_the_queue_cannot_hold_is_429_with_retry_after(start):
    d = start("--max-seqs", 2, "--queue", 2, "--kv-tokens", 4096)
    bodies = [{**request(i, max_tokens=200), "ignore_eos": True} for i in range(12)]
    results = asyncio.run(at_once(d.url, bodies))
    refused = [r for r in results if r[0] == 429]
    served = [r for r in results if r[0] != 429]
    assert len(served) >= 4 and len(refused) >= 1 and len(served) + len(refused) == 12
    for status, headers, text in refused:
        assert int(headers["retry-after"]) >= 1
        error = json.loads(text)["error"]
        assert error["message"] and error["type"]
    for r in served:
        assert r[3]["completion_tokens"] == 200
    # The official client sees its own exception, and a place is free again.
    d.wait_metric("num_requests_running", 0)
    assert d.client().completions.create(model=d.model, prompt="Hello", max_tokens=3).usage.completion_tokens == 3


def test_overcommit_finishes_everybody_with_the_bytes_of_the_lone_run(start):
    """A pool of 1536 positions, 8 sequences of 400 tokens at a time, 16 in all: preemption must happen, and must not show."""
    d = start("--kv-tokens", 1536, "--max-seqs", 8, "--queue", 64)
    bodies = [{**request(i, max_tokens=400), "prompt": " ".join(WORDS[i % 7:i % 7 + 10]) + f" {i}", "ignore_eos": True} for i in range(16)]
    alone = asyncio.run(one_by_one(d.url, bodies))
    assert d.metric("num_preemptions_total") == 0
    together = asyncio.run(at_once(d.url, bodies))
    assert d.metric("num_preemptions_total") > 0
    for got, want in zip(together, alone):
        assert got[3]["completion_tokens"] == 400 and got[2] == "length"
        same(got, want)


def send_stream(daemon, body, receive_buffer):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    s.settimeout(60)
    s.connect(("127.0.0.1", daemon.port))
    data = json.dumps({**body, "stream": True}).encode()
    s.sendall(post_head(data) + data)
    return s


def test_readers_that_stop_reading_are_cancelled_and_hold_up_nobody(start):
    d = start("--write-stall-s", 3, "--max-seqs", 8, "--kv-tokens", 16384)
    body = request(3, max_tokens=40)
    alone = asyncio.run(one_by_one(d.url, [body]))[0]
    # 5 log-probabilities a token: enough bytes to fill the sockets' buffers long before the tokens run out.
    stuck = [send_stream(d, {"prompt": prompt(i), "max_tokens": 3000, "ignore_eos": True, "logprobs": 5}, 2048) for i in range(3)]
    d.wait_metric("num_requests_running", 3)
    begun = time.monotonic()
    same(asyncio.run(one_by_one(d.url, [body]))[0], alone)
    assert time.monotonic() - begun < 60
    d.wait_metric("num_requests_running", 0, timeout=120)
    for s in stuck:
        s.close()
    same(asyncio.run(one_by_one(d.url, [body]))[0], alone)


def test_sigterm_lets_streams_finish_and_takes_no_more(start):
    d = start("--drain-timeout-s", 60)
    bodies = [{**request(i, max_tokens=150), "ignore_eos": True} for i in range(4)]

    async def drained():
        async with client() as http:
            tasks = [asyncio.create_task(stream(http, d.url, b)) for b in bodies]
            while d.metric("num_requests_running") != 4:
                await asyncio.sleep(0.01)
            d.process.send_signal(signal.SIGTERM)
            # Whether the connection is refused or answered with 503 depends on the moment; served it must not be.
            await asyncio.sleep(0.2)
            try:
                r = await http.post(d.url + "/v1/completions", json={"prompt": "late", "max_tokens": 1})
                late = r.status_code
            except httpx.TransportError:
                late = 503
            return late, await asyncio.gather(*tasks)

    late, results = asyncio.run(drained())
    assert late == 503
    assert [r[3]["completion_tokens"] for r in results] == [150] * 4
    assert d.stop() == 0


def test_streams_that_outlast_the_drain_get_their_terminal_event(start):
    d = start("--drain-timeout-s", 1, "--kv-tokens", 16384)

    async def cut():
        async with client() as http:
            body = {"prompt": prompt(1), "max_tokens": 6000, "ignore_eos": True, "stream": True}
            async with http.stream("POST", d.url + "/v1/completions", json=body) as r:
                lines = []
                async for line in r.aiter_lines():
                    if not lines:
                        d.process.send_signal(signal.SIGTERM)
                    lines += [line] if line else []
                return lines

    lines = [x for x in asyncio.run(cut()) if x.startswith("data: ")]
    # It ends by an event that says so: an error, or a finish reason; not by silence.
    ends = [json.loads(x[6:]) for x in lines if x != "data: [DONE]"]
    assert "error" in ends[-1] or any(c["finish_reason"] for e in ends[-2:] for c in e.get("choices", []))
    assert d.stop() == 0


def test_cancelled_official_client_streams_free_their_sequences(smollm2):
    with smollm2.client() as c:
        for i in range(4):
            with c.completions.create(model=smollm2.model, prompt=prompt(i), max_tokens=400, stream=True, extra_body={"ignore_eos": True}) as s:
                next(iter(s))
    smollm2.wait_metric("num_requests_running", 0)


def test_the_official_client_raises_its_own_error_for_429(start):
    d = start("--max-seqs", 1, "--queue", 1, "--kv-tokens", 4096)

    async def run():
        async with d.async_client() as c:
            jobs = [c.completions.create(model=d.model, prompt=prompt(i), max_tokens=150, extra_body={"ignore_eos": True}) for i in range(6)]
            return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(run())
    errors = [r for r in results if isinstance(r, Exception)]
    assert errors and all(isinstance(e, openai.RateLimitError) for e in errors)
    assert all(r.usage.completion_tokens == 150 for r in results if not isinstance(r, Exception))


@pytest.mark.parametrize("n", [1, 3])
def test_n_choices_equal_themselves_alone_and_under_load(smollm2, n):
    """Choices of one request, streamed, while others run: each choice's text is that of the quiet run."""
    body = {"prompt": prompt(5), "n": n, "max_tokens": 20, "seed": 5, "temperature": 1.0}
    quiet = [c["text"] for c in smollm2.post("/v1/completions", body).json()["choices"]]

    async def loud():
        async with client() as http:
            others = [stream(http, smollm2.url, request(60 + i, max_tokens=40)) for i in range(8)]
            answer, *_ = await asyncio.gather(http.post(smollm2.url + "/v1/completions", json=body), *others)
            return [c["text"] for c in answer.json()["choices"]]

    assert asyncio.run(loud()) == quiet
    assert len(quiet) == n
