"""Plays systemd's part: hands nextd a listening socket, listens to its notifications, ends it with SIGTERM.

No systemd is needed: the protocol is an inherited descriptor 3 with LISTEN_FDS/LISTEN_PID, and datagrams to NOTIFY_SOCKET.
"""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from daemon import NEXTD, ROOT, TOY, clean_environment


class Manager:
    """One service as systemd would run it: the notification socket, the inherited listening socket, the process."""

    def __init__(self, tmp_path, *args, watchdog_s=None):
        self.messages = []
        self.path = str(tmp_path / "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.path)
        self.listen = socket.socket()
        self.listen.bind(("127.0.0.1", 0))
        self.listen.listen(64)
        self.port = self.listen.getsockname()[1]
        self.log = open(tmp_path / "log", "w+b")
        env = clean_environment({"NOTIFY_SOCKET": self.path, "LISTEN_FDS": "1"})
        if watchdog_s:
            env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        # LISTEN_PID must name the process that exec turns into nextd, and so must WATCHDOG_PID.
        fd = self.listen.fileno()
        move = f"exec 3<&{fd}; " + ("" if fd == 3 else f"exec {fd}<&-; ")
        script = move + 'export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$0" "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", script, str(NEXTD), "serve", "--model", str(TOY), *args],
            env=env, pass_fds=(fd,), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            data = self.notify.recv(65536)
            if data == b"bye":
                return
            self.messages += [(time.monotonic(), line) for line in data.decode().split("\n") if line]

    def wait_for(self, text, timeout_s=30):
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if any(line.startswith(text) for _, line in self.messages):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.log.seek(0)
        pytest.fail(f"no '{text}' in {self.messages}; log:\n{self.log.read().decode()}")

    def request(self, method, path, body=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        conn.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        response = conn.getresponse()
        data = response.read()
        conn.close()
        return response.status, data

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"bye", self.path)
        self.reader.join(5)
        for thing in (self.notify, self.listen, self.log):
            thing.close()


@pytest.fixture
def manager(tmp_path):
    made = []

    def make(*args, **kwargs):
        made.append(Manager(tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def lines(m):
    return [line for _, line in m.messages]


def test_socket_activation_ready_and_stop(manager):
    m = manager()
    m.wait_for("READY=1")
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in lines(m)), lines(m)
    assert lines(m).index("READY=1") > min(i for i, x in enumerate(lines(m)) if x.startswith("EXTEND_TIMEOUT_USEC="))
    status, body = m.request("GET", "/health")
    assert status == 200, body
    status, body = m.request("POST", "/v1/completions", {"prompt": "hello", "max_tokens": 4})
    assert status == 200, body
    m.process.send_signal(signal.SIGTERM)
    assert m.process.wait(30) == 0
    assert "STOPPING=1" in lines(m)


def test_watchdog_is_fed_when_idle_and_when_busy(manager):
    m = manager(watchdog_s=1.0)
    m.wait_for("READY=1")
    time.sleep(2.2)
    assert lines(m).count("WATCHDOG=1") >= 3, lines(m)
    before = lines(m).count("WATCHDOG=1")
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        status, _ = m.request("POST", "/v1/completions", {"prompt": "hello", "max_tokens": 64, "ignore_eos": True})
        assert status == 200
    assert lines(m).count("WATCHDOG=1") >= before + 3, lines(m)


def test_sigterm_lets_a_stream_finish(manager):
    m = manager("--drain-timeout-s", "20")
    m.wait_for("READY=1")
    conn = http.client.HTTPConnection("127.0.0.1", m.port, timeout=60)
    conn.request("POST", "/v1/completions", json.dumps({"prompt": "hello", "max_tokens": 1500, "ignore_eos": True, "stream": True}),
                 {"Content-Type": "application/json"})
    response = conn.getresponse()
    assert response.status == 200
    first = response.readline()
    assert first.startswith(b"data: ")
    m.process.send_signal(signal.SIGTERM)
    m.wait_for("STOPPING=1")
    rest = response.read()
    assert b'"finish_reason":"length"' in rest.replace(b'" ', b'"').replace(b": ", b":"), rest[-400:]
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert m.process.wait(30) == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is installed by scripts/check")
def test_unit_is_confined():
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", str(ROOT / "config" / "nextd.service")],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
