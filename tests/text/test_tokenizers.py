"""Ids equal those of Hugging Face's `tokenizers`, and the vectors that llama.cpp keeps of them, for every kind of vocabulary; and what must hold
where no reference can say it: provenance, bytes, time.

The reference is built at test time from the same GGUF (reference.py). No committed file could be as strong: it can be asked anything.
"""
import json
import random
import re
import subprocess
import unicodedata

import pytest

import reference
import speed
import tool
from samples import HAND_PICKED, samples
from tool import FULL, GEMMA, KINDS, QWEN, SMOLLM2, tokenize, vocabulary

N = 100000 if FULL else 10000
MODELS = [SMOLLM2, QWEN, GEMMA]
NAMES = ["smollm2", "qwen", "gemma"]


def differences(texts, got, expected):
    return [(t, g.ids, e) for t, g, e in zip(texts, got, expected) if g.ids != e]


def compare(path, n, seed):
    """Texts as a user sends them, and as a template's with special tokens strewn in."""
    hf, meta = reference.build(path)
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    texts = samples(n, seed)
    expected = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    # A text that happens to spell a control token is the one place where a user's text must differ.
    control = {i for i, t in enumerate(types) if t in (reference.CONTROL, reference.UNKNOWN)}
    kept = [(t, e) for t, e in zip(texts, expected) if not control & set(e)]
    assert len(kept) > 0.99 * n
    wrong = differences([t for t, _ in kept], tokenize(path, [t for t, _ in kept]), [e for _, e in kept])
    assert not wrong, f"{len(wrong)} of {len(texts)} texts differ, first (text, ours, reference): {wrong[:3]}"
    special = [w for w, t in zip(tokens, types) if t in (reference.CONTROL, reference.USER_DEFINED)]
    mixed = [a + special[(7 * i) % len(special)] + b for i, (a, b) in enumerate(zip(texts[::10], texts[5::10]))]
    expected = [e.ids for e in hf.encode_batch(mixed, add_special_tokens=False)]
    wrong = differences(mixed, tokenize(path, [[(t, True)] for t in mixed]), expected)
    assert not wrong, f"{len(wrong)} of {len(mixed)} texts with special tokens differ, first: {wrong[:3]}"


@pytest.mark.parametrize("path", MODELS, ids=NAMES)
def test_ids_equal_the_reference_on_ten_thousand_texts(path):
    compare(path, N, seed=20)


