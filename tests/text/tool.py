"""The project's tokenizer, asked through the test program tokenize_many."""
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
VECTORS = MODELS / "vectors"
SMOLLM2 = MODELS / "smollm2-135m-instruct-q4_1.gguf"
QWEN = MODELS / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GEMMA = MODELS / "gemma-3-270m-q4_k_m.gguf"
KINDS = ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder", "falcon", "starcoder", "refact", "command-r", "mpt", "llama-spm", "phi-3"]
FULL = bool(os.environ.get("NEXTD_TEST_FULL"))
TOOL = "build/tests/text/tokenize_many"


@dataclass
class Answer:
    seconds: float
    ids: list
    n_lost: int
    raw: bytes   # of all ids, special tokens included
    text: bytes  # whole UTF-8


def vocabulary(kind):
    return VECTORS / f"ggml-vocab-{kind}.gguf"


def build():
    subprocess.run(["make", "-s", TOOL], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def tokenize(path, requests, bos=False):
    """Each request is a text (a user's, str or bytes) or a list of (text, trusted). One Answer for each."""
    data = bytearray()
    for spans in requests:
        spans = [(spans, False)] if isinstance(spans, (str, bytes)) else spans
        data += struct.pack("<I", len(spans) | bos << 31)
        for text, trusted in spans:
            text = text.encode() if isinstance(text, str) else text
            data += struct.pack("<II", trusted, len(text)) + text
    out = subprocess.run([ROOT / TOOL, path], input=bytes(data), check=True, stdout=subprocess.PIPE).stdout
    at = 0

    def number():
        nonlocal at
        at += 4
        return struct.unpack_from("<I", out, at - 4)[0]

    def piece(n):
        nonlocal at
        at += n
        return out[at - n:at]

    answers = []
    for _ in requests:
        seconds, n = number() / 1e6, number()
        ids = list(struct.unpack(f"<{n}i", piece(4 * n)))
        answers.append(Answer(seconds, ids, number(), piece(number()), piece(number())))
    assert at == len(out)
    return answers
