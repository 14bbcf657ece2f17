"""Streams: the order of events, the same text as without streaming, errors before and after the first byte, comments, and connections that go on."""
import asyncio
import http.client
import json
import threading

import httpx
import openai
import pytest

CHAT = {"model": "", "messages": [{"role": "user", "content": "Count from one to ten in words, with an emoji \U0001f600 and an umlaut ü."}],
        "max_tokens": 40, "temperature": 0.9, "seed": 4}
TEXT = {"model": "", "prompt": "The three primary colours are", "max_tokens": 24, "temperature": 0.9, "seed": 4}


def events(daemon, path, body, client=None):
    """All events of a raw stream, [DONE] included as None."""
    with (client or httpx).stream("POST", daemon.url + path, json={**body, "stream": True}, timeout=120) as r:
        assert r.status_code == 200, r.read()
        assert r.headers["content-type"].startswith("text/event-stream")
        assert r.headers["cache-control"] == "no-cache"
        return [None if line == "data: [DONE]" else json.loads(line[6:]) for line in r.iter_lines() if line.startswith("data: ")]


def test_chat_events_come_in_order(smollm2):
    e = events(smollm2, "/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
    assert e[-1] is None and None not in e[:-1]
    first, *texts, finish, usage = e[:-1]
    assert first["choices"][0]["delta"]["role"] == "assistant" and first["choices"][0]["delta"]["content"] == ""
    for t in texts:
        assert t["choices"][0]["delta"]["content"] != "" and "role" not in t["choices"][0]["delta"]
        assert t["choices"][0]["finish_reason"] is None and t["usage"] is None
    assert finish["choices"][0]["finish_reason"] in ("stop", "length") and finish["choices"][0]["delta"] == {}
    assert finish["seed"] == 4
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0
    assert len({x["id"] for x in e[:-1]}) == 1 and {x["object"] for x in e[:-1]} == {"chat.completion.chunk"}
    assert "usage" not in events(smollm2, "/v1/chat/completions", CHAT)[0]


def test_streamed_text_is_the_whole_text(smollm2):
    c = smollm2.client()
    whole = c.chat.completions.create(**CHAT).choices[0].message.content
    pieces = [x.choices[0].delta.content or "" for x in c.chat.completions.create(**CHAT, stream=True)]
    assert "".join(pieces) == whole and len(pieces) > 5
    whole = c.completions.create(**TEXT).choices[0].text
    assert "".join(x.choices[0].text for x in c.completions.create(**TEXT, stream=True)) == whole


def test_streamed_logprobs_are_the_whole_logprobs(smollm2):
    c = smollm2.client()
    whole = c.completions.create(**TEXT, logprobs=3, echo=True).choices[0].logprobs
    parts = [x.choices[0].logprobs for x in c.completions.create(**TEXT, logprobs=3, echo=True, stream=True) if x.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert sum((getattr(p, name) for p in parts), []) == getattr(whole, name), name
    whole = c.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    parts = [x.choices[0].logprobs for x in c.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, stream=True)]
    assert sum((p.content for p in parts if p), []) == whole


def test_choices_of_a_stream_bear_their_index(smollm2):
    args = {**TEXT, "n": 3, "prompt": [TEXT["prompt"], "Two plus two is"]}
    c = smollm2.client()
    whole = [x.text for x in c.completions.create(**args).choices]
    texts, ends = [""] * 6, [0] * 6
    for x in c.completions.create(**args, stream=True):
        texts[x.choices[0].index] += x.choices[0].text
        ends[x.choices[0].index] += x.choices[0].finish_reason is not None
    assert texts == whole and ends == [1] * 6


def test_a_stop_string_never_shows_in_a_stream(smollm2):
    c = smollm2.client()
    whole = c.completions.create(**TEXT).choices[0].text
    for width in (1, 2, 3, 5):
        stop = whole[8:8 + width]
        got = "".join(x.choices[0].text for x in c.completions.create(**TEXT, stop=stop, stream=True))
        assert got == whole[:whole.index(stop)], stop


def test_async_streams_interleave(smollm2):
    async def one(c, i):
        s = await c.completions.create(**{**TEXT, "seed": i}, stream=True)
        return "".join([x.choices[0].text async for x in s])

    async def run():
        async with smollm2.async_client() as c:
            return await asyncio.gather(*(one(c, i) for i in range(12)))

    texts = asyncio.run(run())
    assert texts == [smollm2.client().completions.create(**{**TEXT, "seed": i}).choices[0].text for i in range(12)]


def test_a_cancelled_stream_frees_its_sequence_and_the_server_goes_on(smollm2):
    for n_read in (0, 1, 5):
        with smollm2.client() as c, c.completions.create(**{**TEXT, "max_tokens": 400}, stream=True, extra_body={"ignore_eos": True}) as s:
            for _ in range(n_read):
                next(iter(s))
    smollm2.wait_metric("num_requests_running", 0)

    async def cancel():
        async with smollm2.async_client() as c:
            task = asyncio.create_task(c.completions.create(**{**TEXT, "max_tokens": 400}, extra_body={"ignore_eos": True}))
            while smollm2.metric("num_requests_running") == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    smollm2.wait_metric("num_requests_running", 0)
    assert smollm2.metric("client_disconnects_total") >= 4


def test_a_connection_is_reusable_after_a_stream(toy):
    c = http.client.HTTPConnection("127.0.0.1", toy.port, timeout=60)
    c.connect()
    ours = c.sock.getsockname()
    body = json.dumps({"prompt": "a b c", "max_tokens": 4, "stream": True, "ignore_eos": True})
    for _ in range(3):
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        r = c.getresponse()
        assert r.status == 200 and r.read().endswith(b"data: [DONE]\n\n")
        c.request("POST", "/v1/completions", "{}", {"Content-Type": "application/json"})
        r = c.getresponse()
        assert r.status == 400 and json.loads(r.read())["error"]["param"] == "prompt"
        assert c.sock is not None and c.sock.getsockname() == ours
    c.close()


def test_errors_before_the_first_byte_are_real_statuses(toy):
    for body, status, param in (({"prompt": "a", "stream": True, "top_p": 7}, 400, "top_p"),
                                ({"prompt": "a " * 100000, "stream": True}, 400, "prompt"),
                                ({"prompt": "a", "stream": True, "model": "other"}, 404, "model")):
        r = toy.post("/v1/completions", body)
        assert r.status_code == status and r.json()["error"]["param"] == param
        assert r.headers["content-type"].startswith("application/json")
    with pytest.raises(openai.BadRequestError):
        toy.client().completions.create(model="", prompt="a", stream=True, temperature=9)


def test_a_stream_that_waits_gets_comments(start):
    """One place in the engine, taken: the next stream's headers and comments come before its first token."""
    d = start("--max-seqs", 1, "--keepalive-s", 1, "--kv-tokens", 16384)
    first = http.client.HTTPConnection("127.0.0.1", d.port, timeout=120)
    endless = {"prompt": "a", "max_tokens": 8000, "ignore_eos": True}
    first.request("POST", "/v1/completions", json.dumps(endless), {"Content-Type": "application/json"})
    d.wait_metric("num_requests_running", 1)
    lines = []
    with httpx.stream("POST", d.url + "/v1/completions", json={"prompt": "b", "max_tokens": 2, "stream": True}, timeout=120) as r:
        assert r.status_code == 200
        for line in r.iter_lines():
            lines.append(line)
            if line == ": keep-alive":
                first.close()
    first.close()
    assert lines[0].startswith(":") and lines.index(": keep-alive") < next(i for i, x in enumerate(lines) if x.startswith("data: {"))
    assert [x for x in lines if x][-1] == "data: [DONE]"


def test_a_head_start_of_large_bodies_does_not_hold_up_a_stream(smollm2):
    """Megabytes are parsed and tokenized elsewhere; a stream beside them stays whole and equal."""
    alone = smollm2.client().completions.create(**TEXT).choices[0].text
    large = json.dumps({"prompt": "word " * 400000})

    def post_large():
        r = httpx.post(smollm2.url + "/v1/completions", content=large, headers={"Content-Type": "application/json"}, timeout=120)
        assert r.status_code == 400 and r.json()["error"]["code"] == "context_length_exceeded"

    others = [threading.Thread(target=post_large) for _ in range(4)]
    for t in others:
        t.start()
    texts = ["".join(x.choices[0].text for x in smollm2.client().completions.create(**TEXT, stream=True)) for _ in range(3)]
    for t in others:
        t.join()
    assert texts == [alone] * 3
