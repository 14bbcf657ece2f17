/* http_shield.c: refuses every request whose end two parsers could see at different places (request smuggling), and whatever MHD 0.9.75 lets
 * through that RFC 9112 forbids.
 *
 * What 0.9.75 does, found by test: it joins folded lines so that a header's name may be forged ("Content-:\r\n Length"), takes "Name :", bare LF,
 * NUL and CR, keeps the first of two Content-Lengths, takes Content-Length beside Transfer-Encoding, and spins on an endless chunk extension.
 *
 * The cure leans on one fact: MHD points into its read buffer and puts NULs where CR LF was. So the whole head can be walked again: the request
 * line, then name, colon, blanks, value and two NULs of each header, each behind the last without a gap, then the empty line where MHD says that
 * the head ends. What was folded was moved and leaves a gap; a bare LF leaves one NUL; a NUL in a value, or a line that begins with a colon (MHD
 * takes it for the empty one), leaves bytes that belong to nothing. Chunked requests are refused there, which takes the whole chunk parser out of
 * reach. Left over, because the NULs are the same: NUL LF at the end of a line; a line of one colon behind a bare LF, where the head then ends; and
 * a line that begins with a NUL counts as an empty one before a request. No header can be forged by these; tests/fuzz/fuzz_http.c holds us to the
 * rest. MHD >= 1.0 is run in its strict mode, where these checks would be wrong and are not compiled in.
 *
 * A Content-Length that is no number is answered by MHD itself, before we are asked; the old one sends the head of its 400 twice. It closes the
 * connection behind that, so nothing can be hidden there; there is no hook to do better. */
#include "server/http_private.h"

#include <string.h>
#include <strings.h>

#define HTTP_OLD_MHD (MHD_VERSION < 0x01000000)

struct http_scan {
    int n_length, n_encoding, n_host;
    bool bad_name, bad_value, bad_length, not_chunked, bad_expect;
    uint64_t length;
    const char *end; /* of the request line, then of each header's value: the byte where CR was */
};

static bool http_is_token_char(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool http_name_is(const char *name, size_t n, const char *want)
{
    return n == strlen(want) && strncasecmp(name, want, n) == 0;
}

/* Decimal digits and nothing else, below 2^63. */
static bool http_parse_length(const char *v, size_t n, uint64_t *out)
{
    uint64_t length = 0;
    if (n == 0 || n > 18)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9')
            return false;
        length = length * 10 + (uint64_t)(v[i] - '0');
    }
    *out = length;
    return true;
}

#if HTTP_OLD_MHD
/* True if the header stands right behind the last one, its value right behind its name, and its line ended in CR LF. */
static bool http_header_is_in_place(const struct http_scan *s, const char *name, size_t n_name, const char *v, size_t n)
{
    const char *after = name + n_name + 1; /* behind the colon */
    if (name != s->end + 2 || v < after || v - after > 64)
        return false;
    for (const char *p = after; p < v; p++)
        if (*p != ' ' && *p != '\t')
            return false;
    return v[n] == '\0' && v[n + 1] == '\0';
}
#endif

static enum MHD_Result http_scan_header(void *arg, enum MHD_ValueKind kind, const char *name, size_t n_name, const char *v, size_t n)
{
    (void)kind;
    struct http_scan *s = arg;
    s->bad_name = s->bad_name || n_name == 0;
    for (size_t i = 0; i < n_name; i++)
        s->bad_name = s->bad_name || !http_is_token_char((unsigned char)name[i]);
    if (v == NULL) {
        s->bad_value = true;
        return MHD_YES;
    }
#if HTTP_OLD_MHD
    s->bad_value = s->bad_value || !http_header_is_in_place(s, name, n_name, v, n);
#endif
    s->end = v + n;
    for (size_t i = 0; i < n; i++)
        s->bad_value = s->bad_value || ((unsigned char)v[i] < ' ' && v[i] != '\t') || v[i] == 0x7f;
    if (http_name_is(name, n_name, "host"))
        s->n_host++;
    if (http_name_is(name, n_name, "expect"))
        s->bad_expect = s->bad_expect || !http_name_is(v, n, "100-continue");
    if (http_name_is(name, n_name, "transfer-encoding")) {
        s->n_encoding++;
        s->not_chunked = s->not_chunked || !http_name_is(v, n, "chunked");
    }
    if (http_name_is(name, n_name, "content-length")) {
        s->n_length++;
        s->bad_length = s->bad_length || !http_parse_length(v, n, &s->length);
    }
    return MHD_YES;
}

