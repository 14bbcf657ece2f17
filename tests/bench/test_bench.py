"""scripts/bench without its clock: figures made up by hand through statistics, tables, bounds and pictures; and the measuring programs on a tiny
model, where what they count is looked at, never what they time."""
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import engine  # noqa: E402
import peer  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
from plans import PLANS  # noqa: E402

TINY = ROOT / "tests" / "fixtures" / "tiny" / "gemma3.gguf"
LIMITS = {"threads": 2, "int8_name": "vpdpbusd zmm", "int8_gops": [1000.0, 2000.0],
          "read": [[1 << 20, 90, 180], [1 << 24, 40, 80], [1 << 28, 20, 40]]}
READY = {"device": "cpu:avx512", "threads": 2, "load_s": 0.5, "file_bytes": 10**8, "loaded_bytes": 10**8, "step_bytes": 10**8, "macs": 10**8,
         "vocab_macs": 3 * 10**7, "kv_bytes_per_pos": 20000, "n_layers": 10, "n_windowed": 0, "window": 0, "n_ctx_train": 8192}


def sides(ours, others):
    return {"ours": ours, "peer": others}


def made_up(key, ours=(900.0, 1000.0, 800.0), others=(100.0, 100.0, 100.0)):
    cases = {c: sides(list(ours), list(others)) for c in ("prefill 128", "prefill 512", "1 stream", "8 streams", "32 streams")}
    return {"key": key, "command": "scripts/bench", "date": "2026-01-01", "machine": "a machine", "commit": "abc", "peer": "llama.cpp, without AMX",
            "minutes": 1, "others": 0.01, "ready": READY, "cases": cases, "read": [40.0, 50.0, 45.0],
            "curves": {"limits": LIMITS, "streams": [[1, 300.0], [8, 900.0], [256, 1200.0]], "context": [[128, 3000.0, 300.0], [8192, 900.0, 90.0]]}}


def test_ratios_are_of_pairs_and_not_of_medians():
    assert report.ratios(sides([10, 30, 20], [1, 10, 20])) == [10, 3, 1]


def test_a_missed_goal_says_so():
    assert report.verdict(7.99, 8) == "≥ 8, missed"
    assert report.verdict(8, 8) == "≥ 8"
    lines = report.rate_table(made_up("smollm2", ours=(790.0, 780.0, 810.0)))
    missed = [line for line in lines if "missed" in line]
    assert [line.split("|")[1].strip() for line in missed] == ["prefill 128", "prefill 512"]
    assert "7.90 (7.80 .. 8.10)" in missed[0]


def test_the_goal_of_a_read_is_lower_where_memory_is_fast():
    plan = PLANS["smollm2"]
    assert (plan.goal_of_read(60), plan.goal_of_read(60.1)) == (0.75, 0.70)
    assert PLANS["qwen-1.5b"].goal_of_read(100) == 0.85
    assert PLANS["gemma"].goal_of_read(20) == 0


def test_the_fraction_is_of_the_median_read():
    fractions, read = report.read_fractions(made_up("smollm2", ours=(225.0, 450.0, 360.0)))
    assert read == 45
    assert fractions == pytest.approx([0.5, 1.0, 0.8])


def test_every_model_is_in_the_summary_with_its_goals():
    text = report.summary([made_up(key) for key in PLANS])
    for key, plan in PLANS.items():
        line = next(part for part in text.split("\n") if plan.title in part)
        assert [f"({goal:g})" in line for goal in plan.goals.values()] == [True] * 5
    assert text.count("\n") == 2 + len(PLANS)


def test_bandwidth_lies_between_the_measured_sizes():
    assert report.bandwidth(LIMITS, 1) == 180
    assert report.bandwidth(LIMITS, 1 << 22) == pytest.approx(130)
    assert report.bandwidth(LIMITS, 1 << 24) == pytest.approx(80)
    assert report.bandwidth(LIMITS, 1 << 40) == 40


def test_a_windowed_layer_reads_no_more_than_its_window():
    windowed = {**READY, "n_windowed": 9, "window": 512}
    assert report.kv_bytes(windowed, 100) == report.kv_bytes(READY, 100) == 20000 * 100
    assert report.kv_bytes(windowed, 8192) == 2000 * 8192 + 9 * 2000 * 512


def test_bounds_count_weights_once_and_kv_by_stream():
    memory, arithmetic = report.decode_bounds(READY, {**LIMITS, "read": [[1, 0, 100], [2, 0, 100]]}, 10, 1000)
    assert memory == pytest.approx(10 * 100e9 / (1e8 + 10 * 2e7))
    assert arithmetic == pytest.approx(2000e9 / 2.6e8)


