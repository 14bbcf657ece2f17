/* main.c: which command is meant. */
#include <stdio.h>
#include <string.h>

#include "server/cmd.h"
#include "server/options.h"
#include "server/serve.h"

extern char **environ;

static void main_help(FILE *to)
{
    fprintf(to, "nextd " NEXTD_VERSION ", the next-token daemon: OpenAI-style completions from a GGUF model\n\n"
                "  nextd serve -m FILE [options]       serve HTTP until SIGTERM\n"
                "  nextd complete -m FILE -p TEXT      one completion, without a server\n"
                "  nextd tokenize [--ids] -m FILE      standard input to token ids, as JSON\n"
                "  nextd inspect -m FILE               what the file holds\n"
                "  nextd health [options]              asks a running server; exit status 0 when it serves\n"
                "  nextd --help, nextd --version\n\n"
                "Options of serve and health:\n\n");
    options_help(to);
}

static bool main_wants(int argc, char **argv, const char *flag, const char *short_flag)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], flag) == 0 || (short_flag != NULL && strcmp(argv[i], short_flag) == 0))
            return true;
    return false;
}

static int main_serve(int argc, char **argv)
{
    if (main_wants(argc, argv, "--help", "-h")) {
        main_help(stdout);
        return 0;
    }
    struct options opt;
    struct err err = {0};
    if (options_load(argc, argv, environ, &opt, &err) != 0) {
        fprintf(stderr, "nextd serve: %s\n", err.msg);
        return 2;
    }
    int status = serve_run(&opt);
    options_finish(&opt);
    return status;
}

static int main_health(int argc, char **argv)
{
    if (main_wants(argc, argv, "--help", "-h")) {
        main_help(stdout);
        return 0;
    }
    return cmd_health(argc, argv);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"serve", main_serve}, {"complete", cmd_complete}, {"tokenize", cmd_tokenize}, {"inspect", cmd_inspect}, {"health", main_health},
    };
    if (argc < 2) {
        main_help(stderr);
        return 2;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0) {
        printf("nextd %s\n", NEXTD_VERSION);
        return 0;
    }
    bool help = strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0;
    if (!help)
        fprintf(stderr, "nextd: unknown command '%.60s'\n\n", argv[1]);
    main_help(help ? stdout : stderr);
    return help ? 0 : 2;
}
