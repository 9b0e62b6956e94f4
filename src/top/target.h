/* target.h - what stands on the command line for a server. */
#ifndef CHATD_TOP_TARGET_H
#define CHATD_TOP_TARGET_H

#include <stdbool.h>

/* `HOST`, `HOST:PORT` (port 5000 when there is none) or an http: or https: address. Fills two strings that
 * the caller frees: what to ask, without a slash at its end, and what to show, which has no user and no
 * password. false: it is none of these. */
bool target_parse(const char *text, char **url, char **label);

#endif
