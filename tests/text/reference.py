"""The reference: Hugging Face's `tokenizers`, set up as each model family publishes it, over the vocabulary that a GGUF file holds.

Nothing here comes from the project's own reader or rules: the file is read by the few lines below, and the pre-tokenisers are the families'
tokenizer.json definitions, written with the library's own parts (its regular expression engine and Unicode tables are not ours either).
"""
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_metadata(path):
    """The key-value part of a GGUF v3 file."""
    with open(path, "rb") as f:
        magic, version, _, n_kv = struct.unpack("<4sIQQ", f.read(24))
        assert magic == b"GGUF" and version in (2, 3)

        def string():
            return f.read(struct.unpack("<Q", f.read(8))[0])

        def value(kind):
            if kind == 8:
                return string().decode("utf-8", "surrogateescape")
            if kind == 9:
                item, n = struct.unpack("<IQ", f.read(12))
                if item == 8:
                    return [value(8) for _ in range(n)]
                size = struct.calcsize("<" + SCALARS[item])
                return list(struct.unpack(f"<{n}{SCALARS[item]}", f.read(n * size)))
            return struct.unpack("<" + SCALARS[kind], f.read(struct.calcsize("<" + SCALARS[kind])))[0]

        out = {}
        for _ in range(n_kv):
            key = string().decode()
            out[key] = value(struct.unpack("<I", f.read(4))[0])
        return out


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-"
    "\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134"
    "\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
DEEPSEEK_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = pre_tokenizers.Digits(individual_digits=True)

# tokenizer.ggml.pre: (pre-tokenisers in order, whole words first).
KINDS = {
    "gpt-2": ([byte_level(True)], False),
    "llama-bpe": ([split(CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL), byte_level(False)], True),
    "smollm": ([DIGITS, byte_level(True)], False),
    "qwen2": ([split(CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL), byte_level(False)], False),
    "deepseek-llm": ([split("[\r\n]"), split(rf"\s?[{CASED_LETTERS}]+"), split(rf"\s?[{DEEPSEEK_MARKS}]+"), split(r"\s+$"),
                                 split(DEEPSEEK_CJK), DIGITS, byte_level(False)], False),
    "deepseek-coder": ([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(DEEPSEEK_CJK), DIGITS,
                                   byte_level(False)], False),
    "falcon": ([pre_tokenizers.Punctuation("contiguous"), byte_level(True), pre_tokenizers.Digits(individual_digits=False),
                           split("[0-9][0-9][0-9]")], False),
    "starcoder": ([DIGITS, byte_level(True)], False),
    "refact": ([DIGITS, byte_level(True)], False),
    "command-r": ([DIGITS, byte_level(True)], False),
    "mpt": ([byte_level(True)], False),
}
# Whose published tokenizer.json has the normalizer NFC. (mpt's is GPT-NeoX's; DeepSeek's distilled Qwen has Qwen's.)
NORMALIZED = ("qwen2", "command-r", "mpt")


def is_special(token, kind, runs_are_words):
    return kind in (CONTROL, UNKNOWN) or (kind == USER_DEFINED and not (runs_are_words and set(token) == {" "}))


def add_special(tokenizer, tokens, types, runs_are_words=False):
    """As the library does itself: longest first, anywhere in the text, before normalisation."""
    named = [(i, t) for i, t in enumerate(types) if is_special(tokens[i], t, runs_are_words)]
    tokenizer.add_tokens([AddedToken(tokens[i], special=t != USER_DEFINED, normalized=False) for i, t in named])


def bpe(meta):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    steps, whole_words = KINDS[meta["tokenizer.ggml.pre"]]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    t = Tokenizer(BPE({w: i for i, w in enumerate(tokens)}, merges, ignore_merges=whole_words))
    if meta["tokenizer.ggml.pre"] in NORMALIZED:
        t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(steps)
    t.decoder = decoders.ByteLevel()
    add_special(t, tokens, types)
    return t


def spm(meta):
    """SentencePiece's BPE as `tokenizers` runs it: every way to cut a piece in two pieces is a merge, ranked by the piece's score; runs of spaces
    come first, short ones before long ones (Gemma's published merges)."""
    tokens, types, scores = (meta[f"tokenizer.ggml.{k}"] for k in ("tokens", "token_type", "scores"))
    runs = {"▁" * len(w) for w, t in zip(tokens, types) if t == USER_DEFINED and set(w) == {" "}}
    tokens = [w.replace(" ", "▁") if t == USER_DEFINED and set(w) == {" "} else w for w, t in zip(tokens, types)]
    vocab = {w: i for i, w in enumerate(tokens)}
    words = {w for w, i in vocab.items() if types[i] in (NORMAL, UNUSED, USER_DEFINED)}
    merges = []
    for word in words:
        cuts = [(word[:k], word[k:]) for k in range(1, len(word)) if word[:k] in words and word[k:] in words]
        rank = (0, len(word)) if word in runs else (1, -scores[vocab[word]])
        merges += [(rank, vocab[a], vocab[b], (a, b)) for a, b in cuts]
    merges.sort(key=lambda m: m[:3])
    unk = tokens[meta["tokenizer.ggml.unknown_token_id"]]
    t = Tokenizer(BPE(vocab, [m[3] for m in merges], unk_token=unk, fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend("▁")] if meta.get("tokenizer.ggml.add_space_prefix", True) else []
    t.normalizer = normalizers.Sequence(prefix + [normalizers.Replace(" ", "▁")])
    add_special(t, meta["tokenizer.ggml.tokens"], types, runs_are_words=True)
    return t


def build(path):
    meta = read_metadata(path)
    return bpe(meta) if meta["tokenizer.ggml.model"] == "gpt2" else spm(meta), meta
