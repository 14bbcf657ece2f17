"""The two other families through the same door: fewer requests than SmolLM2 gets, each with something only that model has."""
import asyncio
import unicodedata

import openai
import pytest
from daemon import GEMMA
from test_load import at_once, one_by_one, prompt, same
from test_load import request as load_request


def test_qwen_writes_code_in_a_chat(qwen):
    messages = [{"role": "user", "content": "Write a Python function add(a, b) that returns the sum. Only code."}]
    r = qwen.client().chat.completions.create(model=qwen.model, messages=messages, max_tokens=60, temperature=0)
    text = r.choices[0].message.content
    assert "def add" in text and "return" in text
    assert "<|im_end|>" not in text
    assert r.usage.prompt_tokens > 20


def test_qwen_ends_by_its_end_of_turn_token(qwen):
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    r = qwen.client().chat.completions.create(model=qwen.model, messages=messages, max_tokens=50, temperature=0)
    assert r.choices[0].finish_reason == "stop"
    assert "Paris" in r.choices[0].message.content


def test_qwen_streams_equal_whole_answers(qwen):
    body = {"model": qwen.model, "messages": [{"role": "user", "content": "你好，请用中文介绍一下你自己。"}], "max_tokens": 40, "temperature": 0.7, "seed": 3}
    c = qwen.client()
    whole = c.chat.completions.create(**body).choices[0].message.content
    pieces = [e.choices[0].delta.content or "" for e in c.chat.completions.create(**body, stream=True) if e.choices]
    assert "".join(pieces) == whole
    assert "\ufffd" not in whole


def test_qwen_reads_decomposed_text_as_it_was_trained_on_it(qwen):
    """The same ids, numbers and echo whichever way the text is spelled; the echo is what the ids stand for, and offsets count in it."""
    composed = "Tiếng Việt, café, 한국어, Å: "
    spelled = [composed, unicodedata.normalize("NFD", composed).replace("A\u030a", "\u212b")]
    assert spelled[0] != spelled[1]
    ids = [qwen.post("/tokenize", {"model": qwen.model, "prompt": s}).json()["tokens"] for s in spelled]
    assert ids[0] == ids[1]
    chats = [qwen.post("/tokenize", {"model": qwen.model, "messages": [{"role": "user", "content": s}]}).json()["tokens"] for s in spelled]
    assert chats[0] == chats[1]
    ask = {"model": qwen.model, "echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0}
    a, b = (qwen.client().completions.create(prompt=s, **ask).choices[0] for s in spelled)
    assert a.text == b.text and a.text.startswith(composed)
    assert a.logprobs == b.logprobs
    whole = [(t, at) for t, at in zip(b.logprobs.tokens, b.logprobs.text_offset) if not t.startswith("bytes:")]
    assert len(whole) > 8 and all(b.text[at:].startswith(t) for t, at in whole)


def test_gemma_completes(gemma):
    r = gemma.client().completions.create(model=gemma.model, prompt="Capitals. France: Paris. Italy: Rome. Germany:", max_tokens=4, temperature=0)
    assert "Berlin" in r.choices[0].text


def test_gemma_without_a_template_refuses_chat_and_names_the_option(gemma):
    with pytest.raises(openai.BadRequestError) as e:
        gemma.client().chat.completions.create(model=gemma.model, messages=[{"role": "user", "content": "Hi"}])
    assert "--chat-template" in str(e.value)


def test_gemma_chats_with_a_template_from_a_file(start, tmp_path):
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    d = start("--chat-template", template, "--kv-tokens", 4096, model=GEMMA)
    r = d.client().chat.completions.create(model=d.model, messages=[{"role": "user", "content": "Count to five."}], max_tokens=8, temperature=0)
    assert r.choices[0].message.role == "assistant" and r.usage.completion_tokens > 0


def test_gemma_beyond_twice_its_window_is_the_same_however_it_is_computed(gemma):
    """512 positions of window: more than 1,024 tokens of prompt, alone, then from the cache, then among others."""
    body = {**load_request(0, max_tokens=12), "prompt": " ".join(prompt(i) for i in range(28))}
    first = asyncio.run(one_by_one(gemma.url, [body]))[0]
    again = asyncio.run(one_by_one(gemma.url, [body]))[0]
    crowd = asyncio.run(at_once(gemma.url, [body] + [load_request(i, max_tokens=12) for i in range(1, 6)]))[0]
    assert first[3]["prompt_tokens"] > 1024
    assert again[3]["prompt_tokens_details"]["cached_tokens"] > 0
    same(again, first)
    same(crowd, first)


@pytest.mark.parametrize("name", ["qwen", "gemma"])
def test_eight_streams_get_the_bytes_of_their_lone_runs(name, request):
    daemon = request.getfixturevalue(name)
    bodies = [load_request(i, max_tokens=12) for i in range(8)]
    alone = asyncio.run(one_by_one(daemon.url, bodies))
    for got, want in zip(asyncio.run(at_once(daemon.url, bodies)), alone):
        same(got, want)
