/* replay.h - what a room's history holds in a range of numbers: window and store merged (rule 7).
 *
 * Answers exactly once; before the call returns when the window alone has it and answers at once, else
 * from the loop. `page` is the newest `limit` messages of (above, upto], ascending, borrowed for the call;
 * `more` is true when there are older ones in the range. With `more` and `pending` false the page is
 * complete: what is missing from it is void, or was deleted if its number is not above `page->gone`.
 * `pending`: something may be missing that is still on its way to the store, though it was waited for. On a
 * status other than STORE_OK (STORE_FAILED also when the bus can't be reached) the page is empty, never
 * NULL. Nobody needs to be a member. Loop thread only. */
#ifndef CHATD_REPLAY_H
#define CHATD_REPLAY_H

#include "chatd/bus.h"
#include "chatd/store.h"

#define REPLAY_NEWEST ((uint64_t)INT64_MAX) /* `upto` for: as new as there is */

typedef void replay_on_page(void *arg, enum store_status status, const struct page *page, bool more,
                            bool pending);

void replay_start(struct bus *bus, struct store *store, struct text room, uint64_t above, uint64_t upto,
                  uint32_t limit, replay_on_page *done, void *arg);

#endif
