/* limit.h - limits that hold for the whole host, in memory shared by all workers.
 *
 * Rates: one token bucket per (kind, name) in GCRA form: a single "theoretical arrival time" that workers
 * move by compare-and-swap, so 4 workers racing for one user's tokens give out exactly as many as one would.
 * A bucket that is full again is forgotten; the table is fixed, and when it has no place left for a name the
 * name is let through (an attacker with a million names is the business of the connection limits).
 *
 * Connections per address: rows of (address, owner, count), summed over the owners. A worker's rows vanish
 * when the master, its successor or any sweep calls limit_forget: a death leaks no count. Guarded by a robust
 * mutex; who dies holding it leaves links that the next one makes anew. When all rows are taken a connection
 * is let through uncounted.
 *
 * Any process and thread may call; nothing here waits for more than a few hundred instructions of another,
 * limit_forget aside, which looks at all rows (about a millisecond for a hundred thousand). */
#ifndef CHATD_LIMIT_H
#define CHATD_LIMIT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chatd/config.h"

struct limit;

enum limit_kind { LIMIT_MESSAGE, LIMIT_TYPING };

/* Mapped by the master before fork. NULL with errno. */
struct limit *limit_map(void);

/* Takes one token. 0 when granted, else the milliseconds until one is there (at least 1). `now_ms` is
 * clock_monotonic_ms; a rate that changed by a reload applies from the next call. */
int64_t limit_take(struct limit *limit, enum limit_kind kind, const char *name, size_t length,
                   struct config_rate rate, int64_t now_ms);

/* What an address is counted as: an IPv4 address (mapped ones too), or the /64 network of an IPv6 one, since
 * one user has 2^64 addresses there to choose from. 0 for anything else, which isn't counted. */
uint64_t limit_address(const struct sockaddr_storage *address);

/* One more connection from there; false when that would pass `max`. `owner` is the worker's process id. max 0
 * is off, but still counts, so that a reload can turn it on. */
bool limit_connect(struct limit *limit, uint64_t address, int32_t owner, int64_t max);
void limit_disconnect(struct limit *limit, uint64_t address, int32_t owner);

/* Drops all rows of a process that is gone. */
void limit_forget(struct limit *limit, int32_t owner);

#endif
