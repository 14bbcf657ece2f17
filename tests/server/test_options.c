/* test_options.c: precedence, types, limits, and the sentences for everything a user can get wrong; and that config/nextd.conf says the same as the
 * table, option by option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/options.h"

static char path[64];

static int write_file(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/nextd-test-options-%d.conf", (int)getpid());
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void put(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Loads flags (space-separated) and environment (one or none); with_file adds --config. */
static int load(const char *flags, const char *env, bool with_file, struct options *o, struct err *err)
{
    char copy[4000];
    snprintf(copy, sizeof copy, "%s", flags);
    char *argv[40] = {"serve"};
    int argc = 1;
    for (char *rest = NULL, *p = strtok_r(copy, " ", &rest); p != NULL && argc < 36; p = strtok_r(NULL, " ", &rest))
        argv[argc++] = p;
    if (with_file) {
        argv[argc++] = "--config";
        argv[argc++] = path;
    }
    char env_copy[300];
    snprintf(env_copy, sizeof env_copy, "%s", env);
    char *envp[3] = {env[0] == '\0' ? NULL : env_copy, NULL};
    return options_load(argc, argv, envp, o, err);
}

static void fails(const char *flags, const char *env, const char *file, const char *sentence)
{
    struct options o = {0};
    struct err err = {0};
    if (file != NULL)
        put(file);
    if (load(flags, env, file != NULL, &o, &err) == 0)
        fail_msg("'%s' '%s' '%s' was taken", flags, env, file == NULL ? "" : file);
    if (strstr(err.msg, sentence) == NULL)
        fail_msg("'%s' is not in '%s'", sentence, err.msg);
    assert_null(o.host); /* untouched */
}

static void test_defaults(void **state)
{
    (void)state;
    struct options o;
    assert_int_equal(load("", "", false, &o, NULL), 0);
    assert_string_equal(o.host, "127.0.0.1");
    assert_int_equal(o.port, 8080);
    assert_string_equal(o.model, "");
    assert_int_equal(o.max_body_bytes, 4 << 20);
    assert_true(o.prefix_cache);
    assert_false(o.insecure);
    assert_int_equal(o.prefix_cache_scope, OPTIONS_SCOPE_KEY);
    assert_int_equal(o.unknown_fields, OPTIONS_UNKNOWN_REJECT);
    assert_int_equal(o.log_level, OPTIONS_LOG_INFO);
    assert_null(o.allowed_hosts[0]);
    assert_null(o.cors_origins[0]);
    options_finish(&o);
}

static void test_flags_beat_environment_beats_file_beats_defaults(void **state)
{
    (void)state;
    struct options o;
    put("[listen]\nport = 1\n[engine]\nthreads = 2\n");
    assert_int_equal(load("--port 3", "NEXTD_PORT=4", true, &o, NULL), 0);
    assert_int_equal(o.port, 3);
    assert_int_equal(o.threads, 2);
    options_finish(&o);
    assert_int_equal(load("", "NEXTD_PORT=4", true, &o, NULL), 0);
    assert_int_equal(o.port, 4);
    options_finish(&o);
    assert_int_equal(load("", "", true, &o, NULL), 0);
    assert_int_equal(o.port, 1);
    options_finish(&o);
}

static void test_reads_every_type(void **state)
{
    (void)state;
    struct options o;
    put("; a comment\n[limits]\nmax_body_bytes = 2M ; and one behind\n"
        "[listen]\nallowed_hosts = a.lan, b.lan\ncors_origins=*\n[api]\nunknown_fields=ignore\n");
    const char *flags = "-m file.gguf --insecure --prefix-cache=off --prefix-cache-scope server --max-header-bytes 8K --max_seqs 5";
    assert_int_equal(load(flags, "", true, &o, NULL), 0);
    assert_string_equal(o.model, "file.gguf");
    assert_true(o.insecure);
    assert_false(o.prefix_cache);
    assert_int_equal(o.prefix_cache_scope, OPTIONS_SCOPE_SERVER);
    assert_int_equal(o.max_header_bytes, 8192);
    assert_int_equal(o.max_body_bytes, 2 << 20);
    assert_int_equal(o.max_seqs, 5);
    assert_int_equal(o.unknown_fields, OPTIONS_UNKNOWN_IGNORE);
    assert_string_equal(o.allowed_hosts[0], "a.lan");
    assert_string_equal(o.allowed_hosts[1], "b.lan");
    assert_null(o.allowed_hosts[2]);
    assert_string_equal(o.cors_origins[0], "*");
    options_finish(&o);
    assert_int_equal(load("--prefix-cache off --insecure off --host=", "NEXTD_CACHE=/x", false, &o, NULL), 0);
    assert_false(o.prefix_cache);
    assert_false(o.insecure);
    assert_string_equal(o.host, "");
    options_finish(&o);
}

