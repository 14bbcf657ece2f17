/* cmd.h: the subcommands of the one binary. Each takes its own arguments (argv[0] is its name), writes results to stdout and troubles to stderr, and
 * returns the exit status: 0 done, 1 it did not work, 2 the command line is wrong. Main thread. */
#ifndef NEXTD_CMD_H
#define NEXTD_CMD_H

int cmd_complete(int argc, char **argv); /* text to text, without a server */
int cmd_health(int argc, char **argv);   /* asks a running server whether it serves */
int cmd_inspect(int argc, char **argv);  /* what a model file holds */
int cmd_tokenize(int argc, char **argv); /* stdin to token ids */

#endif
