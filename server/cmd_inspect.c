/* cmd_inspect.c: `nextd inspect`, what a model file holds: its SHA-256, whether nextd serves it, metadata, end tokens, tensors. One fact a line,
 * "section<TAB>name<TAB>value", so that grep and cut do the rest. */
#include "server/cmd.h"

#include <getopt.h>
#include <stdio.h>

#include "engine/engine.h"

static void print_fact(void *arg, const char *section, const char *name, const char *value)
{
    fprintf(arg, "%s\t%s\t%s\n", section, name, value);
}

int cmd_inspect(int argc, char **argv)
{
    static const struct option long_options[] = {{"model", required_argument, NULL, 'm'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    const char *model = NULL;
    for (int opt; (opt = getopt_long(argc, argv, "m:h", long_options, NULL)) != -1;) {
        if (opt == 'h') {
            puts("usage: nextd inspect -m FILE");
            return 0;
        }
        if (opt != 'm')
            return 2;
        model = optarg;
    }
    if (model == NULL || optind != argc) {
        fputs("usage: nextd inspect -m FILE\n", stderr);
        return 2;
    }
    struct err err = {0};
    if (engine_inspect(model, print_fact, stdout, &err) != 0) {
        fprintf(stderr, "nextd inspect: %s\n", err.msg);
        return 1;
    }
    return 0;
}
