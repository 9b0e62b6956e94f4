/* mongo_uri.h - the URI of the settings, checked, and made what this store needs.
 *
 * Whatever it says: write concern majority with the journal, read concern majority, reads from the
 * primary, the pool's size by mongodb_pool_size. What it doesn't say is set here: timeouts, the name of
 * this program. */
#ifndef CHATD_MONGO_URI_H
#define CHATD_MONGO_URI_H

#include <mongoc/mongoc.h>

#include "chatd/store_mongo.h"

enum {
    /* To find a primary, unless the URI says otherwise; likewise the next two. */
    MONGO_URI_SELECTION_MS = 2000,
    MONGO_URI_CONNECT_MS = 2000,
    MONGO_URI_SOCKET_MS = 5000,
    /* To have a majority; less than the socket's, so that it is called by its name. */
    MONGO_URI_WRITE_MS = 4000,
};

/* NULL with the reason, without secrets, in `error`. Any thread. */
mongoc_uri_t *mongo_uri_new(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
    __attribute__((warn_unused_result));

const char *mongo_uri_database(const mongoc_uri_t *uri);

/* One worker's part of mongodb_pool_size: one connection for the writer, the others for those who read. */
unsigned mongo_uri_pool_size(const struct config *config);

#endif
