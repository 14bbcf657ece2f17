"""Bytes that no client library would send: requests that two parsers could read differently, clients that are slow, silent, greedy or gone.

Everything goes over bare sockets to the real daemon. The rules behind the matrix: a request that is refused is answered once and the connection is
closed, so that nothing behind it is ever served; and after any of it the server is idle, because a spin is an outage, too.
"""

import json
import os
import re
import signal
import socket
import struct
import threading
import time

import pytest
from daemon import SMOLLM2, TOY

BODY = b'{"prompt": "hello"}'
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
END = b"\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server():
    from daemon import Daemon

    with Daemon("--log-level", "debug", model=TOY) as d:
        yield d


def read_all(s, quiet=0.3, limit=10):
    """What comes until the peer closes or says nothing for a while -> (bytes, closed)."""
    data, end = b"", time.monotonic() + limit
    s.settimeout(quiet)
    while time.monotonic() < end:
        try:
            got = s.recv(65536)
        except TimeoutError:
            return data, False
        except ConnectionError:
            return data, True
        if not got:
            return data, True
        data += got
    raise AssertionError(f"the server does not stop sending: {data[:200]}")


def talk(d, *pieces, quiet=0.3):
    with d.connect() as s:
        for piece in pieces:
            try:
                s.sendall(piece)
            except ConnectionError:
                break
            if len(pieces) > 1:
                time.sleep(0.05)
        return read_all(s, quiet)


