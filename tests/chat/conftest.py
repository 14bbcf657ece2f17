"""The renderer, built once and asked line by line."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = "build/tests/chat/render"
NOW = 1721990096  # 2024-07-26 10:34:56 UTC


class Renderer:
    def __init__(self):
        subprocess.run(["make", "-s", TOOL], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen([ROOT / TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, case):
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the renderer died of {json.dumps(case)[:2000]}"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0


@pytest.fixture(scope="session")
def render():
    renderer = Renderer()
    yield renderer
    renderer.close()


def case(template, messages=(), tools=None, extra=None, generate=False, bos="<s>", eos="</s>"):
    return {
        "template": template,
        "messages": list(messages),
        "tools": tools,
        "extra": extra,
        "add_generation_prompt": generate,
        "bos": bos,
        "eos": eos,
        "now": NOW,
    }
