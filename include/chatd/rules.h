/* rules.h - the alerts as rules for Prometheus, from the same table and settings. */
#ifndef CHATD_RULES_H
#define CHATD_RULES_H

#include <stdio.h>

#include "chatd/config.h"

/* A whole rules file. It needs Prometheus 2.42 (keep_firing_for). Alerts that are off are left out. */
void rules_print(const struct config *config, FILE *out);

/* `chatd rules [-c FILE]`: rules_print with these settings and the environment, on standard output. argv[0]
 * stands before getopt's messages. Returns the exit code. */
int rules_main(int argc, char **argv);

#endif