def statuses(data):
    return [int(x) for x in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", data)]


def cpu_seconds(d):
    fields = open(f"/proc/{d.process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_idle(d, seconds=1.0):
    before = cpu_seconds(d)
    time.sleep(seconds)
    assert cpu_seconds(d) - before < 0.2 * seconds, "the server is busy with nothing"


# ---- framing ----

# What is served, and must be served rightly: the statuses, and whether the connection lives.
SERVED = {
    "one request": (HEAD + LENGTH + END + BODY, [200]),
    "three in one packet": (GET + END + GET + END + GET + END, [200, 200, 200]),
    "post and get in one packet": (HEAD + LENGTH + END + BODY + SMUGGLED, [200, 200]),
    "a body on GET is read, not taken for a request": (GET + b"Content-Length: 5\r\n\r\nhello" + SMUGGLED, [200, 200]),
    "an error does not cost the connection": (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED, [404, 200]),
    "an error with a body, neither": (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n" + LENGTH + END + BODY + SMUGGLED, [404, 200]),
    "an empty line before a request": (b"\r\n" + GET + END, [200]),
    "a name in odd case": (HEAD + b"cOnTeNt-lEnGtH: %d\r\n\r\n" % len(BODY) + BODY, [200]),
    "two hundred headers": (GET + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + END + SMUGGLED, [200, 200]),
    "one long header": (GET + b"X: " + b"a" * 14000 + b"\r\nY: 1\r\n\r\n" + SMUGGLED, [200, 200]),
}

# What must be refused. Old libmicrohttpd sends the head of its own 400 twice for some; both are the same answer, and it closes. New libmicrohttpd
# closes without a word on two.
REFUSED = {
    "both lengths, chunks behind": HEAD + LENGTH + CHUNKED + END + CHUNKS + SMUGGLED,
    "both lengths, other order": HEAD + CHUNKED + LENGTH + END + CHUNKS + SMUGGLED,
    "the same length twice": HEAD + LENGTH + LENGTH + END + BODY + SMUGGLED,
    "two lengths, first right": HEAD + LENGTH + b"Content-Length: 0\r\n" + END + BODY + SMUGGLED,
    "two lengths, second right": HEAD + b"Content-Length: 0\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n" + END + BODY + SMUGGLED,
    "a blank before the colon": HEAD + b"Content-Length : %d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "a blank before the other colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "a signed length": HEAD + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY + SMUGGLED,
    "a hexadecimal length": HEAD + b"Content-Length: 0x13\r\n\r\n" + BODY + SMUGGLED,
    "an empty length": HEAD + b"Content-Length: \r\n\r\n" + BODY + SMUGGLED,
    "a length over 64 bits": HEAD + b"Content-Length: 18446744073709551635\r\n\r\n" + BODY + SMUGGLED,
    "a length of thirty nines": HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY + SMUGGLED,
    "a length with NUL behind": HEAD + b"Content-Length: %d\0zz\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "chunked, but not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS + SMUGGLED,
    "identity": HEAD + b"Transfer-Encoding: identity\r\n" + LENGTH + END + BODY + SMUGGLED,
    "chunked twice": HEAD + CHUNKED + CHUNKED + END + CHUNKS + SMUGGLED,
    "chunked behind a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "a folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "a folded coding beside a length": HEAD + b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a name forged by folding": HEAD + b"Content-: %d\r\n Length\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "a folded header": HEAD + b"X: a\r\n b\r\n" + LENGTH + END + BODY + SMUGGLED,
    "lines that end in LF": HEAD + b"X: a\n" + LENGTH + END + BODY + SMUGGLED,
    "a bare CR in a value": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a NUL in a value": HEAD + b"X: a\0b\r\n" + LENGTH + END + BODY + SMUGGLED,
    "many NULs in a value": HEAD + b"X: a" + b"\0" * 30 + b"b\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a control character in the method": b"G\x05ET" + GET[3:] + END + SMUGGLED,
    "a NUL in the method": b"POST\0" + GET + END + SMUGGLED,
    "a NUL line instead of the empty one": GET[:-2] + b"\n\x009\n\x16\r\n\r\n" + SMUGGLED,
    "a NUL in a name": HEAD + b"X\0Y: b\r\n" + LENGTH + END + BODY + SMUGGLED,
    "an escape in a value": HEAD + b"X: \x1b[2J\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a line without colon": HEAD + b"Foo\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a line without name": HEAD + b": x\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a line of one colon": HEAD + b":\r\n" + LENGTH + END + BODY + SMUGGLED,
    "a blank in a name": HEAD + b"X Y: 1\r\n" + LENGTH + END + BODY + SMUGGLED,
    "no Host": b"GET /health HTTP/1.1\r\n\r\n" + SMUGGLED,
    "two Hosts": GET + b"Host: other\r\n\r\n" + SMUGGLED,
    "chunks for HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CHUNKED + END + CHUNKS,
    "a path with an escaped NUL": b"GET /health%00x HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a path with a NUL": b"GET /health\0x HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a whole URL": b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "blanks in the request line": b"GET   /health   HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a version in small letters": b"GET /health http/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "CONNECT": b"CONNECT other:1 HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "an impossible expectation": HEAD + LENGTH + b"Expect: miracles\r\n\r\n" + BODY + SMUGGLED,
}
REFUSED_WITH = {"a version in small letters": {400, 505}, "an impossible expectation": {417}, "a length over 64 bits": {400, 413},
                "a length of thirty nines": {400, 413}}


@pytest.mark.parametrize("name", SERVED)
def test_served(server, name):
    request, want = SERVED[name]
    data, closed = talk(server, request)
    assert statuses(data) == want and not closed, data


def test_a_large_head_in_small_pieces_is_served(server):
    head = GET + b"".join(b"X-%d: %s\r\n" % (i, b"v" * 100) for i in range(70)) + END
    for size in (1, 7, 1000, 5000):
        pieces = [head[i : i + size] for i in range(0, len(head), size)]
        with server.connect() as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                s.sendall(piece)
                if size > 1:
                    time.sleep(0.002)
            s.sendall(SMUGGLED)
            data, closed = read_all(s)
            assert statuses(data) == [200, 200] and not closed, (size, data)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_once_and_closed(server, name):
    data, closed = talk(server, REFUSED[name])
    got = statuses(data)
    assert closed, data
    assert len(set(got)) == 1 or name in ("a path with a NUL", "a NUL in the method"), data
    assert set(got) <= REFUSED_WITH.get(name, {400}), data
    assert b'"version"' not in data, data


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/1.9", b"HTTP/3"])
def test_other_versions_are_not_spoken(server, version):
    data, closed = talk(server, b"GET /health " + version + b"\r\nHost: localhost\r\n\r\n" + SMUGGLED)
    assert closed and set(statuses(data)) <= {400, 505} and len(statuses(data)) == 1, data


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"A" * 60 + b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                  b"GET /health\r\n\r\n", b"GET\t/health\tHTTP/1.1\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"])
def test_junk_is_not_served(server, junk):
    data, closed = talk(server, junk)
    assert set(statuses(data)) <= {400, 505}, data
    assert closed or not data, data  # what looks like the beginning of a request line waits for its deadline


CHUNK_CASES = {
    "plain": CHUNKS, "size with prefix": b"0x13\r\n" + BODY + b"\r\n0\r\n\r\n", "size behind a blank": b" 13\r\n" + BODY + b"\r\n0\r\n\r\n",
    "size that overflows": b"FFFFFFFFFFFFFFFFF\r\n" + BODY + b"\r\n0\r\n\r\n", "negative size": b"-1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "largest size": b"FFFFFFFFFFFFFFFF\r\n" + BODY + b"\r\n0\r\n\r\n", "extension": b"13;a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "endless extension": b"13;" + b"a" * 100000, "lines that end in LF": b"13\n" + BODY + b"\n0\n\n",
    "trailers": b"13\r\n" + BODY + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNK_CASES)
def test_chunked_bodies_are_served_rightly_or_refused(server, name):
    data, closed = talk(server, HEAD + CHUNKED + END + CHUNK_CASES[name] + SMUGGLED)
    got = statuses(data)
    if 411 in got:  # old libmicrohttpd: its chunk parser is out of reach
        assert got == [411] and closed, data
    elif name in ("plain", "trailers"):
        assert got == [200, 200], data
    else:
        assert got in ([400], [413], []) and b'"version"' not in data, data


def test_nothing_of_it_leaves_the_server_busy(server):
    held = []
    for case in (*REFUSED.values(), *(HEAD + CHUNKED + END + c for c in CHUNK_CASES.values()), b"\x16\x03\x01AAAA", HEAD + LENGTH, HEAD + b"X: "):
        s = server.connect()
        s.sendall(case)
        held.append(s)
    time.sleep(0.3)
    assert_idle(server)
    for s in held:
        s.close()
    assert_idle(server, 0.5)
    assert server.get("/health").status_code == 200


# ---- sizes ----


def test_head_too_large(server):
    for request, want in ((b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
                          (GET + b"X: " + b"a" * 100000 + b"\r\n\r\n", 431),
                          (GET + b"".join(b"X%d: 1\r\n" % i for i in range(3000)) + END, 431)):
        data, closed = talk(server, request)
        assert closed and statuses(data) == [want], data[:200]


def test_body_too_large_is_refused_from_its_header(server):
    data, closed = talk(server, HEAD + b"Content-Length: 100000000\r\n\r\n")
    assert closed and statuses(data) == [413], data
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["message"]
    data, closed = talk(server, HEAD + b"Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n")
    assert closed and statuses(data) == [413], data
    big = b"a" * (6 << 20)
    for _ in range(5):  # a client that sends on regardless still gets to read the answer
        data, closed = talk(server, HEAD + b"Content-Length: %d\r\n\r\n" % len(big) + big)
        assert closed and statuses(data) == [413], data


def test_expect_100_continue(server):
    data, closed = talk(server, HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n", BODY)
    assert statuses(data) == [100, 200] and not closed, data


def test_http_1_0_and_head(server):
    data, closed = talk(server, b"GET /health HTTP/1.0\r\n\r\n")
    assert statuses(data) == [200] and closed, data
    data, closed = talk(server, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED)
    assert statuses(data) == [200, 200] and data.count(b'"status"') == 0, data
    body = b'{"prompt": "hello", "max_tokens": 3, "stream": true}'
    data, closed = talk(server, b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
                        quiet=5)
    head, text = data.split(b"\r\n\r\n", 1)
    assert closed and text.startswith(b"data: ") and text.endswith(b"data: [DONE]\n\n") and b"chunked" not in head, data


# ---- streams and connections ----


def completion(**fields):
    body = json.dumps({"prompt": "hello", "max_tokens": 5, "seed": 1, "ignore_eos": True, **fields}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def read_until(s, mark):
    s.settimeout(30)
    data = b""
    while mark not in data:
        got = s.recv(65536)
        assert got, data
        data += got
    return data


def test_a_connection_outlives_its_streams(server):
    with server.connect() as s:
        for _ in range(3):
            s.sendall(completion(stream=True))
            data = read_until(s, b"0\r\n\r\n")
            assert b"data: [DONE]" in data and b"chunked" in data
            s.sendall(completion())
            assert b'"usage"' in read_until(s, b"}}")


def test_what_is_pipelined_behind_a_stream_waits_for_its_end(server):
    data, _ = talk(server, completion(stream=True, max_tokens=50) + completion() + SMUGGLED, quiet=2)
    assert statuses(data) == [200, 200, 200], data
    assert data.index(b"data: [DONE]") < data.index(b'"usage"') < data.index(b'"version"')


# ---- clients that leave ----


def leave(s, how):
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        s.shutdown(socket.SHUT_WR)
    else:
        s.close()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_noticed_while_running_and_while_queued(start, how, stream):
    d = start("--max-seqs", 1, "--kv-tokens", 8192, model=SMOLLM2)
    running, queued = d.connect(), d.connect()
    running.sendall(completion(stream=stream, max_tokens=6000))
    d.wait_metric("num_requests_running", 1)
    queued.sendall(completion(stream=stream, max_tokens=6000))
    d.wait_metric("num_requests_waiting", 1)
    leave(queued, how)
    d.wait_metric("num_requests_waiting", 0, timeout=5)
    assert d.metric("num_requests_running") == 1
    leave(running, how)
    d.wait_metric("num_requests_running", 0, timeout=5)
    assert_idle(d)
    running.close()
    queued.close()


def test_five_hundred_clients_that_leave_at_once(start):
    d = start("--queue", 2000, model=SMOLLM2)
    crowd = []
    for i in range(500):
        s = d.connect()
        s.sendall(completion(stream=i % 2 == 0, max_tokens=500))
        crowd.append(s)
    deadline = time.monotonic() + 30
    while d.metric("num_requests_running") + d.metric("num_requests_waiting") < 500:
        assert time.monotonic() < deadline
    for s in crowd:
        s.close()
    d.wait_metric("num_requests_waiting", 0, timeout=20)
    d.wait_metric("num_requests_running", 0, timeout=20)
    assert d.get("/health").status_code == 200


# ---- clients that are slow ----


def test_slow_and_idle_clients_are_closed_at_their_deadline(start):
    d = start("--request-timeout-s", 2, "--idle-timeout-s", 2, "--max-connections", 600, model=TOY)
    cases = {"silent": b"", "request line": b"POST /toke", "header": HEAD + b"X: ", "body": HEAD + b"Content-Length: 1000\r\n\r\n", "kept": GET + END}
    crowd = [(name, d.connect()) for name in cases for _ in range(60)]
    for name, s in crowd:
        s.sendall(cases[name])
    begun, left = time.monotonic(), list(crowd)
    while left and time.monotonic() - begun < 8:
        time.sleep(0.4)
        still = []
        for name, s in left:
            s.setblocking(False)
            try:
                if name in ("header", "body", "request line"):
                    s.send(b"a")  # never silent for long: only an absolute deadline ends this
                while s.recv(4096):
                    pass
            except BlockingIOError:
                still.append((name, s))
            except ConnectionError:
                pass
        left = still
        assert d.get("/health").status_code == 200
    assert not left, f"still open after {time.monotonic() - begun:.1f} s: {sorted({name for name, _ in left})}"
    assert time.monotonic() - begun > 1.5
    for _, s in crowd:
        s.close()
    assert_idle(d)


def test_at_the_connection_limit_others_wait_and_are_served(start):
    d = start("--max-connections", 4, "--idle-timeout-s", 2, "--request-timeout-s", 2, model=TOY)
    time.sleep(0.1)
    held = [d.connect() for _ in range(4)]
    waiting = d.connect()
    waiting.sendall(GET + END)
    assert_idle(d, 0.5)
    assert read_all(waiting, quiet=0.2) == (b"", False)
    # The places become free by timeout alone, with nobody else to wake the server.
    assert b"200" in read_until(waiting, b"}")
    for s in (*held, waiting):
        s.close()
    assert d.get("/health").status_code == 200


def test_out_of_descriptors_it_waits_and_recovers(start):
    d = start(model=TOY, prefix=("prlimit", "--nofile=80:80"))
    crowd = [d.connect() for _ in range(120)]
    time.sleep(0.3)
    assert_idle(d)
    for s in crowd:
        s.close()
    assert d.get("/health", timeout=10).status_code == 200
    assert "files may be open" in d.log()
    assert_idle(d)


def test_a_reader_that_stops_reading_is_cut_off(start):
    d = start("--write-stall-s", 2, model=TOY)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    s.connect(("127.0.0.1", d.port))
    before = d.metric("generation_tokens_total")
    s.sendall(completion(stream=True, max_tokens=4000, n=8, logprobs=5))
    d.wait_metric("num_requests_running", 8)
    time.sleep(1)
    assert_idle(d, 0.5)  # the toy would be done by now; it waits for its reader
    made = d.metric("generation_tokens_total") - before
    assert 0 < made < 8000, made
    d.wait_metric("num_requests_running", 0, timeout=20)
    assert_idle(d, 0.5)
    s.close()


def test_a_slow_reader_gets_every_byte(start):
    d = start("--write-stall-s", 5, model=TOY)
    request = completion(stream=True, max_tokens=2000, n=4, logprobs=5)
    with d.connect() as s:
        s.sendall(request)
        time.sleep(2)  # the stream is full and paused by now
        slow = read_until(s, b"\r\n0\r\n\r\n")
    with d.connect() as s:
        s.sendall(request)
        fast = read_until(s, b"\r\n0\r\n\r\n")
    def texts(data):
        events = [json.loads(x) for x in re.findall(rb"data: (\{[^\n]*)\n", re.sub(rb"\r\n[0-9A-F]+\r\n", b"", data))]
        choices = [c for e in events for c in e["choices"]]
        return ["".join(c["text"] for c in choices if c["index"] == i) for i in range(4)]

    assert len(slow) > 2 << 20
    assert slow.count(b'"finish_reason":"length"') == 4 and b"data: [DONE]" in slow
    assert texts(slow) == texts(fast)


def test_many_stalled_uploads_do_not_hold_up_the_rest(server):
    crowd = []
    for _ in range(100):
        s = server.connect()
        s.sendall(HEAD + b"Content-Length: 4000000\r\n\r\n" + b"a" * 60000)
        crowd.append(s)
    worst = 0
    for _ in range(20):
        begun = time.monotonic()
        assert server.get("/health").status_code == 200
        worst = max(worst, time.monotonic() - begun)
    assert worst < 1, worst
    for s in crowd:
        s.close()


# ---- the end ----


def test_sigterm_closes_kept_connections_and_leaves_at_once_when_idle(start):
    d = start(model=TOY)
    kept = d.connect()
    kept.sendall(GET + END)
    read_until(kept, b"}")
    begun = time.monotonic()
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(10) == 0
    assert time.monotonic() - begun < 2
    assert read_all(kept) == (b"", True)
    kept.close()


def test_sigterm_amid_a_crowd_ends_cleanly(start):
    d = start("--drain-timeout-s", 1, "--queue", 1000, model=SMOLLM2)
    stop = threading.Event()
    ends = []

    def one(i):
        with d.connect() as s:
            s.sendall(completion(stream=i % 2 == 0, max_tokens=2000))
            data, closed = read_all(s, quiet=30, limit=60)
            ends.append((i, data, closed))

    crowd = [threading.Thread(target=one, args=(i,)) for i in range(60)]
    for t in crowd:
        t.start()
    deadline = time.monotonic() + 30
    while d.metric("num_requests_running") + d.metric("num_requests_waiting") < 60:
        assert time.monotonic() < deadline
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(20) == 0, d.log()
    stop.set()
    for t in crowd:
        t.join(60)
    assert len(ends) == 60
    for i, data, closed in ends:  # everybody got an end that says so
        assert closed, data[-200:]
        assert b"data: [DONE]" in data if i % 2 == 0 and statuses(data) == [200] else statuses(data) in ([200], [503]), data[-300:]