def test_pictures_are_well_formed_and_hold_their_points():
    found = report.pictures([made_up(key) for key in PLANS])
    assert sorted(found) == ["bench-bandwidth.svg", "bench-context.svg", "bench-streams.svg"]
    for name, svg in found.items():
        root = xml.etree.ElementTree.fromstring(svg)
        width, height = float(root.get("width")), float(root.get("height"))
        circles = root.findall("{http://www.w3.org/2000/svg}circle")
        assert len(circles) >= 6, name
        for c in circles:
            assert 0 < float(c.get("cx")) < width and 0 < float(c.get("cy")) < height
    for plan in PLANS.values():
        assert plan.title in found["bench-streams.svg"]


def test_a_title_is_text_and_never_markup():
    svg = plot.picture("a < b & c", [plot.Panel('"x"', [plot.Line("<l>", "ours", [(1, 1), (2, 2)])], [(1, "1")])], "x", "y")
    texts = [t.text for t in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & c" in texts and "<l>" in texts


def test_documents_keep_what_others_wrote():
    document = "before\n<!-- m: begin -->\nold\n<!-- m: end -->\nafter\n"
    assert report.put_between(document, "m", "new\n") == "before\n<!-- m: begin -->\nnew\n<!-- m: end -->\nafter\n"
    with pytest.raises(ValueError):
        report.put_between("no marks", "m", "new")


@pytest.mark.parametrize("name", ["README.md", "docs/bench.md"])
def test_the_documents_have_a_place_for_the_tables(name):
    report.put_between((ROOT / name).read_text(encoding="utf-8"), "scripts/bench", report.page([made_up("smollm2")]))


def test_lines_of_a_program_that_are_no_json_are_passed_over():
    assert peer.json_lines('warming up\n{"pl": 1, "speed_tg": 2.5}\n\nbye\n') == [{"pl": 1, "speed_tg": 2.5}]


# ---- the programs ----

@pytest.fixture(scope="module")
def tools():
    subprocess.run(["make", "-s", "bench-tools"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return ROOT / "build" / "bench"


def run(tools, name, *words, stdin=""):
    r = subprocess.run([tools / name, *map(str, words)], input=stdin, capture_output=True, text=True, check=False)
    assert r.returncode == 0, r.stderr
    return r.stdout


def test_the_profile_covers_every_operation_of_a_step(tools):
    text = run(tools, "profile", "-t", 2, "-c", 64, "-s", 0.01, ROOT / "tests" / "fixtures" / "tiny" / "qwen2.gguf")
    operations = ("embed", "norm", "qkv", "rope_store", "attend", "project_o", "gate_up", "project_h", "vocab")
    assert text.count("the step") >= 3
    for name in operations:
        assert text.count(f"\n  {name} ") == text.count("the step"), name


def test_the_pool_is_measured_by_kinds_of_loops(tools):
    lines = run(tools, "pool", 2, 0, 5).strip().split("\n")
    assert len(lines) > 3 and {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_engine_answers_every_command_in_its_turn(tools):
    with engine.Engine(TINY, 2, 4, 256, 64) as e:
        assert e.ready["n_layers"] == 7 and e.ready["n_windowed"] == 6 and e.ready["window"] == 48
        assert 0 < e.ready["step_bytes"] < e.ready["file_bytes"]
        for words, expected in ((("prefill", 100, 2), {"tokens": 100, "reps": 2}), (("decode", 4, 10, 5), {"streams": 4, "context": 10, "steps": 5})):
            got = e.ask(*words)
            assert {k: got[k] for k in expected} == expected
            assert got["rate"] > 0
        assert [c["context"] for c in e.contexts(2, [16, 64, 100])] == [16, 64, 100]
        assert e.ask("read", 3)["bytes"] == e.ready["step_bytes"]


def test_the_engine_samples_more_rows_than_one_group_of_scores(tools):
    with engine.Engine(TINY, 2, 300, 8192, 64) as e:
        assert e.ask("decode", 300, 4, 3)["streams"] == 300


def test_the_engine_refuses_what_does_not_fit_and_goes_on(tools):
    commands = "decode 5 10 5\ndecode 4 250 60\ncontext 2 64 16\nprefill 0 1\nnonsense\nprefill\nprefill 8 1\n"
    r = subprocess.run([tools / "engine_rate", TINY, "1", "256", "4", "64"], input=commands, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in r.stdout.splitlines()]
    assert [next(iter(a)) for a in answers] == ["op"] + ["error"] * 2 + ["op"] + ["error"] * 4 + ["op"]


def test_the_engine_counts_an_output_matrix_and_not_the_embedding_beside_it(tools):
    with engine.Engine(ROOT / "tests" / "fixtures" / "tiny" / "type-f32.gguf", 1, 1, 64, 64) as e:
        matrices = 4 * (e.ready["macs"] + e.ready["vocab_macs"])
        assert matrices < e.ready["step_bytes"] < 1.1 * matrices
        assert e.ready["file_bytes"] > e.ready["step_bytes"] + 4 * e.ready["vocab_macs"]


def test_no_model_is_a_sentence(tools):
    r = subprocess.run([tools / "engine_rate", "no-such-file.gguf"], input="", capture_output=True, text=True, check=False)
    assert r.returncode == 1 and "no-such-file.gguf" in r.stderr