static void test_says_what_is_wrong_and_where(void **state)
{
    (void)state;
    fails("--prot 80", "", NULL, "unknown flag '--prot'");
    fails("--port", "", NULL, "--port needs a value");
    fails("--port 65536", "", NULL, "--port: '65536' is not in 0 .. 65535");
    fails("--port 8080x", "", NULL, "--port: '8080x'");
    fails("--port -1", "", NULL, "--port: '-1'");
    fails("--threads 99999999999999999999", "", NULL, "--threads");
    fails("--max-body-bytes 999999999999G", "", NULL, "--max-body-bytes");
    fails("--prefix-cache=maybe", "", NULL, "'maybe' is not in on|off");
    fails("--prefix-cache-scope all", "", NULL, "'all' is not in key|server");
    fails("--prefix-cache-scope ke", "", NULL, "'ke' is not in");
    fails("file.gguf", "", NULL, "unexpected argument 'file.gguf'");
    fails("--", "", NULL, "unexpected argument '--'");
    fails("", "NEXTD_PROT=1", NULL, "unknown environment variable NEXTD_PROT");
    fails("", "NEXTD_PORT=x", NULL, "NEXTD_PORT: 'x'");
    fails("--config /nonexistent/nextd.conf", "", NULL, "cannot read /nonexistent/nextd.conf");
    fails("", "", "[listen]\n\nprot = 1\n", ".conf:3: unknown key 'prot' in [listen]");
    fails("", "", "[listen]\nport = x\n", ".conf:2: port: 'x'");
    fails("", "", "[engine]\nport = 1\n", ".conf:2: 'port' belongs to [listen], not to [engine]");
    fails("", "", "[listen]\nport = 1\nport = 2\n", ".conf:3: 'port' is set for the second time");
    fails("", "", "[listen]\nmax-seqs = 1\n", "unknown key 'max-seqs'");
    fails("", "", "config = other.conf\n", "unknown key 'config'");
    fails("", "", "[listen]\nport 80\n", ".conf:2: neither");
    fails("", "", "[listen\nport = 80\n", ".conf:2: 'port' belongs to [listen], not before any section");
    fails("--tls-cert c.pem", "", NULL, "tls_key is missing");
    fails("--tls-key c.pem", "", NULL, "tls_cert is missing");
    /* A flag does not hide a mistake in the file. */
    fails("--port 1", "", "[listen]\nport = x\n", ".conf:2: port: 'x'");
}

static void test_refuses_long_lines_instead_of_cutting_them(void **state)
{
    (void)state;
    char text[5000] = "[model]\nalias = ";
    memset(text + strlen(text), 'a', 4000);
    fails("", "", text, ".conf:2: ");
}

/* "#key = default" below its [section], with a comment above each group. */
static void test_config_file_shows_every_option_at_its_default(void **state)
{
    (void)state;
    FILE *f = fopen("config/nextd.conf", "r");
    assert_non_null(f);
    char line[400], section[40] = "", live[20000] = "";
    size_t n_seen = 0, n_rows = 0;
    bool explained = false;
    while (fgets(line, sizeof line, f) != NULL) {
        assert_true(strlen(line) <= 151);
        struct options_row row;
        char name[60], value[200] = "";
        if (line[0] == '\n')
            explained = false;
        if (strncmp(line, "# ", 2) == 0)
            explained = true;
        if (sscanf(line, "[%39[a-z]]", section) == 1)
            strcat(live, line);
        if (line[0] != '#' || line[1] == ' ' || line[1] == '\n')
            continue;
        assert_true(sscanf(line, "#%59[a-z_] = %199[^\n]", name, value) >= 1);
        strcat(live, line + 1);
        size_t i = 0;
        while (options_row(i, &row) && strcmp(row.name, name) != 0)
            i++;
        if (!options_row(i, &row))
            fail_msg("config/nextd.conf: '%s' is not an option", name);
        assert_string_equal(section, row.section);
        if (strcmp(value, row.fallback) != 0)
            fail_msg("config/nextd.conf: %s = %s, but the default is '%s'", name, value, row.fallback);
        if (!explained)
            fail_msg("config/nextd.conf: nothing is said about %s", name);
        n_seen++;
    }
    fclose(f);
    struct options_row row;
    for (size_t i = 0; options_row(i, &row); i++)
        n_rows += row.section[0] != '\0';
    assert_int_equal(n_seen, n_rows); /* each once: a second time would be refused below */
    put(live);
    struct options o;
    struct err err = {0};
    if (load("", "", true, &o, &err) != 0)
        fail_msg("%s", err.msg);
    options_finish(&o);
}

static void test_help_names_every_flag(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    options_help(f);
    fclose(f);
    struct options_row row;
    for (size_t i = 0; options_row(i, &row); i++) {
        char flag[60];
        snprintf(flag, sizeof flag, "--%s ", row.name);
        for (char *p = flag; *p != '\0'; p++)
            *p = *p == '_' ? '-' : *p;
        if (strstr(text, flag) == NULL)
            fail_msg("%s is not in the help", flag);
        assert_true(strlen(row.help) > 0);
    }
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 120);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_flags_beat_environment_beats_file_beats_defaults),
        cmocka_unit_test(test_reads_every_type),
        cmocka_unit_test(test_says_what_is_wrong_and_where),
        cmocka_unit_test(test_refuses_long_lines_instead_of_cutting_them),
        cmocka_unit_test(test_config_file_shows_every_option_at_its_default),
        cmocka_unit_test(test_help_names_every_flag),
    };
    return cmocka_run_group_tests(tests, write_file, remove_file);
}
