"""Who may speak to nextd, and over what: API keys, Host check, CORS, TLS, unix sockets, names of models."""

import socket
import ssl
import subprocess
import time

import httpx
import openai
import pytest
from daemon import TOY, nextd

BODY = {"prompt": "hello", "max_tokens": 2}


# ---- keys ----


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# who may ask\nalpha-key-0001\n\nbeta-key-0002\n")
    path.chmod(0o600)
    return path


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_with_keys_only_health_is_open(start, keys):
    d = start("--api-keys", keys, model=TOY)
    assert d.get("/health").status_code == 200
    for path in ("/metrics", "/v1/models", "/version"):
        r = d.get(path)
        assert r.status_code == 401, path
        assert r.json()["error"]["code"] == "invalid_api_key", path
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        assert d.post(path, BODY).status_code == 401, path
    for wrong in ("alpha-key-000", "alpha-key-00011", "ALPHA-KEY-0001", "alpha-key-0001 beta-key-0002"):
        assert d.post("/v1/completions", BODY, headers=bearer(wrong)).status_code == 401, wrong
    assert d.post("/v1/completions", BODY, headers={"Authorization": "Basic alpha-key-0001"}).status_code == 401
    for right in ("alpha-key-0001", "beta-key-0002"):
        assert d.post("/v1/completions", BODY, headers=bearer(right)).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        d.client(api_key="nobody").completions.create(model="", **BODY)
    assert "alpha-key-0001" not in d.log()


def test_prefix_pages_are_not_shared_between_keys(start, keys):
    d = start("--api-keys", keys, model=TOY)
    body = {"prompt": list(range(20, 220)), "max_tokens": 1}

    def cached(key):
        r = d.post("/v1/completions", body, headers=bearer(key))
        assert r.status_code == 200, r.text
        return r.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached("alpha-key-0001") == 0
    assert cached("alpha-key-0001") > 0
    assert cached("beta-key-0002") == 0


def test_server_scope_shares_prefix_pages(start, keys):
    d = start("--api-keys", keys, "--prefix-cache-scope", "server", model=TOY)
    body = {"prompt": list(range(20, 220)), "max_tokens": 1}
    for key in ("alpha-key-0001", "beta-key-0002"):
        r = d.post("/v1/completions", body, headers=bearer(key))
    assert r.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_an_open_address_needs_keys(keys):
    done = nextd("serve", "-m", TOY, "--host", "0.0.0.0", "--port", "0")
    assert done.returncode != 0
    assert b"--insecure" in done.stderr and b"key" in done.stderr, done.stderr


def test_an_open_address_serves_with_keys(start, keys):
    d = start("--host", "0.0.0.0", "--api-keys", keys, model=TOY)
    assert d.post("/v1/completions", BODY, headers=bearer("alpha-key-0001")).status_code == 200


# ---- Host and CORS ----


def test_a_foreign_host_name_is_refused_on_loopback(start):
    d = start("--allowed-hosts", "chat.example", model=TOY)
    for host, status in (("localhost", 200), ("127.0.0.1", 200), ("[::1]", 200), (f"localhost:{d.port}", 200), ("chat.example", 200),
                         ("CHAT.example", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403)):
        r = d.get("/v1/models", headers={"Host": host})
        assert r.status_code == status, (host, r.text)


def test_cors_answers_configured_origins_only(start):
    d = start("--cors-origins", "https://chat.example", model=TOY)
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, authorization"}
    r = httpx.options(d.url + "/v1/chat/completions", headers={"Origin": "https://chat.example", **ask})
    assert r.status_code in (200, 204)
    assert r.headers["access-control-allow-origin"] == "https://chat.example"
    assert "POST" in r.headers["access-control-allow-methods"]
    assert "authorization" in r.headers["access-control-allow-headers"].lower()
    r = d.post("/v1/completions", BODY, headers={"Origin": "https://chat.example"})
    assert r.headers["access-control-allow-origin"] == "https://chat.example"
    assert "origin" in r.headers["vary"].lower()
    r = d.post("/v1/completions", {**BODY, "stream": True}, headers={"Origin": "https://chat.example"})
    assert r.headers["access-control-allow-origin"] == "https://chat.example"
    r = d.post("/v1/completions", BODY, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in r.headers


# ---- TLS and unix sockets ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    where = tmp_path_factory.mktemp("tls")
    cert, key = where / "cert.pem", where / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def test_tls_serves_streams_and_refuses_plain_text(start, certificate):
    cert, key = certificate
    d = start("--tls-cert", cert, "--tls-key", key, model=TOY, wait=False)
    verify = ssl.create_default_context(cafile=str(cert))
    url = f"https://127.0.0.1:{d.port}"
    for _ in range(600):
        try:
            if httpx.get(url + "/health", verify=verify).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert d.process.poll() is None, d.log()
        time.sleep(0.05)
    plain = httpx.post(url + "/v1/completions", json=BODY, verify=verify)
    assert plain.status_code == 200
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, http_client=httpx.Client(verify=verify)) as client:
        pieces = list(client.completions.create(model="", prompt="hello", max_tokens=40, stream=True, seed=1, extra_body={"ignore_eos": True}))
    assert pieces[-1].choices[0].finish_reason == "length"
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{d.port}/health", timeout=5)
    assert nextd("health", "--port", d.port, "--tls-cert", cert, "--tls-key", key).returncode == 0


def test_unix_socket_serves_beside_tcp(start, tmp_path):
    path = str(tmp_path / "nextd.sock")
    d = start("--unix", path, model=TOY)
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://localhost", timeout=30) as client:
        assert client.get("/health").status_code == 200
        over_unix = client.post("/v1/completions", json={**BODY, "seed": 7}).json()
    over_tcp = d.post("/v1/completions", {**BODY, "seed": 7}).json()
    assert over_unix["choices"] == over_tcp["choices"]
    assert nextd("health", "--unix", path).returncode == 0
    assert d.stop() == 0
    with socket.socket(socket.AF_UNIX) as s, pytest.raises(OSError):
        s.connect(path)
    assert nextd("health", "--unix", path).returncode == 1


# ---- the model's name ----


def test_alias_names_the_model(start):
    d = start("--alias", "tiny", model=TOY)
    assert [m["id"] for m in d.get("/v1/models").json()["data"]] == ["tiny"]
    assert d.get("/v1/models/tiny").status_code == 200
    assert d.get("/v1/models/other").status_code == 404
    assert d.post("/v1/completions", {**BODY, "model": "tiny"}).json()["model"] == "tiny"
    assert d.post("/v1/completions", BODY).json()["model"] == "tiny"
    assert d.get(f"/v1/models/{TOY.stem}").status_code == 404  # the stem is a name only where no other is given
    for name in ("other", TOY.stem):
        r = d.post("/v1/completions", {**BODY, "model": name})
        assert r.status_code == 404
        assert r.json()["error"]["code"] == "model_not_found"
        assert r.json()["error"]["param"] == "model"
