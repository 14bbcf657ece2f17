"""Texts to tokenise: hand-picked traps, and random ones from a seed. Only characters that this Python's Unicode knows: newer ones are classed by each
library's own tables, and libraries differ in age. Those of `tokenizers` for normal forms are Unicode 9's: it does not know a hundred marks of rare
scripts for such."""
import random
import sys
import unicodedata

from tokenizers import normalizers

HAND_PICKED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", "\r", " \n ", "\n \n", "a", " a", "a ", "  a", "a  ", "a\n", "\na",
    "Hello, world!", "Hello World", " Hello", "hello  world", "The quick brown fox jumps over the lazy dog.",
    "don't DON'T I'll I'LL we've we'Re it'ſ 'S 's", "'", "''", "'s's", " 's", "'t'T", "x's", "1's", "'ll", "'lL", "’s", "12345",
    "1 22 333 4444 55555", "3.14159", "1,000,000", "٣٤٥", "½ ² ³ ¼ ⅷ Ⅷ", "一二三", "1a2b3c", "a1b22c333",
    "$100 + 5% = ~£80^2 `x` <a|b>", "!!!", "...", "?!?!", "-- --- ----", "==", "http://example.com/a?b=c&d=e#f", "user@example.com",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n", "{\"a\": [1, 2, {\"b\": null}]}", "<html><body>\n<h1>T</h1></body></html>",
    "#include <stdio.h>\r\nint main() {}\r\n", "日本語のテキスト", "中文字符，标点。", "한국어 텍스트",
    "Ελληνικά", "Русский текст", "عربي نص", "עברית", "हिन्दी", "ไทย", "Tiếng Việt",
    "Türkçe İıŞş", "ქართული", "ÀÉÎõü", "e\u0301 a\u0308 o\u0302\u0323", "\u0301", "a\u0301\u0301\u0301",
    "\u1100\u1161\u11a8", "Å Å Ω Ω", "ﬁ ﬀ ﬆ", "\u212b\u2126", "\uac00\u11a8", "😀", "👨‍👩‍👧‍👦",
    "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "a😀b", " 😀 😀", "😶‍🌫️", "\u200b\u200c\u200d\ufeff", "\u00ad",
    "\u180e", "\u0085", "\u00a0\u00a0", "\u2028\u2029", "\u3000　", "\u1680\u2000\u200a\u202f\u205f", "a\u00a0b", "a\u180eb", "\x00",
    "\x00\x01\x02", "\x1b[31mred\x1b[0m", "\x7f", "\x0b\x0c", "\x1c\x1d\x1e\x1f", "\ufffd", "\U0010ffff", "\ue000", "\ufffe", "▁",
    "▁▁", "a▁b", "Ġ", "ĊĊ", "Ġhello", "<0x0A>", "<0xFF>", "<|not_a_token|>", "<", "<|", "<|im_", "<s", "</s", "<unused", "[INST]",
    "[multimodal", "ø ö ú ÿ õ ÷ û ý À ù Á þ ü", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababababababababab", "=" * 100, " " * 100, "\n" * 100, "\t" * 50, "a" * 1000, "1" * 100, "é" * 200, "字" * 200,
    " \t" * 50, " \n" * 50, "\n " * 50, "word " * 100, "  \n  \n  x", "x  \n\n  y", "\n\n   indented", "trailing   ",
    # What normal forms change: jamo, singletons, exclusions, marks in the wrong order or blocked, marks that join other things than letters.
    "\u1112\u1161\u11ab\u1100\u1173\u11af", "\uac00\u11a7", "\u1161\u11a8\u1100", "\u212a\u037e\u0387\u1fef\u2000\u2001\u2329",
    "\u0344 a\u0344", "\u0958\u09dc\u0f43\ufb1d\U0001d15e", "\u0915\u093c \u05d9\u05b4", "\u304b\u3099 \u306f\u309a", "\uf900\ufa1e\U0002f800",
    "o\u0323\u0302 o\u0302\u0323 \u1ecd\u0302 \u00f4\u0323", "e\u0301\u0301 \u0301e", "a\u0315\u0300\u05ae\u0300b", "<\u0338=\u0338>\u0338",
    "\u0340\u0341\u0343\u0374", "\u0b47\u0b3e \u0dd9\u0dcf\u0dca \u1025\u102e", "\u0301\u0323" * 50, "\u0301\u0323" * 5000, " \u0338", "1\u0301",
]

