"""Requests that are wrong: each gets one answer with the right status, OpenAI's error object and the JSON path of the mistake."""
import json
import time

import httpx
import openai
import pytest
from daemon import TOY

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]


def raw(daemon, path, content, headers=JSON, method="POST"):
    return httpx.request(method, daemon.url + path, content=content, headers=headers, timeout=60)


def error(r, status):
    assert r.status_code == status, r.text
    assert r.headers["content-type"].startswith("application/json")
    e = r.json()["error"]
    assert set(e) == {"message", "type", "param", "code"} and e["message"]
    assert not e["message"].endswith(".")
    return e


@pytest.mark.parametrize("path, body, param", [
    (TEXT, {}, "prompt"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [1, -1]}, "prompt[1]"),
    (TEXT, {"prompt": [[1], [10**6]]}, "prompt[1][0]"),
    (TEXT, {"prompt": [[1, 10**6]]}, "prompt[0][1]"),
    (TEXT, {"prompt": ["a", ""]}, "prompt[1]"),
    (TEXT, {"prompt": [[1], [2] * 9000]}, "prompt[1]"),
    (TEXT, {"prompt": [2] * 9000}, "prompt"),
    (TEXT, {"prompt": "a", "max_tokens": "1"}, "max_tokens"),
    (TEXT, {"prompt": "a", "max_token": 1}, "max_token"),
    (TEXT, {"prompt": "a", "n": 65}, "n"),
    (TEXT, {"prompt": "a", "n": 10**15}, "n"),
    (TEXT, {"prompt": "a", "temperature": 2.5}, "temperature"),
    (TEXT, {"prompt": "a", "top_p": 0}, "top_p"),
    (TEXT, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (TEXT, {"prompt": "a", "stop": ["x"] * 17}, "stop"),
    (TEXT, {"prompt": "a", "stop": ["x" * 257]}, "stop[0]"),
    (TEXT, {"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias.1"),
    (TEXT, {"prompt": "a", "logit_bias": {"999999": 1}}, "logit_bias"),
    (TEXT, {"prompt": "a", "best_of": 3}, "best_of"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXT, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": USER, "top_logprobs": 3}, "top_logprobs"),
    ("/tokenize", {}, "prompt"),
    ("/detokenize", {"tokens": "x"}, "tokens"),
])
def test_mistakes_are_400_with_their_path(toy, path, body, param):
    e = error(toy.post(path, body), 400)
    assert e["type"] == "invalid_request_error" and e["param"] == param
    assert param in e["message"] or param.split("[")[0].split(".")[0] in e["message"]


@pytest.mark.parametrize("path, body, param", [
    (TEXT, {"prompt": "ab\x04"}, "prompt"),
    (TEXT, {"prompt": ["ab", "\x04"]}, "prompt[1]"),
    (CHAT, {"messages": [{"role": "user", "content": "\x04"}]}, "messages"),
    ("/tokenize", {"prompt": "\x04"}, "prompt"),
])
def test_text_that_the_model_has_no_tokens_for_is_400(smollm2, path, body, param):
    e = error(smollm2.post(path, body), 400)
    assert e["param"] == param and "byte 0x04 at offset" in e["message"]


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'{"prompt":"a"} x', b'{"prompt":"a","prompt":"b"}', b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}',
    b'{"prompt":"a","seed":9223372036854775808}', b'{"prompt":"a","temperature":1e999}', b'{"prompt":"a","temperature":NaN}',
    b"[" * 100000, b'{"a":' * 65 + b"1" + b"}" * 65,
], ids=range(13))
def test_what_is_no_sound_json_is_400(toy, content):
    assert error(raw(toy, TEXT, content), 400)["type"] == "invalid_request_error"


def test_json_bombs_are_refused_quickly(toy):
    bomb = b'{"prompt":[' + b"{}," * 300000 + b"{}]}"
    begun = time.monotonic()
    error(raw(toy, TEXT, bomb), 400)
    assert time.monotonic() - begun < 5
    ids = b'{"prompt":[' + b"1," * 1000000 + b"1]}"
    error(raw(toy, TEXT, ids), 400)


