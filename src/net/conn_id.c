/* conn_id.c - names for connections: when their worker started, which it is, and a count.
 *
 * The stamp makes the count of a worker that is respawned, or of a host that is started again, another one;
 * as long as the clock isn't set back. A count that is used up takes a new stamp: nobody accepts half a
 * million connections within its unit. */
#include "chatd/clock.h"
#include "internal.h"

enum { WORKER_BITS = 9, COUNT_BITS = 19, STAMP_UNIT_MS = 10, LETTER_BITS = 5 };

#define STAMP_START_MS INT64_C(1767225600000) /* 2026-01-01; 36 bits last to 2047 */

uint64_t conn_id_first(int worker)
{
    uint64_t stamp = (uint64_t)((clock_wall_ms() - STAMP_START_MS) / STAMP_UNIT_MS);

    return (stamp << WORKER_BITS | ((uint64_t)worker & ((1u << WORKER_BITS) - 1))) << COUNT_BITS;
}

uint64_t conn_id_next(uint64_t id)
{
    uint64_t mask = (UINT64_C(1) << COUNT_BITS) - 1;

    if ((id & mask) == mask)
        return conn_id_first((int)(id >> COUNT_BITS & ((1u << WORKER_BITS) - 1)));
    return id + 1;
}

/* Crockford's digits: no i, l, o and u, which are misread or mistaken for a word. */
void conn_id_text(uint64_t id, char text[CONN_ID_SIZE])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

    text[CONN_ID_SIZE - 1] = '\0';
    for (int i = CONN_ID_SIZE - 2; i >= 0; i--, id >>= LETTER_BITS)
        text[i] = digits[id & ((1u << LETTER_BITS) - 1)];
}