WORDS = """the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but not what all were we
when your can said there use an each which she do how their if will up other about out many then them these so some her would make like
him into time has look two more write go see number no way could people my than first water been call who oil its now find long down
day did get come made may part don't I'm you're we'll they've naïve café résumé über straße garçon señor Zürich Ångström
Привет мир как дела 你好 世界 こんにちは 안녕하세요 مرحبا שלום नमस्ते
สวัสดี xin chào Tiếng Việt ngữ được người ἄνθρωπος ガギグ पढ़ना
return void int main print self None True for(i=0;i<n;i++) x==y a->b std::vector<int> import numpy as np
\\frac{1}{2} #hashtag @user 2024-01-31 12:34:56 3.5% $5 0xDEADBEEF HTTP/1.1 camelCase snake_case SCREAMING_CASE kebab-case ... -- !?
(parens) [brackets] {braces} "quoted" 'single' `code` **bold** https://a.b/c""".split()
GAPS = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n", "\n  ", "", "", ", ", ". ", "\u00a0", "\u3000"]
RANGES = [(0x20, 0x7f)] * 4 + [
    (0, 0x20), (0x80, 0x100), (0x100, 0x250), (0x2b0, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xe80), (0x1100, 0x1200), (0x1e00, 0x2070),
    (0x2070, 0x2c00), (0x3000, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a4), (0xf900, 0xfb50), (0xfe00, 0x10000), (0x1f000, 0x1faf0),
    (0x10000, 0x1f000), (0x20000, 0x20100), (0xe0000, 0xe01f0)]


def is_known(c):
    """Assigned, and a mark for the reference if it is one."""
    if unicodedata.category(c) in ("Cn", "Cs"):
        return False
    if not unicodedata.combining(c) and not unicodedata.decomposition(c):
        return True
    return all(normalizers.NFC().normalize_str(t) == unicodedata.normalize("NFC", t)
               for t in (f"x{c}\u0334", f"x\u0345{c}", unicodedata.normalize("NFD", c)))


POOLS = [[chr(c) for c in range(*r) if is_known(chr(c))] for r in RANGES]
ALL = [chr(c) for c in range(sys.maxunicode + 1) if is_known(chr(c)) and unicodedata.category(chr(c)) != "Co"]
MARKS = [c for c in ALL if unicodedata.combining(c)]
# What a normal form changes: characters that decompose, and the parts they decompose to.
UNSTABLE = [c for c in ALL if unicodedata.decomposition(c) and not unicodedata.decomposition(c).startswith("<")]
UNSTABLE += sorted({p for c in UNSTABLE for p in unicodedata.normalize("NFD", c)}) + [chr(c) for c in range(0x1100, 0x1200)]


def decomposed(rng):
    """Prose as some file systems and keyboards spell it, characters that a normal form changes, marks in any order."""
    style = rng.randrange(4)
    if style <= 1:
        return unicodedata.normalize("NFD", random_text(rng, rng.choice([0, 2, 3])))
    if style == 2:
        return "".join(rng.choice(UNSTABLE) + rng.choice(["", "", "", " ", "a", "\u0301"]) for _ in range(rng.randrange(1, 30)))
    return "".join(rng.choice("aeiou =<") + "".join(rng.choice(MARKS) for _ in range(rng.randrange(6))) for _ in range(rng.randrange(1, 20)))


def random_text(rng, style=None):
    style = rng.randrange(8) if style is None else style
    if style >= 6:
        return decomposed(rng)
    if style <= 1:  # prose
        return "".join(rng.choice(WORDS) + rng.choice(GAPS) for _ in range(rng.randrange(1, 40)))
    if style == 2:  # one script, some ASCII
        pool, ascii_pool = rng.choice(POOLS), POOLS[0]
        return "".join(rng.choice(pool if rng.random() < 0.7 else ascii_pool) for _ in range(rng.randrange(1, 60)))
    if style == 3:  # anything at all
        return "".join(rng.choice(ALL) for _ in range(rng.randrange(1, 30)))
    if style == 4:  # few different characters, long runs
        few = [rng.choice(rng.choice(POOLS)) for _ in range(rng.randrange(1, 4))] + rng.choice([[" "], ["\n"], ["'"], []])
        return "".join(rng.choice(few) * rng.choice([1, 1, 1, 2, 3, rng.randrange(1, 40)]) for _ in range(rng.randrange(1, 15)))
    return "".join(rng.choice(rng.choice(POOLS)) + rng.choice(["", "", " ", "\n"]) for _ in range(rng.randrange(1, 30)))


def samples(n, seed):
    rng = random.Random(seed)
    return HAND_PICKED + [random_text(rng) for _ in range(n - len(HAND_PICKED))]
