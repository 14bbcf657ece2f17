"""The daemon as the tests see it: a real process on a free loopback port, with a real model, and its log at hand when something fails.

One class, used by every test here. It ends only the process that it started. It reads no environment of the user's: NEXTD_* is dropped, so that a
test means the same everywhere.
"""
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import openai

ROOT = Path(__file__).resolve().parent.parent.parent
NEXTD = Path(os.environ.get("NEXTD_TEST_BINARY", ROOT / "build" / "nextd"))
SMOLLM2 = ROOT / "models" / "smollm2-135m-instruct-q4_1.gguf"
QWEN = ROOT / "models" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GEMMA = ROOT / "models" / "gemma-3-270m-q4_k_m.gguf"
# The same program with an emulated GPU in place of CUDA (cuda.mk).
EMULATED = ROOT / "build" / "cuda-emulated" / "nextd"
VECTORS = ROOT / "models" / "vectors"
TOY = ROOT / "tests" / "fixtures" / "toy.gguf"

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def clean_environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NEXTD_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))}
    env.update(extra or {})
    return env


def nextd(*arguments, stdin=b"", timeout=120, env=None, binary=NEXTD):
    """Runs `nextd ARGUMENTS` to its end; the result has returncode, stdout and stderr (bytes)."""
    command = [str(binary), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, env=clean_environment(env), check=False)


class Daemon:
    """`nextd serve -m MODEL OPTIONS`, ready when the constructor returns (unless wait=False)."""

    def __init__(self, *options, model=SMOLLM2, wait=True, env=None, tcp=True, prefix=(), pass_fds=(), binary=NEXTD):
        self.port = free_port() if tcp else None
        self.model = Path(model).stem  # its name in the API, unless --alias says otherwise
        self.log_file = tempfile.NamedTemporaryFile(prefix="nextd-", suffix=".log")
        command = [*map(str, prefix), str(binary), "serve", "-m", str(model), *map(str, options)]
        if tcp:
            command += ["--port", str(self.port)]
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=subprocess.STDOUT,
                                        env=clean_environment(env), pass_fds=pass_fds, cwd=ROOT)
        self.url = f"http://127.0.0.1:{self.port}"
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def wait_ready(self):
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"nextd ended with {self.process.returncode} before it was ready\n{self.log()}")
            try:
                if httpx.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"nextd was not ready within {START_TIMEOUT_S} s\n{self.log()}")

    def log(self):
        return Path(self.log_file.name).read_text(errors="replace")

    def client(self, **options):
        return openai.OpenAI(base_url=self.url + "/v1", **{"api_key": "none", "max_retries": 0, "timeout": 120, **options})

    def async_client(self, **options):
        return openai.AsyncOpenAI(base_url=self.url + "/v1", **{"api_key": "none", "max_retries": 0, "timeout": 240, **options})

    def get(self, path, **options):
        return httpx.get(self.url + path, **{"timeout": 60, **options})

    def post(self, path, body=None, **options):
        return httpx.post(self.url + path, json=body, **{"timeout": 120, **options})

    def connect(self):
        """A bare TCP connection, for what no client library would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metric(self, name):
        """The sum of a metric over its labels; name without the nextd: prefix."""
        total, seen = 0.0, False
        for line in self.get("/metrics").text.splitlines():
            if line.startswith((f"nextd:{name} ", f"nextd:{name}{{")):
                total, seen = total + float(line.rsplit(" ", 1)[1]), True
        assert seen, f"no metric nextd:{name}"
        return total

    def wait_metric(self, name, value, timeout=20):
        """Waits until a metric has a value: how tests wait for the daemon without guessing at times."""
        end = time.monotonic() + timeout
        while (got := self.metric(name)) != value:
            assert time.monotonic() < end, f"nextd:{name} is {got}, expected {value} within {timeout} s"
            time.sleep(0.01)

    def stop(self, how=signal.SIGTERM, timeout=STOP_TIMEOUT_S):
        """Asks the daemon to end and returns its exit status; negative: the signal that ended it."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            status = self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            if kind is not None:
                print(f"---- log of {' '.join(self.command)}\n{self.log()}")
        if kind is None:
            # Sanitizers, asserts and leaks all end here.
            assert status == 0, f"nextd ended with {status}\n{self.log()}"
