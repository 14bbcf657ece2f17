"""POST /v1/completions through the official client, on a real model: shapes, forms of prompts, log-probabilities, stops, seeds."""
import asyncio
import math

import openai
import pytest
from daemon import TOY

TEXT = "The capital of France is"
GREEDY = {"model": "", "prompt": TEXT, "max_tokens": 12, "temperature": 0}


def complete(daemon, **more):
    return daemon.client().completions.create(**{**GREEDY, **more})


def choice(daemon, **more):
    return complete(daemon, **more).choices[0]


def ids(daemon, text, special=True):
    return daemon.post("/tokenize", {"prompt": text, "add_special_tokens": special}).json()["tokens"]


def test_answer_has_openais_shape(smollm2):
    r = complete(smollm2)
    assert r.id.startswith("cmpl-") and r.object == "text_completion" and r.created > 1_600_000_000
    assert r.model == smollm2.client().models.list().data[0].id
    assert "Paris" in r.choices[0].text
    assert r.choices[0].index == 0 and r.choices[0].finish_reason == "length" and r.choices[0].logprobs is None
    assert r.usage.completion_tokens == 12 and r.usage.prompt_tokens == len(ids(smollm2, TEXT))
    assert r.usage.total_tokens == r.usage.prompt_tokens + 12
    assert r.system_fingerprint.endswith(smollm2.get("/v1/models").json()["data"][0]["sha256"][:12])
    assert complete(smollm2).id != r.id


def test_sixteen_tokens_are_the_default(smollm2):
    r = smollm2.post("/v1/completions", {"prompt": TEXT, "ignore_eos": True}).json()
    assert r["usage"]["completion_tokens"] == 16


def test_all_forms_of_a_prompt_give_the_same_text(smollm2):
    whole = choice(smollm2).text
    other = choice(smollm2, prompt="Once upon a time").text
    t, o = ids(smollm2, TEXT), ids(smollm2, "Once upon a time")
    assert choice(smollm2, prompt=t).text == whole
    for form in ([TEXT, "Once upon a time"], [t, o]):
        r = complete(smollm2, prompt=form)
        assert [c.text for c in r.choices] == [whole, other]
        assert [c.index for c in r.choices] == [0, 1]
        assert r.usage.prompt_tokens == len(t) + len(o) and r.usage.completion_tokens == 24


def test_a_prompt_in_a_list_equals_the_prompt_alone(smollm2):
    prompts = [f"{n} bottles of beer on" for n in range(3)]
    args = dict(temperature=1, seed=77, n=2, logprobs=3, max_tokens=10)
    together = complete(smollm2, prompt=prompts, **args).choices
    assert [c.index for c in together] == list(range(6))
    for i, p in enumerate(prompts):
        alone = complete(smollm2, prompt=p, **args).choices
        assert [c.text for c in alone] == [c.text for c in together[2 * i:2 * i + 2]]
        assert [c.logprobs for c in alone] == [c.logprobs for c in together[2 * i:2 * i + 2]]


def test_128_prompts_at_once_are_served_and_129_refused(start):
    d = start("--kv-tokens", 4096, "--max-seqs", 16, "--queue", 200, model=TOY)
    r = d.post("/v1/completions", {"prompt": [[3 + i % 50, 7] for i in range(128)], "max_tokens": 2})
    assert r.status_code == 200, r.text
    assert len(r.json()["choices"]) == 128
    r = d.post("/v1/completions", {"prompt": [[3]] * 129, "max_tokens": 2})
    assert r.status_code == 400 and r.json()["error"]["param"] == "prompt"


# ---- log-probabilities ----