def test_paths_methods_and_types(toy):
    assert error(raw(toy, "/v1/nothing", b"{}"), 404)["code"] == "not_found"
    for method, path, allow in (("GET", TEXT, "POST"), ("PUT", CHAT, "POST"), ("POST", "/health", "GET"), ("DELETE", "/v1/models", "GET")):
        r = raw(toy, path, b"", method=method)
        error(r, 405)
        assert allow in r.headers["allow"]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/jsonx"):
        error(raw(toy, TEXT, b'{"prompt":"a"}', {"Content-Type": kind}), 415)
    for headers in ({}, {"Content-Type": "application/json; charset=utf-8"}):
        assert raw(toy, TEXT, b'{"prompt":"a","max_tokens":1}', headers).status_code == 200
    assert httpx.head(toy.url + "/health").status_code == 200


def test_a_body_over_the_limit_is_413(start):
    d = start("--max-body-bytes", 65536, model=TOY)
    error(raw(d, TEXT, json.dumps({"prompt": "a" * 70000}).encode()), 413)
    assert d.post(TEXT, {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_another_models_name_is_404_for_the_official_client(toy):
    with pytest.raises(openai.NotFoundError) as e:
        toy.client().completions.create(model="gpt-4o", prompt="a")
    assert e.value.code == "model_not_found" and "gpt-4o" in str(e.value)
    with pytest.raises(openai.NotFoundError):
        toy.client().models.retrieve("gpt-4o")
    name = toy.client().models.list().data[0].id
    assert toy.client().models.retrieve(name).id == name
    assert toy.client().completions.create(model=name, prompt="a", max_tokens=1).model == name


def test_the_official_client_sees_what_is_wrong(toy):
    with pytest.raises(openai.BadRequestError) as e:
        toy.client().chat.completions.create(model="", messages=USER, temperature=3)
    assert e.value.param == "temperature" and e.value.type == "invalid_request_error" and "between 0 and 2" in str(e.value)
    assert e.value.request_id  # to be found in the server's log


def test_ignored_fields_are_named_in_a_header(start):
    d = start("--unknown-fields", "ignore", model=TOY)
    r = d.post(CHAT, {"messages": [{**USER[0], "mood": "good"}], "max_tokens": 1, "chat_id": 5})
    assert r.status_code == 200
    assert r.headers["x-nextd-ignored-fields"] == "messages[0].mood,chat_id"
    assert "x-nextd-ignored-fields" not in d.post(CHAT, {"messages": USER, "max_tokens": 1}).headers
    error(d.post(CHAT, {"messages": USER, "tools": [{}]}), 400)


@pytest.mark.parametrize("method, path, status", [("GET", "/secret-path", 404), ("DELETE", TEXT, 405), ("POST", TEXT, 415)])
def test_the_log_names_refused_requests(toy, method, path, status):
    mark = len(toy.log())
    r = raw(toy, path, None if method == "GET" else b"{}", {"Content-Type": "text/plain"}, method)
    assert r.status_code == status
    lines = toy.log()[mark:]
    line = next(x for x in lines.splitlines() if r.headers["x-request-id"] in x)
    assert f"status={status} error={r.json()['error']['code']}" in line
    assert "secret" not in lines


def test_the_log_names_the_request_and_never_its_text(toy):
    mark = len(toy.log())
    secret = "zebra-crossing-9137"
    with pytest.raises(openai.BadRequestError):
        toy.client().completions.create(model="", prompt=secret, logit_bias={secret: 1})
    r = toy.client().completions.create(model="", prompt=secret, max_tokens=2)
    lines = toy.log()[mark:]
    assert secret not in lines
    line = next(x for x in lines.splitlines() if r.id in x)
    assert "status=200" in line and "output=2" in line and "finish=" in line


def test_the_caps_are_configurable(start):
    d = start("--max-n", "2", "--max-prompts", "3", "--max-stops", "1", "--max-stop-bytes", "4", "--max-bias", "1", model=TOY)
    body = {"prompt": ["a"] * 3, "n": 2, "stop": ["1234"], "logit_bias": {"1": 0}, "max_tokens": 1}
    assert len(d.post(TEXT, body).json()["choices"]) == 6
    for field, value, param in (("n", 3, "n"), ("prompt", ["a"] * 4, "prompt"), ("stop", ["1", "2"], "stop"), ("stop", ["12345"], "stop[0]"),
                                ("logit_bias", {"1": 0, "2": 0}, "logit_bias")):
        assert error(d.post(TEXT, {**body, field: value}), 400)["param"] == param
