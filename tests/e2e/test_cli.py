"""The one binary from the outside: what its subcommands print, what their exit status says, and that mistakes get one sentence."""
import hashlib
import json
import re

import pytest
from daemon import ROOT, SMOLLM2, VECTORS, nextd

COMMANDS = ("serve", "complete", "tokenize", "inspect", "health")


def test_version_is_the_versions_file():
    r = nextd("--version")
    assert r.returncode == 0
    assert (ROOT / "VERSION").read_text().strip() in r.stdout.decode()


def test_help_names_every_command_and_option():
    r = nextd("--help")
    assert r.returncode == 0
    for name in COMMANDS:
        assert name in r.stdout.decode()
    serve = nextd("serve", "--help")
    assert serve.returncode == 0
    for option in ("--config", "--model", "--alias", "--host", "--port", "--unix", "--threads", "--ctx", "--kv-tokens", "--max-seqs", "--queue",
                   "--chunk", "--device"):
        assert option in serve.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    r = nextd(command, "--help")
    assert r.returncode == 0
    assert f"nextd {command}" in r.stdout.decode()
    assert not r.stderr


@pytest.mark.parametrize("arguments", [
    [], ["dance"], ["serve", "--prot", "1"], ["serve", "--port", "70000"], ["serve", "--port", "x"], ["serve"],
    ["serve", "-m", "/no/such/model.gguf"], ["complete"], ["complete", "-m", str(SMOLLM2)], ["complete", "-m", "/no/such/model.gguf", "-p", "x"],
    ["complete", "-m", str(SMOLLM2), "-p", "x", "--temperature", "hot"], ["tokenize"], ["tokenize", "-m", "/no/such/model.gguf"],
    ["inspect"], ["inspect", "-m", "/no/such/model.gguf"], ["inspect", "-m", str(ROOT / "Makefile")],
    ["serve", "--config", "/no/such/file.conf"], ["serve", "-m", str(SMOLLM2), "--host", "0.0.0.0", "--port", "0"],
])
def test_mistakes_get_a_sentence_and_a_bad_status(arguments):
    r = nextd(*arguments)
    assert r.returncode in (1, 2)
    assert r.stderr.decode().strip()
    assert r.returncode == 2 or len(r.stderr.decode().strip().splitlines()) <= 8


def test_unknown_keys_of_the_file_are_named_with_file_and_line(tmp_path):
    conf = tmp_path / "nextd.conf"
    conf.write_text("[listen]\nport = 9000\n\nprot = 1\n")
    r = nextd("serve", "--config", conf)
    assert r.returncode != 0
    assert re.search(r"nextd\.conf:4: .*prot", r.stderr.decode())


def test_unknown_environment_variables_are_errors():
    r = nextd("serve", "-m", SMOLLM2, env={"NEXTD_PROT": "1"})
    assert r.returncode != 0
    assert "NEXTD_PROT" in r.stderr.decode()


def test_the_committed_configuration_file_is_accepted():
    r = nextd("serve", "--config", ROOT / "config" / "nextd.conf", "-m", "/no/such/model.gguf")
    assert r.returncode != 0
    assert "/no/such/model.gguf" in r.stderr.decode() and "nextd.conf:" not in r.stderr.decode()


def test_complete_is_deterministic_and_goes_on_sensibly():
    arguments = ("complete", "-m", SMOLLM2, "-p", "The capital of France is", "-n", 8)
    first, second = nextd(*arguments), nextd(*arguments, "--threads", 1)
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert b"Paris" in first.stdout


def test_complete_refuses_a_prompt_that_the_model_has_no_tokens_for():
    r = nextd("complete", "-m", SMOLLM2, "-p", "ab\x04c", "-n", 1)
    assert r.returncode != 0 and not r.stdout
    assert "byte 0x04 at offset 2" in r.stderr.decode()


def test_complete_gives_the_bytes_of_the_server(smollm2):
    text = "Once upon a time there was"
    answer = smollm2.post("/v1/completions", {"prompt": text, "max_tokens": 32, "temperature": 0.8, "seed": 11}).json()["choices"][0]["text"]
    alone = nextd("complete", "-m", SMOLLM2, "-p", text, "-n", 32, "--temperature", 0.8, "--seed", 11)
    assert alone.stdout.decode() == answer + "\n"


def test_complete_reads_the_prompt_from_stdin():
    a = nextd("complete", "-m", SMOLLM2, "-p", "-", "-n", 5, stdin=b"One, two, three,")
    b = nextd("complete", "-m", SMOLLM2, "-p", "One, two, three,", "-n", 5)
    assert a.returncode == 0 and a.stdout == b.stdout


def test_tokenize_prints_ids_that_the_server_agrees_with(smollm2):
    text = "Hello, world! Ünïcödé \U0001f600 and   spaces\n\n\ttabs 12345"
    ids = json.loads(nextd("tokenize", "--ids", "-m", SMOLLM2, stdin=text.encode()).stdout)
    assert ids == smollm2.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert smollm2.post("/detokenize", {"tokens": ids}).json()["prompt"] == text


def test_tokenize_takes_vocabulary_only_files():
    out = nextd("tokenize", "--ids", "-m", VECTORS / "ggml-vocab-gpt-2.gguf", stdin=b"Hello world")
    assert out.returncode == 0
    assert json.loads(out.stdout) == [15496, 995]


def test_inspect_says_the_digest_and_the_end_tokens():
    r = nextd("inspect", "-m", SMOLLM2)
    text = r.stdout.decode()
    assert r.returncode == 0
    assert hashlib.sha256(SMOLLM2.read_bytes()).hexdigest() in text
    assert "<|im_end|>" in text and "llama" in text and "token_embd.weight" in text


def test_health_says_whether_a_server_serves(smollm2):
    assert nextd("health", "--port", smollm2.port).returncode == 0
    gone = nextd("health", "--port", 1)
    assert gone.returncode == 1
    assert gone.stderr.decode().strip()
