/* mongo_link.h - one worker's connections to MongoDB, and what is known of how well they work.
 *
 * Connections come from one pool (mongoc's), made by whichever thread asks first: for mongodb+srv that
 * asks the DNS. Three kinds of threads use it; each says how it went, by name of the cause, and a cause
 * is logged once when it comes and once when all is well again: `mongodb_lost`, `mongodb_ready`. Any
 * thread, unless said otherwise. */
#ifndef CHATD_MONGO_LINK_H
#define CHATD_MONGO_LINK_H

#include <mongoc/mongoc.h>

#include "chatd/store_mongo.h"

struct mongo_link;

enum mongo_role { MONGO_WRITER, MONGO_READER, MONGO_NOTES, MONGO_ROLES };

/* A reader's failure counts so long at most while others work: it may be that nobody reads any more. */
enum { MONGO_LINK_FORGET_MS = 30000 };

enum mongo_state { MONGO_UNKNOWN, MONGO_READY, MONGO_LOST };

/* Domain of errors that this store gives itself (mongo_error_set), beside mongoc's. */
enum { MONGO_ERROR_DOMAIN = 0x63686174 };
enum mongo_error { MONGO_ERROR_MAJORITY = 1, MONGO_ERROR_LEASE, MONGO_ERROR_INDEX, MONGO_ERROR_URI };

/* Connects to nobody. The URI was checked (store_mongo_check). Negative errno. */
int mongo_link_new(struct mongo_link **link, const struct config *config) __attribute__((warn_unused_result));
void mongo_link_free(struct mongo_link *link); /* all clients are back */

const char *mongo_link_database(const struct mongo_link *link);

/* A client for this thread alone, until it is pushed back; a server is looked for when it is used. NULL
 * with the reason when there is no pool yet. May wait for the DNS and, when all are in use, for one to
 * come back. */
mongoc_client_t *mongo_link_pop(struct mongo_link *link, bson_error_t *error)
    __attribute__((warn_unused_result));
void mongo_link_push(struct mongo_link *link, mongoc_client_t *client); /* NULL is allowed */

/* How it went what that role began at `start_ms` (monotonic). The server is there for all when it is for
 * one; so a failure to reach it counts no more once something worked that was begun later, whichever is
 * told first. */
void mongo_link_works(struct mongo_link *link, enum mongo_role role, int64_t start_ms);
void mongo_link_failed(struct mongo_link *link, enum mongo_role role, int64_t start_ms,
                       const bson_error_t *error);

/* Whether anything is known, and if all works. */
enum mongo_state mongo_link_state(struct mongo_link *link);

/* ok, since_ms and error of `health`; not known is not ok. */
void mongo_link_health(struct mongo_link *link, struct store_health *health);

/* The cause by its name: server_selection, auth, unauthorized, not_primary, network, write_concern,
 * timeout, index, lease, server or client. */
const char *mongo_error_cause(const bson_error_t *error);
void mongo_error_text(const bson_error_t *error, char *text,
                      size_t size); /* "cause: message", as far as it fits */
void mongo_error_set(bson_error_t *error, enum mongo_error code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
