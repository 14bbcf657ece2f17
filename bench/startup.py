"""startup: from exec to the first token, with the file in the page cache, and resident memory after 32 streams; both servers, in turns.

The clock starts before the process does and stops when the first token of a one-word prompt has come. Who waits asks for readiness every few
milliseconds, which costs the server next to nothing. nextd hashes every byte of the file before it is ready.
"""
import json
import socket
import subprocess
import time

from servers import ROOT, Server, free_port, spread

LOAD, NEXTD = ROOT / "build" / "bench" / "load", ROOT / "build" / "nextd"
STREAMS, ROOM = 32, 256
PATIENCE_S = 120


def ask(port, request):
    """The whole answer to one request; b"" where nobody listens yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as s:
            s.sendall(request)
            return b"".join(iter(lambda: s.recv(1 << 16), b""))
    except OSError:
        return b""


def first_token(server, begun):
    """Seconds since `begun` at which a first token has come."""
    while b" 200 " not in ask(server.port, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[:16]:
        if server.process.poll() is not None or time.monotonic() - begun > PATIENCE_S:
            raise RuntimeError(f"{server.name} did not become ready")
        time.sleep(0.005)
    body = json.dumps({"prompt": "Once", "max_tokens": 1, "temperature": 0}).encode()
    answer = ask(server.port, b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
                              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    if b" 200 " not in answer[:16]:
        raise RuntimeError(f"{server.name}: {answer[:300]}")
    return time.monotonic() - begun


def once(name, command, seed):
    """(seconds to the first token, resident MB after the streams)"""
    port = free_port()
    begun = time.monotonic()
    server = Server(name, command(port), port)
    try:
        seconds = first_token(server, begun)
        subprocess.run([LOAD, "--port", str(port), "--streams", str(STREAMS), "--prompt", "32", "--tokens", "32", "--seed", str(seed)],
                       stdout=subprocess.DEVNULL, check=True)
        return seconds, server.rss_mb()
    finally:
        server.stop()


def measure(model, peer, threads, pairs, ready):
    """One sentence and a table in Markdown. `ready` is engine_rate's description of the model."""
    room = STREAMS * ROOM
    commands = {
        "nextd": lambda port: [NEXTD, "serve", "-m", model, "--port", port, "--threads", threads, "--max-seqs", STREAMS, "--kv-tokens", room],
        "llama-server": lambda port: [peer, "-m", model, "--host", "127.0.0.1", "--port", port, "-t", threads, "-np", STREAMS, "-c", room],
    }
    found = {name: [] for name in commands}
    for i in range(pairs):
        for name in list(commands) if i % 2 == 0 else list(commands)[::-1]:
            found[name].append(once(name, commands[name], i))
    lines = [f"From exec to the first token with a warm page cache, and resident memory after {STREAMS} streams in a pool of {room:,} tokens "
             f"(weights {ready['loaded_bytes'] / 1e6:,.0f} MB, KV {ready['kv_bytes_per_pos'] * room / 1e6:,.0f} MB):", "",
             "| | first token, s | resident, MB |", "|---|---|---|"]
    lines += [f"| {name} | {spread([s for s, _ in runs], 2)} | {spread([mb * 1.048576 for _, mb in runs])} |" for name, runs in found.items()]
    return "\n".join(lines) + "\n"