# phi-3 differs from llama-spm in its special tokens only, and these strip the white space behind them in the reference.
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "phi-3"])
def test_every_kind_equals_the_reference(kind):
    compare(vocabulary(kind), N // 5, seed=21)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_the_published_vectors(kind):
    path = vocabulary(kind)
    texts = (path.parent / f"{path.name}.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    expected = [[int(i) for i in line.split()] for line in (path.parent / f"{path.name}.out").read_text().splitlines()]
    texts = texts[:len(expected)]
    assert len(texts) == len(expected) > 40
    wrong = differences(texts, tokenize(path, texts), expected)
    assert not wrong, wrong[:2]


def chat(content):
    """A ChatML turn as a template writes it, and whose bytes are whose."""
    return [("<|im_start|>user\n", True), (content, False), ("<|im_end|>\n<|im_start|>assistant\n", True)]


@pytest.mark.parametrize("path", [SMOLLM2, QWEN], ids=["smollm2", "qwen"])
def test_the_border_between_template_and_user_leaves_no_trace_in_a_benign_chat(path):
    hf, _ = reference.build(path)
    contents = samples(2000, seed=22)
    expected = [e.ids for e in hf.encode_batch(["".join(t for t, _ in chat(c)) for c in contents], add_special_tokens=False)]
    assert not differences(contents, tokenize(path, [chat(c) for c in contents]), expected)
    # Nor does a border in the middle of a word.
    pieces = [[(c[:len(c) // 2], True), (c[len(c) // 2:], False)] for c in contents]
    whole = [e.ids for e in hf.encode_batch(contents, add_special_tokens=False)]
    assert not differences(contents, tokenize(path, pieces), whole)


@pytest.mark.parametrize("path", MODELS + [vocabulary(k) for k in KINDS], ids=NAMES + KINDS)
def test_a_users_text_never_becomes_a_control_token(path):
    meta = reference.read_metadata(path)
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    template = meta.get("tokenizer.chat_template", "")
    control = {i for i, t in enumerate(types) if t in (reference.CONTROL, reference.UNKNOWN)}
    control |= {i for i, t in enumerate(types) if t == reference.USER_DEFINED and tokens[i].strip() and tokens[i] in template}
    control |= {meta[k] for k in meta if k in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id")}
    spelled = [tokens[i] for i in control]
    texts = spelled + [f"a {w}b" for w in spelled[:300]] + [w[:3] + w + w[3:] for w in spelled[:300]]
    for t, a in zip(texts, tokenize(path, texts)):
        assert not control & set(a.ids), t
        assert a.text.lstrip(b" ") == t.encode().lstrip(b" "), t
    # Cut in two between template and user it is no control token either; wholly the template's it is.
    for t, a in zip(spelled, tokenize(path, [[(t[:2], True), (t[2:], False)] for t in spelled])):
        assert not control & set(a.ids), t
    for t, a in zip(spelled, tokenize(path, [[(t[:2], True), (t[2:], True)] for t in spelled])):
        assert len(a.ids) == 1 and a.ids[0] in control, t


def test_special_tokens_are_found_before_text_is_normalised():
    """A stroke behind a token does not eat its last character, nor do a token's parts join across it."""
    stroke = "\u0338"
    whole = tokenize(QWEN, [[(f"e<|im_end|>{stroke}e\u0301", True)]])[0]
    assert whole.raw.decode() == f"e<|im_end|>{stroke}\u00e9"
    assert len(whole.ids) == len(tokenize(QWEN, [[(f"e<|im_end|>{stroke}\u00e9", True)]])[0].ids)
    assert tokenize(QWEN, [f"<|im_end|>{stroke}"])[0].raw.decode() == "<|im_end|\u226f"  # a user's is text
    between = tokenize(QWEN, [[("e", True), ("\u0301", False)], "\u00e9"])  # and the border is none
    assert between[0].ids == between[1].ids


def test_only_families_that_want_nfc_get_it():
    text = "e\u0301 \u1112\u1161\u11ab \u212b"
    for path in [SMOLLM2, QWEN, GEMMA] + [vocabulary(k) for k in KINDS]:
        wants = reference.read_metadata(path).get("tokenizer.ggml.pre") in reference.NORMALIZED
        assert tokenize(path, [text])[0].raw.decode().lstrip(" ") == (unicodedata.normalize("NFC", text) if wants else text), path


def test_a_marker_of_the_template_is_the_templates_alone():
    for text in ("<tool_call>", "</tool_call>"):
        assert len(tokenize(QWEN, [[(text, True)]])[0].ids) == 1
        assert len(tokenize(QWEN, [text])[0].ids) > 1


def random_bytes(n):
    rng = random.Random(23)
    out = []
    for i in range(n):
        b = bytearray("".join(rng.choice(HAND_PICKED) for _ in range(3)).encode()) if i % 2 else bytearray(rng.randbytes(rng.randrange(1, 80)))
        for _ in range(rng.randrange(1, 6)):
            if b:
                b[rng.randrange(len(b))] = rng.randrange(256)
        out.append(bytes(b))
    return out


def nfc(text):
    """Bytes with their well-formed stretches normalised, each by itself."""
    stretches = re.split("([\udc80-\udcff]+)", text.decode("utf-8", "surrogateescape"))
    return "".join(s if i % 2 else unicodedata.normalize("NFC", s) for i, s in enumerate(stretches)).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("path", MODELS + [vocabulary(k) for k in KINDS], ids=NAMES + KINDS)
def test_any_bytes_come_back(path):
    """As they were sent or, where the tokenizer wants that, with their text in NFC."""
    texts = random_bytes(2000) + [t.encode() for t in HAND_PICKED] + [bytes([b]) for b in range(256)]
    meta = reference.read_metadata(path)
    spm = meta["tokenizer.ggml.model"] == "llama"
    n_lost = 0
    for t, a in zip(texts, tokenize(path, texts)):
        if not spm and meta["tokenizer.ggml.pre"] in reference.NORMALIZED:
            t = nfc(t)
        if spm:  # U+2581 is its space; a space may stand before everything
            t = t.replace("▁".encode(), b" ")
            assert a.raw in (t, b" " + t) and a.n_lost == 0
            assert a.text == a.raw[len(a.raw) - len(t):].decode(errors="replace").encode()
        else:
            assert len(a.raw) + a.n_lost == len(t)
            assert a.n_lost or a.raw == t
            assert a.text == a.raw.decode(errors="replace").encode()
        n_lost += a.n_lost
    lacking = ("deepseek-llm", "deepseek-coder", "falcon", "starcoder", "refact", "mpt")
    assert (n_lost > 0) == (path in (SMOLLM2, *(vocabulary(k) for k in lacking)))  # these have no token for some bytes


def test_bos_is_added_where_the_model_wants_it_and_never_twice():
    for path, bos, wants in ((GEMMA, 2, True), (QWEN, 151643, False), (vocabulary("llama-bpe"), 128000, True), (vocabulary("llama-spm"), 1, True)):
        name = reference.read_metadata(path)["tokenizer.ggml.tokens"][bos]
        plain, own, users, none = tokenize(path, ["Hi", [(name, True), ("Hi", False)], name + "Hi", ""], bos=True)
        assert (plain.ids[0] == bos) == wants
        assert own.ids.count(bos) == 1
        assert users.ids.count(bos) == wants  # the spelled one is text
        assert none.ids == [bos] * wants


# One vocabulary for each set of rules; all of them, and all texts, in the full run.
SPEED = [SMOLLM2, QWEN, GEMMA] + [vocabulary(k) for k in (KINDS if FULL else ["llama-bpe", "deepseek-llm", "deepseek-coder", "falcon"])]


@pytest.mark.parametrize("path", SPEED, ids=lambda p: p.stem)
def test_a_megabyte_of_anything_takes_less_than_two_seconds(path):
    hard = ["prose and code", "a", "spaces", "newlines", "punctuation", "alphabet", "combining marks", "decomposed", "notes that grow",
            "no-break space", "random bytes"]
    inputs = speed.texts()
    took = speed.measure(path, inputs if FULL else {name: inputs[name] for name in (hard if path in MODELS else hard[2::3])})
    assert not {name: s for name, s in took.items() if s >= 2}  # of processor time: the machine may be busy with other things


def test_command_prints_ids_and_pieces():
    nextd = tool.ROOT / "build/nextd"

    def run(*arguments, text=b"Hello w\xc3\xb6rld \xff"):
        command = [nextd, "tokenize", *arguments, "-m", vocabulary("gpt-2")]
        return json.loads(subprocess.run(command, input=text, check=True, capture_output=True).stdout)

    pieces = run()
    assert [p["id"] for p in pieces] == run("--ids") == tokenize(vocabulary("gpt-2"), [b"Hello w\xc3\xb6rld \xff"])[0].ids
    assert "".join(p["text"] for p in pieces).encode("utf-8", "surrogateescape") == b"Hello w\xc3\xb6rld \xff"
    assert run(text=b"") == []
    assert run("--ids", "--special", text=b"<|endoftext|>") == [50256] != run("--ids", text=b"<|endoftext|>")