def test_logprobs_have_the_legacy_shape(smollm2):
    c = choice(smollm2, logprobs=4)
    lp = c.logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == 12
    assert "".join(lp.tokens) == c.text
    for token, p, top, offset in zip(lp.tokens, lp.token_logprobs, lp.top_logprobs, lp.text_offset):
        assert p <= 0 and 4 <= len(top) <= 5
        assert top[token] == p == max(top.values()), "greedy draws the most likely"
        assert c.text[offset:].startswith(token)
    assert choice(smollm2, logprobs=0).logprobs.top_logprobs[0] == {lp.tokens[0]: lp.token_logprobs[0]}


def test_scoring_a_text_gives_the_bits_of_drawing_it(smollm2):
    """echo with max_tokens 0 over prompt + answer: the same numbers that the answer had when it was drawn."""
    drawn = choice(smollm2, prompt=ids(smollm2, TEXT), temperature=0.8, seed=3, logprobs=2, max_tokens=20, extra_body={"ignore_eos": True})
    whole = ids(smollm2, TEXT + drawn.text)
    n = len(ids(smollm2, TEXT))
    if len(whole) != n + 20:  # the text may be cut into other tokens than were drawn
        pytest.skip("the drawn text has another tokenization")
    scored = choice(smollm2, prompt=whole, echo=True, max_tokens=0, logprobs=2)
    assert scored.text == TEXT + drawn.text and scored.finish_reason == "length"
    assert scored.logprobs.token_logprobs[0] is None and scored.logprobs.top_logprobs[0] is None
    assert scored.logprobs.tokens[n:] == drawn.logprobs.tokens
    assert scored.logprobs.token_logprobs[n:] == drawn.logprobs.token_logprobs
    assert scored.logprobs.top_logprobs[n:] == drawn.logprobs.top_logprobs


def test_echo_gives_prompt_and_answer(smollm2):
    plain = choice(smollm2, logprobs=1)
    echo = choice(smollm2, echo=True, logprobs=1)
    n = len(ids(smollm2, TEXT))
    assert echo.text == TEXT + plain.text
    assert echo.logprobs.token_logprobs[n:] == plain.logprobs.token_logprobs
    assert echo.logprobs.text_offset[n:] == [len(TEXT) + o for o in plain.logprobs.text_offset]
    assert "".join(echo.logprobs.tokens) == echo.text
    only = complete(smollm2, echo=True, max_tokens=0)
    assert only.choices[0].text == TEXT and only.usage.completion_tokens == 0


def test_logprobs_sum_to_what_the_prefix_cache_does_not_change(smollm2):
    prompt = "A quick brown fox jumps over the lazy dog. " * 12
    runs = [complete(smollm2, prompt=prompt, echo=True, logprobs=1, max_tokens=3, temperature=0) for _ in range(3)]
    assert runs[0].choices[0].logprobs == runs[1].choices[0].logprobs == runs[2].choices[0].logprobs
    assert all(math.isfinite(p) for p in runs[0].choices[0].logprobs.token_logprobs[1:])


def test_cached_tokens_are_told(smollm2):
    prompt = "Some words that nobody asked for before: " + " ".join(str(i * 7919) for i in range(60))
    first = complete(smollm2, prompt=prompt).usage
    again = complete(smollm2, prompt=prompt).usage
    assert first.prompt_tokens_details.cached_tokens < again.prompt_tokens_details.cached_tokens < again.prompt_tokens


# ---- how it ends ----


def test_stop_strings_end_the_text_before_them(smollm2):
    whole = choice(smollm2, max_tokens=40, logprobs=0)
    tokens, text = whole.logprobs.tokens, whole.text
    edge = len("".join(tokens[:9]))  # a stop that begins in one token and ends in the next
    stop = text[edge - 2:edge + 1]
    c = smollm2.post("/v1/completions", {**GREEDY, "max_tokens": 40, "stop": [stop, "never seen"]}).json()["choices"][0]
    assert c["text"] == text[:text.index(stop)]
    assert c["finish_reason"] == "stop" and c["stop_reason"] == stop
    assert choice(smollm2, max_tokens=40, stop="never seen").text == text


