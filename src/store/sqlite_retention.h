/* sqlite_retention.h - deletes from chat.db what is past its time, a small transaction at a time.
 *
 * The writer's thread, as the holder of the office, between its commits; on a connection of its own. A step
 * that was cut off by a crash is done again by the next run: nothing depends on a run getting to its end.
 *
 * A room's row stays when its messages go: its highest number is never forgotten. A room that is deleted
 * stays as a row that no list shows (`active` 0). */
#ifndef CHATD_SQLITE_RETENTION_H
#define CHATD_SQLITE_RETENTION_H

#include "chatd/config.h"
#include "chatd/ring.h"

struct sqlite_retention;

/* Opens nothing yet: the first step of a run does. `config` and `ring` stay the caller's. */
struct sqlite_retention *sqlite_retention_new(const struct config *config, struct ring *ring,
                                              const char *data_dir);
void sqlite_retention_free(struct sqlite_retention *retention); /* NULL is allowed */

/* Does one step if one is due. How many milliseconds from now the next one is. */
int sqlite_retention_step(struct sqlite_retention *retention);

#endif