/* Before MHD takes it apart: a path, without NUL in either spelling, without control characters. */
bool http_target_is_sound(const char *uri)
{
    if (uri[0] != '/' && strcmp(uri, "*") != 0)
        return false;
    for (const char *p = uri; *p != '\0'; p++)
        if ((unsigned char)*p <= ' ' || *p == 0x7f || strncmp(p, "%00", 3) == 0)
            return false;
    return true;
}

/* One blank between method, target and version; a NUL inside of one leaves more between what MHD takes for them. */
static bool http_request_line_is_in_place(const struct http_exchange *x, const char *method, const char *version)
{
#if HTTP_OLD_MHD
    return x->uri_raw == method + strlen(method) + 1 && version == x->uri_raw + x->n_uri_raw + 1;
#else
    (void)method;
    (void)version;
    return x->uri_raw != NULL;
#endif
}

/* The head is as long as its last line and the empty line say. `method` is its first byte in MHD's buffer. */
static bool http_head_is_whole(struct http_exchange *x, const struct http_scan *s, const char *method)
{
#if HTTP_OLD_MHD
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info != NULL && method + info->header_size == s->end + 4 && memcmp(s->end, "\0\0\0\0", 4) == 0;
#else
    (void)x;
    (void)s;
    (void)method;
    return true;
#endif
}

static struct http_verdict http_refuse(int status, const char *message)
{
    return (struct http_verdict){.status = status, .message = message};
}

struct http_verdict http_shield(struct http_exchange *x, const char *method, const char *version)
{
    struct http_scan s = {.end = version + strlen(version)};
    MHD_get_connection_values_n(x->mhd, MHD_HEADER_KIND, http_scan_header, &s);
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return http_refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    x->http10 = strcmp(version, "HTTP/1.0") == 0;
    if (!x->uri_is_sound || !http_request_line_is_in_place(x, method, version))
        return http_refuse(400, "the request target must be a path without NUL or blanks");
    if (s.bad_value)
        return http_refuse(400, "a header is folded, holds a control character or does not end in CR LF");
    for (const char *p = method; *p != '\0'; p++)
        s.bad_name = s.bad_name || !http_is_token_char((unsigned char)*p);
    if (s.bad_name)
        return http_refuse(400, "the method or a header name holds a character that is not allowed there");
    if (!http_head_is_whole(x, &s, method))
        return http_refuse(400, "a header line has no name");
    if (s.n_length > 1 || s.bad_length)
        return http_refuse(400, "Content-Length must be one decimal number");
    if (s.n_encoding > 0 && s.n_length > 0)
        return http_refuse(400, "Content-Length and Transfer-Encoding exclude each other");
    if (s.n_encoding > 1 || s.not_chunked || (s.n_encoding > 0 && x->http10))
        return http_refuse(400, "Transfer-Encoding can only be chunked, once, with HTTP/1.1");
    if (s.n_host > 1 || (s.n_host == 0 && !x->http10))
        return http_refuse(400, "exactly one Host header is needed");
    if (s.n_encoding > 0 && HTTP_OLD_MHD)
        return http_refuse(411, "chunked request bodies are not taken; send a Content-Length");
    if (s.bad_expect)
        return http_refuse(417, "the only expectation that can be met is 100-continue");
    x->content_length = s.length;
    return (struct http_verdict){0};
}

/* The name without port and without a trailing dot: "localhost", "127.0.0.1", "[::1]". */
static size_t http_host_name_length(const char *host)
{
    size_t n = strlen(host);
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        return end == NULL ? n : (size_t)(end - host) + 1;
    }
    const char *colon = strchr(host, ':');
    n = colon == NULL ? n : (size_t)(colon - host);
    return n > 1 && host[n - 1] == '.' ? n - 1 : n;
}

static bool http_is_ipv4_loopback(const char *p, size_t n)
{
    if (n < 9 || strncmp(p, "127.", 4) != 0)
        return false;
    int dots = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '.' && (p[i] < '0' || p[i] > '9'))
            return false;
        dots += p[i] == '.';
    }
    return dots == 3;
}

bool http_host_is_allowed(const char *host, const char *const *extra)
{
    size_t n = http_host_name_length(host);
    if (http_name_is(host, n, "localhost") || http_name_is(host, n, "[::1]") || http_is_ipv4_loopback(host, n))
        return true;
    for (size_t i = 0; extra != NULL && extra[i] != NULL; i++)
        if (http_name_is(host, n, extra[i]))
            return true;
    return false;
}