def test_stop_ids_end_tokens_and_min_tokens(smollm2):
    first = smollm2.post("/v1/completions", {**GREEDY, "logprobs": 0}).json()["choices"][0]["logprobs"]["tokens"][3]
    one = ids(smollm2, first, special=False)
    assert len(one) == 1
    r = smollm2.post("/v1/completions", {**GREEDY, "stop_token_ids": one}).json()
    assert r["choices"][0]["finish_reason"] == "stop" and r["choices"][0]["stop_reason"] == one[0]
    assert r["usage"]["completion_tokens"] <= 4
    r = smollm2.post("/v1/completions", {**GREEDY, "max_tokens": 30, "min_tokens": 20, "stop_token_ids": one}).json()
    assert r["usage"]["completion_tokens"] >= 20


def test_logit_bias_bans_and_forces(smollm2):
    greedy = choice(smollm2, logprobs=0).logprobs.tokens[0]
    token = ids(smollm2, greedy, special=False)
    banned = choice(smollm2, logit_bias={str(token[0]): -100}, logprobs=0)
    assert banned.logprobs.tokens[0] != greedy
    forced = choice(smollm2, logit_bias={str(token[0]): 100}, max_tokens=5, logprobs=0)
    assert forced.logprobs.tokens == [greedy] * 5


# ---- randomness ----


def test_a_seed_brings_the_same_text_again_even_a_drawn_one(smollm2):
    args = {"prompt": "A story:", "max_tokens": 16, "temperature": 1.3, "n": 3}
    first = smollm2.post("/v1/completions", args).json()
    again = smollm2.post("/v1/completions", {**args, "seed": first["seed"]}).json()
    texts = [c["text"] for c in first["choices"]]
    assert [c["text"] for c in again["choices"]] == texts and again["seed"] == first["seed"]
    assert len(set(texts)) == 3, "choices of one seed differ"
    other = smollm2.post("/v1/completions", args).json()
    assert other["seed"] != first["seed"] and [c["text"] for c in other["choices"]] != texts
    for seed in (-1, -2**63, 2**63 - 1, 0):
        assert smollm2.post("/v1/completions", {**args, "n": 1, "seed": seed}).json()["seed"] == seed


def test_penalties_and_truncation_do_something(smollm2):
    base = {"prompt": "la la la la la la la la", "max_tokens": 12, "temperature": 0}
    plain = smollm2.post("/v1/completions", base).json()["choices"][0]["text"]
    for more in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 3.0}):
        assert smollm2.post("/v1/completions", {**base, **more}).json()["choices"][0]["text"] != plain, more
    for more in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        sampled = {**base, "temperature": 1.5, "seed": 5, **more}
        assert smollm2.post("/v1/completions", sampled).json()["choices"][0]["text"] == plain, more


def test_async_client_runs_many_at_once(smollm2):
    async def run():
        async with smollm2.async_client() as c:
            return await asyncio.gather(*(c.completions.create(**{**GREEDY, "prompt": f"{i} and {i + 1} make"}) for i in range(16)))

    for i, r in enumerate(asyncio.run(run())):
        assert r.choices[0].text == choice(smollm2, prompt=f"{i} and {i + 1} make").text


def test_a_prompt_beyond_the_context_is_told_the_numbers(start):
    d = start("--ctx", 256, "--kv-tokens", 1024)
    with pytest.raises(openai.BadRequestError) as e:
        d.client().completions.create(model="", prompt="word " * 400, max_tokens=1)
    assert e.value.code == "context_length_exceeded" and "256" in str(e.value) and e.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as e:
        d.client().completions.create(model="", prompt="word " * 50, max_tokens=250)
    assert e.value.code == "context_length_exceeded" and e.value.param == "max_tokens"
    r = d.post("/v1/completions", {"prompt": [5] * 250, "ignore_eos": True}).json()
    assert r["usage"]["total_tokens"] == 256 and r["choices"][0]["finish_reason"] == "length"
