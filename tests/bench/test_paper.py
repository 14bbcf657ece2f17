"""The paper model: its page is what it prints, its totals agree with what others say of the same bytes and operations, and its constants with the
documents that they come from."""
import re
import struct
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import paper  # noqa: E402
import peer  # noqa: E402
import paper_counts  # noqa: E402
import paper_devices  # noqa: E402
import paper_model  # noqa: E402
from paper_model import MODELS, PAPER_MODELS, TYPES  # noqa: E402

COUNTS = paper_counts.load_counts()
FILES = {"smollm2": "smollm2-135m-instruct-q4_1.gguf", "qwen": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "gemma": "gemma-3-270m-q4_k_m.gguf",
         "qwen-1.5b": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"}


def doc(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows_of(text):
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.split("\n") if line.startswith("|")]


def test_the_page_is_what_the_program_prints(capsys):
    assert paper.main([]) == 0
    assert capsys.readouterr().out == doc("paper.md"), "docs/paper.md is not current: make paper-docs"


def test_every_launch_was_counted_and_nothing_else():
    assert set(COUNTS) - {""} == set(paper_counts.cases())


# ---- bytes ----

def gguf_tensors(path):
    """[(name, type number, values)] of a file, read by nobody else's code."""
    with open(path, "rb") as f:
        def number(kind):
            return struct.unpack("<" + kind, f.read(struct.calcsize(kind)))[0]

        def value(kind):
            if kind == 8:
                return f.read(number("Q")).decode()
            if kind == 9:
                inner, n = number("I"), number("Q")
                return [value(inner) for _ in range(n)]
            return number({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind])

        assert f.read(4) == b"GGUF" and number("I") == 3
        n_tensors, n_pairs = number("Q"), number("Q")
        for _ in range(n_pairs):
            value(8)
            value(number("I"))
        out = []
        for _ in range(n_tensors):
            name, size = value(8), 1
            for _ in range(number("I")):
                size *= number("Q")
            out.append((name, number("I"), size))
            number("Q")
        return out


BYTES_OF_256 = {0: 1024, 2: 144, 3: 160, 6: 176, 7: 192, 8: 272, 12: 144, 13: 176, 14: 210}  # by the number that a file gives a type


@pytest.mark.parametrize("key", FILES)
def test_a_models_bytes_are_its_files(key):
    tensors = gguf_tensors(next(p for p in (ROOT / "models" / FILES[key], peer.CACHE / FILES[key]) if p.exists()))
    tied = not any(name == "output.weight" for name, _, _ in tensors)
    read = sum(size * BYTES_OF_256[kind] // 256 for name, kind, size in tensors if kind != 0 and (tied or name != "token_embd.weight"))
    assert MODELS[key].tied == tied
    assert MODELS[key].step_bytes(planes=False) == read


def test_the_engine_says_the_same_of_a_step():
    for title, text in re.findall(r"### (.*?)\n(.*?)(?=\n### |\n## )", doc("bench.md"), re.S):
        megabytes = float(re.search(r"A step reads ([\d.]+) MB of weights", text).group(1))
        model = next(m for m in MODELS.values() if m.title == title)
        assert model.step_bytes(planes=False) / 1e6 == pytest.approx(megabytes, rel=0.003)


def test_files_of_the_large_models_have_their_known_sizes():
    def file_bytes(m):
        return m.step_bytes(planes=False) + TYPES[m.embed].file_bytes(m.vocab, m.d_model)
    assert file_bytes(MODELS["8b"]) / 1e9 == pytest.approx(4.92, rel=0.01)
    assert file_bytes(MODELS["70b"]) / 1e9 == pytest.approx(42.5, rel=0.01)


@pytest.mark.parametrize("key", PAPER_MODELS)
@pytest.mark.parametrize("streams,context", [(1, 512), (32, 4096), (256, 512)])
def test_a_step_reads_weights_and_pages_and_hardly_more(key, streams, context):
    m, step = MODELS[key], paper_model.decode(streams, context)
    t = paper_model.time_step(paper_counts.plan(m, step, COUNTS), paper_devices.A100)
    groups = -(-streams // COUNTS[""]["constants"]["score_rows"])
    vocabulary = TYPES[m.output].planes_bytes(m.vocab, m.d_model)
    assert t.weights == m.step_bytes() + (groups - 1) * vocabulary
    assert t.pages == pytest.approx(streams * (context + 1) * m.layers * 2 * m.kv * m.head_dim * 2)
    assert t.weights + t.pages <= t.bytes <= 1.3 * (t.weights + t.pages)


def test_what_does_not_fit_is_said():
    text = paper.cell(MODELS["70b"], paper_model.decode(1, 512), paper_devices.RTX4090, COUNTS)
    assert text == "does not fit"
    assert "does not fit" not in paper.cell(MODELS["70b"], paper_model.decode(1, 512), paper_devices.A100, COUNTS)
    assert paper_model.memory_bytes(MODELS["8b"], paper_model.decode(256, 4096)) > 256 * 4096 * 131072 + 4.9e9


# ---- counts ----

@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", paper_counts.TYPE_ROWS)
def test_counted_multiplications_are_those_of_the_product(kind, rows):
    line, = COUNTS[paper_counts.type_case(kind, rows)]
    blocks, issues, macs = line["grid"][0] * line["grid"][1] * line["grid"][2], line["issues"], rows * 4096 * 4096
    if TYPES[kind].is_float:
        assert issues["f32"] * 32 * blocks >= macs
    elif line["kernel"].startswith("matrix_few"):
        assert issues["dp4a"] * 32 * 4 * blocks == macs
    else:
        assert sum(paper_counts.MACS[k] * n for k, n in issues.items() if k in paper_counts.MACS) * blocks == macs


def test_a_shorter_bound_never_takes_longer():
    for device in paper_devices.DEVICES:
        for step in (paper_model.decode(1, 512), paper_counts.PROMPT):
            for launch in paper_counts.plan(MODELS["8b"], step, COUNTS):
                bounds, us = launch.times(device)
                assert 0 < paper_model.bound_of(bounds)[0] <= us


# ---- documents ----

def test_planes_are_as_the_page_of_the_backend_says():
    text = doc("cuda.md")
    table = {r[0]: r[1:] for r in rows_of(text[text.index("| type | quants |"):]) if r[0] in TYPES}
    assert set(table) == set(TYPES)
    for name, t in TYPES.items():
        planes, bits, of_file = [int(x) for x in table[name][:5]], float(table[name][5]), float(table[name][6])
        assert planes == [t.chunks * t.chunk_bytes, t.high, t.scale, t.supers, t.sixes]
        assert bits == 8 * t.planes_bytes(32, 256) / (32 * 256)
        assert of_file == pytest.approx(t.planes_bytes(32, 256) / t.file_bytes(32, 256), abs=0.0005)


def test_integer_sums_are_as_small_as_the_page_of_the_backend_says():
    text = doc("cuda.md")
    table = {r[0]: r for r in rows_of(text[text.index("| type | q[k] |"):text.index("The dot product")]) if r[0] in TYPES}
    for name, t in TYPES.items():
        if t.is_float:
            continue
        low, high, less = re.fullmatch(r"(-?\d+)\.\.(\d+)(?:, less (\d+))?", table[name][1]).groups()
        largest = max(abs(int(low) - int(less or 0)), int(high) - int(less or 0))
        assert int(table[name][5].replace(",", "")) == (16 if t.halves else 32) * largest * 127 < 2**24


def test_the_processors_constants_are_those_of_its_page():
    text = doc("cpu.md")
    for key, cpu in paper_devices.CPU.items():
        section = text[text.index(f"## {MODELS[key].title}"):]
        peaks = re.search(r"int8 peak (\d+) Gop/s, f32 (\d+) Gop/s", section).groups()
        assert (cpu.int8_gops, cpu.f32_gops) == tuple(map(float, peaks))
        rows = [r for r in rows_of(section[:section.index("\n\n", section.index("| step |"))]) if r[0].startswith(("prefill", "decode"))]
        named = [(f"{'decode' if s.context else 'prefill'} {s.rows}", s.ms, s.read_gbps) for s in cpu.steps]
        assert named == [(r[0], float(r[1]), float(r[4])) for r in rows]


def test_every_constant_of_a_device_has_a_source():
    named = {field for _, field, _ in paper_devices.SOURCES}
    for device in paper_devices.DEVICES:
        assert {f for f in vars(device) if f not in ("key", "name")} == named
