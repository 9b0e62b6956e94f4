/* mongo_schema.h - names of collections and fields, indexes, and messages as documents. Writer's and
 * readers' threads. */
#ifndef CHATD_MONGO_SCHEMA_H
#define CHATD_MONGO_SCHEMA_H

#include <mongoc/mongoc.h>

#include "chatd/message.h"

#define MONGO_MESSAGES "messages"
#define MONGO_ROOMS "rooms"
#define MONGO_USERS "users"
#define MONGO_LEASES "leases"

enum { MONGO_DUPLICATE = 11000 }; /* the server's code for a key that a unique index has already */

/* Makes the indexes that aren't there. Any number of workers may do so at once. */
bool mongo_schema_prepare(mongoc_client_t *client, const char *database, bson_error_t *error)
    __attribute__((warn_unused_result));

/* The message as a document, into an initialised one. False when the server would refuse it: a text isn't
 * UTF-8. */
bool mongo_schema_message(bson_t *document, const struct message *message)
    __attribute__((warn_unused_result));

/* Appends {room, user, key}: what is unique of a message beside its number. An empty key: its uid stands
 * in for it. */
void mongo_schema_key(bson_t *document, struct text room, struct text user, struct text key,
                      const uint8_t *uid);

void mongo_schema_text(bson_t *document, const char *field, struct text text);

/* A reply's list of documents, such as `writeErrors`: at its first element, false when it has none. The
 * others by bson_iter_next. */
bool mongo_schema_list(const bson_t *reply, const char *field, bson_iter_t *at);

/* The document that an element is, valid as long as the reply; false when it is none. */
bool mongo_schema_element(const bson_iter_t *at, bson_t *document);

/* Fields of a row that was read; what is missing or of another type is empty, 0 or false. */
struct text mongo_schema_get_text(const bson_t *row, const char *field);
uint64_t mongo_schema_get_number(const bson_t *row, const char *field);
int64_t mongo_schema_get_date(const bson_t *row, const char *field); /* Unix ms */
bool mongo_schema_is_uid(const bson_t *row, const char *field, const uint8_t *uid);

#endif
