/* top.h - `chatd top`: a live view of running servers.
 *
 * A client of their HTTP interface and of nothing else: /metrics, /health and /alerts. It runs anywhere, and
 * needs no settings. */
#ifndef CHATD_TOP_H
#define CHATD_TOP_H

/* Runs the subcommand; argv[0] is what messages begin with. Returns the exit code: 0, 1 when a server did not
 * answer in the last sheet that was printed or the terminal can't be used, 2 for wrong usage. */
int top_main(int argc, char **argv);

#endif
