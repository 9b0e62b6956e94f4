/* replay.h - what a room's history holds in a range of numbers: window and store merged (rule 7).
 *
 * Answers exactly once; before the call returns when the window alone has it, else from the loop. `page`
 * is the newest `limit` messages of (above, upto], ascending, borrowed for the call; `more` is true when
 * there are older ones in the range, so with `more` false the page is complete: what is missing from it is
 * void. On a status other than STORE_OK the page is empty, never NULL. Nobody needs to be a member. Loop
 * thread only. */
#ifndef CHATD_REPLAY_H
#define CHATD_REPLAY_H

#include "chatd/bus.h"
#include "chatd/store.h"

#define REPLAY_NEWEST ((uint64_t)INT64_MAX) /* `upto` for: as new as there is */

void replay_start(struct bus *bus, struct store *store, struct text room, uint64_t above, uint64_t upto,
                  uint32_t limit, store_on_page *done, void *arg);

#endif
